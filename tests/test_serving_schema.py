"""What OpenAPI tells of the server is true of whatever is sent to it."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs serpipe[serve]")
pytest.importorskip("schemathesis", reason="needs schemathesis, which makes the requests")

# what is imported from here on needs the extra
from .server import SmallModel, noise, running, wav

_TOKEN = "a-token-of-these-tests-alone"
#: Half of what is sent as audio is audio.
_HOOKS = """
import pathlib, schemathesis
from hypothesis import strategies
audio = pathlib.Path(__file__).with_name("clip.wav").read_bytes()
schemathesis.openapi.format("binary", strategies.just(audio) | strategies.binary())
"""


def test_whatever_is_sent_the_answer_is_as_described(
    fitted_once: Path, small_encoder: Path, tmp_path: Path
) -> None:
    """Valid and invalid requests by schemathesis: status, type, headers and schema of answers."""
    (tmp_path / "hooks.py").write_text(_HOOKS)
    (tmp_path / "clip.wav").write_bytes(wav(noise(0.5)))
    bundle = next(fitted_once.glob("artifacts/runs/*/bundles/lr"))
    with running(SmallModel(bundle, small_encoder), token=_TOKEN) as client:
        right = f"Authorization: Bearer {_TOKEN}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("run", f"{client.base_url}/openapi.json", "--header", right),
                # Not that what is valid is taken: few bytes are audio, and a hop needs a window.
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *("--phases", "coverage,fuzzing", "--generation-deterministic"),
                # Few strings can be headers: many are made for each that is sent.
                *("--suppress-health-check", "filter_too_much"),
                *("--max-examples", "20", "--request-timeout", "60", "--no-color"),
            ],
            cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (requests,) = client.service.metrics.requests.collect()
    answered: Counter[tuple[str, int]] = Counter()
    for each in requests.samples:
        answered[each.labels["path"], int(each.labels["status"])] += int(each.value)
    for path in ("/recognize", "/invocations"):
        assert all(answered[path, status] for status in (200, 401, 405, 415, 422)), answered
    assert sum(answered.values()) > 150
