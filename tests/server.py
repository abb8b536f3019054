"""A real server in a thread, on a small model; what tests send to it and check."""

import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from serpipe.artifacts.models.predictors import ClipScores
from serpipe.artifacts.models.saved_model import load_model
from serpipe.features.audio import Waveform
from serpipe.serving.answers import AnswerLog
from serpipe.serving.app import Service, make_app
from serpipe.serving.options import ServeOptions
from serpipe.serving.server import configure, listen

from .processes import Forked

RATE = 16000


class SmallModel:
    """A real model on a small random encoder, which counts its batches and can be held up."""

    def __init__(self, bundle: Path, encoder: Path | None = None) -> None:
        self.real = load_model(bundle, encoder=encoder)
        self.batches: list[int] = []
        #: Closed, the model waits: a batch that takes long, without sleeping.
        self.may_run = threading.Event()
        self.may_run.set()

    def change(self, **changes: Any) -> None:
        """Change what hears."""
        self.real = replace(self.real, predictor=replace(self.real.predictor, **changes))

    def count_scored(self) -> list[int]:
        """Return a list to which the number of pieces is appended whenever some are scored."""
        scored: list[int] = []
        score = self.real.predictor.score

        def counting(pieces: Sequence[Waveform]) -> list[ClipScores]:
            scored.append(len(pieces))
            return score(pieces)

        self.change(score=counting)
        return scored

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def score(self, pieces: Sequence[Waveform]) -> list[ClipScores | None]:
        assert self.may_run.wait(60)
        self.batches.append(len(pieces))
        return self.real.score(pieces)


@contextmanager
def running(model: Any, log: AnswerLog | None = None, **changes: Any) -> Iterator[Any]:
    """A real uvicorn on loopback, in a thread; a client of it."""
    options = ServeOptions(**{"decoders": 2, "timeout": 60.0, **changes})
    service = Service(model, options, log)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(configure(make_app(service), options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=address, timeout=90, trust_env=False) as client:
            client.service = service  # type: ignore[attr-defined]
            yield client
    finally:
        model.may_run.set()
        server.should_exit = True
        thread.join(90)
        assert not thread.is_alive()


def recognize(client: Any, content: bytes, name: str = "clip.flac", **more: Any) -> Any:
    return client.post("/recognize", files={"audio": (name, content)}, **more)


def check_refusal(answer: Any, *statuses: int) -> str:
    """A refusal is one of some statuses with one sentence; return that."""
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    content = answer.json()
    assert list(content) == ["detail"]
    sentence: str = content["detail"]
    assert sentence[0].isupper() and sentence.endswith("."), sentence
    assert "\n" not in sentence and "Traceback" not in sentence and len(sentence) < 400
    return sentence


def wav(
    samples: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    channels = samples.shape[1] if samples.ndim > 1 else 1
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=format) as audio:
        for start in range(0, len(samples), 1 << 16):  # libsndfile crashes on long Vorbis at once
            audio.write(samples[start : start + (1 << 16)])
    return file.getvalue()


def noise(seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(int(RATE * seconds))


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def address_of(stderr: Iterable[str]) -> str:
    """Wait until a server prints where it listens."""
    lines = []
    for line in stderr:
        lines.append(line)
        if match := re.search(r"http://[\d.]+:(\d+)", line):
            return f"http://127.0.0.1:{match[1]}"
    pytest.fail("".join(lines))


@contextmanager
def command(
    cwd: Path, *arguments: object, files: int | None = None
) -> Iterator[tuple[Forked, TextIO, Any]]:
    """`serpipe serve` as a process, with a limit on open files; its standard error; a client."""
    with TemporaryDirectory() as folder:
        pipe = Path(folder) / "stderr"
        os.mkfifo(pipe)
        server = Forked("serpipe", "serve", "--port", 0, "--device", "cpu", *arguments,
                        cwd=cwd, err=pipe, files=files)  # fmt: skip
        try:
            with (
                pipe.open() as stderr,
                httpx.Client(base_url=address_of(stderr), timeout=90, trust_env=False) as client,
            ):
                yield server, stderr, client
        finally:
            server.kill()
            server.wait()
