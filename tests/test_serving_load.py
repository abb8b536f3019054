"""Five hundred at once, on a real server: nothing is lost or mixed up, and memory stays."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs serpipe[serve]")
parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client")

# ruff: noqa: E402  # what is imported from here on needs the extra
from serpipe.artifacts.models.saved_model import load_model
from serpipe.features.audio import read_waveform

from .server import RATE, command, wav

AT_ONCE = 500
#: How much more the server and its decoders may hold after a later round than after the first.
MARGIN = 32 << 20


def test_five_hundred_at_once_are_answered_as_if_alone_and_memory_stays(
    tmp_path: Path, fitted_once: Path, small_encoder: Path, sample: Path
) -> None:
    bundle = next(fitted_once.glob("artifacts/runs/*/bundles/lr"))
    model = load_model(bundle, encoder=small_encoder)
    # Half a second of a clip of each of 24 people.
    contents, predictions = [], []
    for n in range(1, 25):
        clip = sorted((sample / f"Actor_{n:02d}").glob("*.flac"))[n % 8]
        contents.append(wav(read_waveform(clip, RATE)[0][RATE : RATE + RATE // 2 + 40 * n]))
        file = tmp_path / f"{n}.wav"
        file.write_bytes(contents[-1])
        predictions.append(model.predict(file))
    assert len({json.dumps(prediction.scores) for prediction in predictions}) == 24
    options = ("--model", bundle, "--encoder", small_encoder, "--queue", AT_ONCE,
               "--max-wait", 600)  # fmt: skip
    with command(tmp_path, *options) as (server, _, client):
        held = []
        for _ in range(2):
            answers = asyncio.run(_ask_at_once(client, contents))
            for n, answer in enumerate(answers):
                assert answer["source"] == f"{n}.wav"
                assert answer["label"] == predictions[n % 24].label
                assert answer["scores"] == predictions[n % 24].scores  # bit for bit
            held.append(_memory(server.pid))
        print([h >> 20 for h in held])
        assert max(held[1:]) < held[0] + MARGIN, held
        counts = _metrics(client)
        assert counts["serpipe_requests_total", "/recognize", "200"] == 2 * AT_ONCE
        assert counts["serpipe_clips_total",] == counts["serpipe_windows_total",] == 2 * AT_ONCE
        assert counts["serpipe_request_seconds_count",] == 2 * AT_ONCE
        assert counts["serpipe_in_work",] == counts["serpipe_waiting",] == 0


async def _ask_at_once(client: Any, contents: list[bytes]) -> list[dict[str, Any]]:
    """All but the last byte of each request; when all are in work, the last ones."""
    there = client.base_url.host, client.base_url.port
    requests = [_request(n, contents[n % len(contents)]) for n in range(AT_ONCE)]
    streams = []
    for request in requests:
        streams.append(await asyncio.open_connection(*there))
        streams[-1][1].write(request[:-1])
    while _metrics(client)["serpipe_in_work",] < AT_ONCE:
        await asyncio.sleep(0.1)
    for (_, writer), request in zip(streams, requests, strict=True):
        writer.write(request[-1:])
    whole = [await reader.read() for reader, _ in streams]
    for _, writer in streams:
        writer.close()
    assert {answer.partition(b"\r\n")[0] for answer in whole} == {b"HTTP/1.1 200 OK"}
    return [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in whole]


def _request(n: int, content: bytes) -> bytes:
    part = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="%d.wav"\r\n\r\n' % n
    body = part + content + b"\r\n--x--\r\n"
    head = (
        b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


def _metrics(client: Any) -> dict[tuple[str, ...], float]:
    """What is counted, by name and labels, as a client of Prometheus reads it."""
    families = list(parser.text_string_to_metric_families(client.get("/metrics").text))
    assert all(family.documentation and family.type != "unknown" for family in families)
    return {(each.name, *each.labels.values()): each.value
            for family in families for each in family.samples}  # fmt: skip


def _memory(pid: int) -> int:
    """Resident bytes of a process and its children."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [pid, *(int(child) for file in children for child in file.read_text().split())]
    status = [Path(f"/proc/{each}/status").read_text() for each in pids]
    return sum(int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) << 10 for text in status)
