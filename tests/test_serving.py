"""The server answers what the model says, refuses all else in a sentence, and loses nothing."""

import asyncio
import contextlib
import csv
import errno
import io
import json
import logging
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs serpipe[serve]")
pytest.importorskip("uvicorn", reason="needs serpipe[serve]")
pytest.importorskip("python_multipart", reason="needs serpipe[serve]")
httpx = pytest.importorskip("httpx", reason="needs httpx, the client of these tests")

# ruff: noqa: E402  # what is imported from here on needs the extra
from serpipe.artifacts.models.prediction import Prediction, csv_columns
from serpipe.artifacts.models.predictors import ClipScores
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, load_model
from serpipe.errors import BadClipError, MachineError, UserError
from serpipe.features.audio import Waveform, decode_waveform, read_waveform
from serpipe.serving.answers import AnswerLog, clean_name
from serpipe.serving.decode import Decoders
from serpipe.serving.logs import OneASecond
from serpipe.serving.options import ServeOptions, check_origins, read_token
from serpipe.serving.queue import Job, ModelQueue
from serpipe.serving.refused import Refused
from serpipe.serving.server import listen

from .chromium import Chromium
from .conftest import Command
from .messages import assert_names, assert_refused, raises_about
from .server import (
    RATE,
    SmallModel,
    check_refusal,
    command,
    noise,
    recognize,
    running,
    wait_until,
    wav,
)

TOKEN = "a-token-of-these-tests-alone"


@pytest.fixture(scope="module")
def bundle(fitted_once: Path) -> Path:
    return next(fitted_once.glob("artifacts/runs/*/bundles/lr"))


@pytest.fixture
def model(bundle: Path, small_encoder: Path) -> SmallModel:
    return SmallModel(bundle, small_encoder)


@pytest.fixture(scope="module")
def clips(sample: Path) -> list[Path]:
    return sorted((sample / "Actor_07").glob("*.flac"))


def test_answers_are_what_the_model_says(model: SmallModel, clips: list[Path]) -> None:
    waveforms = [read_waveform(clip, RATE)[0] for clip in clips]
    predictions = model.predict_batch(waveforms, [clip.name for clip in clips], window=1.0, hop=0.5)
    with running(model) as client:
        for clip, prediction in zip(clips, predictions, strict=True):
            assert isinstance(prediction, Prediction)
            asked = {"window": 1.0, "hop": 0.5}
            answer = recognize(client, clip.read_bytes(), clip.name, params=asked).json()
            assert answer["label"] == prediction.label
            assert answer["scores"] == pytest.approx(dict(prediction.scores), rel=1e-6)
            assert answer["source"] == clip.name
            assert answer["seconds"] == pytest.approx(prediction.seconds, abs=1e-4)
            labels = [each["label"] for each in answer["timeline"]]
            assert labels == [each.label for each in prediction.timeline] and len(labels) > 3
            assert "uar" in answer["model"]["result"]
            assert answer["model"]["probabilities"] == model.card["probabilities"]
            card = client.get("/model").json()["card"]
            assert card["probabilities"] == model.card["probabilities"]
            assert answer["note"]
            rows = list(csv.DictReader(io.StringIO(recognize(
                client, clip.read_bytes(), params=asked | {"format": "csv"}).text)))  # fmt: skip
            assert [row["label"] for row in rows] == [prediction.label, *labels]
            column = f"score_{prediction.label}"
            assert float(rows[0][column]) == answer["scores"][prediction.label]
            assert list(rows[0]) == csv_columns(list(prediction.scores))  # as of serpipe predict
            assert {row["part"] for row in rows[1:]} == {"window"}


def test_strangers_are_not_told_where_the_model_lies(
    model: SmallModel, small_encoder: Path
) -> None:
    model.change(maximum_samples=2 * RATE)
    with running(model) as client:
        content = recognize(client, wav(noise(1))).json()
        assert re.fullmatch(r"ravdess-[\w+-]+/lr", content["model"]["name"])
        pages = [client.get(path).text for path in ("/model", "/openapi.json", "/docs")]
        refused = recognize(client, wav(noise(5)), params="window=3")
        assert_names(check_refusal(refused, 422), "0.025", "2 s")
        for text in (*pages, json.dumps(content), refused.text):
            assert str(small_encoder.parent) not in text


def test_sagemaker_asks_with_the_bytes_alone(model: SmallModel, clips: list[Path]) -> None:
    with running(model) as client:
        content = clips[0].read_bytes()
        form = recognize(client, content).json()
        for kind in ("audio/flac", "application/octet-stream", "Audio/X-Whatever; a=b"):
            answer = client.post("/invocations", content=content, headers={"content-type": kind})
            assert answer.json()["label"] == form["label"]
        table = client.post("/invocations", content=content, headers={"accept": "text/csv"})
        assert table.text.startswith(
            "source,part,start,end,label,trained_on,unlike_training,score_"
        )
        refusal = client.post("/invocations", json={"instances": []})
        check_refusal(refusal, 415)
        # SageMaker passes on no query, but this header.
        with_query = client.post("/invocations", content=content, params="window=1.5&hop=0.5")
        for said in ("window=1.5,hop=0.5", "window=1.5, hop=0.5"):
            asked = {"X-Amzn-SageMaker-Custom-Attributes": said}
            answer = client.post("/invocations", content=content, headers=asked)
            assert answer.json() == with_query.json() and len(answer.json()["timeline"]) > 2
        for said in ("window=0", "window=1,hop=0.0", "hop=1", "window=nan", "trace-1"):
            asked = {"X-Amzn-SageMaker-Custom-Attributes": said}
            answer = client.post("/invocations", content=content, headers=asked)
            assert "window=3,hop=1" in check_refusal(answer, 422)
        assert client.get("/ping").status_code == 200
        assert client.get("/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (b"", ""),
        (b"RIFF", ""),
        (os.urandom(5000), ""),
        (b"version https://git-lfs.github.com/spec/v1\n", ""),
        (wav(noise(1))[:9000], ""),
        (wav(np.zeros(RATE)), ""),
        (wav(np.zeros(0)), ""),
        (wav(np.full(RATE, np.nan), subtype="FLOAT"), ""),
        (wav(noise(0.001)), "25 ms"),
        (wav(noise(31)), "30 s"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ""),
    ],
    ids=["empty", "head", "noise", "pointer", "cut", "silence", "none", "nan", "tick", "long",
         "svg"],
)  # fmt: skip
def test_what_is_no_usable_audio_is_refused_in_a_sentence(
    content: bytes, limit: str, limited: Any
) -> None:
    """The sentence has the problem that the decoder reports, or the limit of the length."""
    problem = limit
    if not limit:
        with pytest.raises(BadClipError) as caught:
            decode_waveform(content, RATE)
        problem = caught.value.parts[1]
    for answer in (recognize(limited, content), limited.post("/invocations", content=content)):
        sentence = check_refusal(answer, 422)
        assert problem in sentence and "/" not in sentence


@pytest.fixture(scope="module")
def limited(bundle: Path, small_encoder: Path) -> Iterator[Any]:
    """A server with small limits."""
    with running(SmallModel(bundle, small_encoder), max_seconds=30.0, max_megabytes=2,
                 max_segments=300) as client:  # fmt: skip
        yield client


def test_a_small_file_that_would_be_hours_is_refused_without_its_memory(limited: Any) -> None:
    hours = np.zeros(RATE * 3600, dtype=np.int16)
    flac = wav(hours, format="FLAC")
    assert len(flac) < 1 << 20
    # The same with a header that does not tell how long it is: 36 bits of the first block.
    unknown = bytearray(flac)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    # And one that tells of a second.
    short = bytearray(unknown)
    short[22:26] = struct.pack(">I", RATE)
    ogg = wav(hours[: RATE * 1200] + 1, format="OGG")
    for content in (flac, bytes(unknown), bytes(short), ogg):
        check_refusal(recognize(limited, content), 422)
    decoders = [each for each in limited.service.decoders._idle.queue if each]
    assert decoders
    for decoder in decoders:  # the most that it ever had: an hour would be 230 MB
        status = Path(f"/proc/{decoder.process.pid}/status").read_text()
        assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 180 << 10


def test_broken_and_changed_files_never_fail_the_server(limited: Any, clips: list[Path]) -> None:
    draw = random.Random(0)
    clip = clips[0].read_bytes()
    sound = noise(1)
    originals = [clip, *(wav(sound, format=kind) for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF"))]
    contents = []
    for original in originals:
        contents += [original[: draw.randrange(len(original))] for _ in range(4)]
        for _ in range(8):
            changed = bytearray(original)
            for _ in range(draw.choice((1, 10, 100))):
                changed[draw.randrange(min(len(changed), draw.choice((64, 10**9))))] = (
                    draw.randrange(256)
                )
            contents.append(bytes(changed))
    contents += [draw.randbytes(draw.randrange(1, 4000)) for _ in range(10)]
    contents += [magic + draw.randbytes(500) for magic in (
        b"fLaC", b"OggS", b"ID3\x04", b"RIFF\xff\xff\xff\xffWAVE", b"\x1aE\xdf\xa3",
        b"\0\0\0\x18ftypM4A ", b"#EXTM3U\nfile:///etc/passwd\n")]  # fmt: skip
    refused = 0
    for content in contents:
        answer = recognize(limited, content)
        if answer.status_code != 200:  # some changes leave audio
            check_refusal(answer, 422)
            refused += 1
    assert refused > len(contents) / 3
    assert recognize(limited, clip).status_code == 200


def test_requests_that_are_no_upload_are_refused_in_a_sentence(limited: Any) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    post = limited.post
    assert "form" in check_refusal(post("/recognize", content=b"abc"), 415)
    assert "form" in check_refusal(post("/recognize", json={"audio": "x"}), 415)
    for charset in ("undefined", "no-such-one"):
        strange = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
        field = b'--x\r\nContent-Disposition: form-data; name="a\xff"\r\n\r\nb\r\n--x--\r\n'
        check_refusal(post("/recognize", content=field, headers=strange), 400, 422)
    no_boundary = {"content-type": "multipart/form-data"}
    check_refusal(post("/recognize", content=b"abc", headers=no_boundary), 400)
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"
    for body in (b"", b"junk", b"--x\r\n", nameless, b"--x\r\n" + b"A" * 200_000):
        check_refusal(post("/recognize", content=body, headers=form), 400, 413, 422)
    assert "'audio'" in check_refusal(post("/recognize", files={"sound": b"x"}), 422)
    missing = {"audio": (None, b"not a file")}
    assert "'audio'" in check_refusal(post("/recognize", files=missing), 422)
    two = [("audio", b"a"), ("audio", b"b")]
    check_refusal(post("/recognize", files=two), 400)
    sound = wav(noise(3))
    for query in ("window=x", "window=0", "window=-1", "window=nan", "window=inf", "hop=1",
                  "window=1&hop=0.001", "window=1e-300", "window=1e308", "window=1&hop=1.5",
                  "window=601", "format=xml"):  # fmt: skip
        sentence = check_refusal(recognize(limited, sound, params=query), 422)
        assert "--" not in sentence  # words of the command line
    far = wav(noise(29))
    assert "windows" in check_refusal(recognize(limited, far, params="window=0.06&hop=0.05"), 422)
    check_refusal(limited.get("/recognize"), 405)
    check_refusal(post("/recognize/", files={"audio": sound}), 404)
    check_refusal(limited.get("/page/../app.py"), 404)
    check_refusal(limited.get("/page/%2e%2e/app.py"), 404)
    check_refusal(limited.get("/ping", headers={"host": "evil.example"}), 403)
    # A page elsewhere that has its visitor's browser post a form here; a link to the page is fine.
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        headers = {"sec-fetch-site": site}
        assert recognize(limited, sound, headers=headers).status_code == status
        assert limited.get("/", headers=headers).status_code == 200


def test_too_many_bytes_are_refused_before_they_are_read(limited: Any) -> None:
    large = bytes(3 << 20)
    assert "2 MiB" in check_refusal(recognize(limited, large), 413)
    check_refusal(limited.post("/invocations", content=large), 413)

    def endless() -> Iterator[bytes]:
        for _ in range(48):  # chunked: no length is told beforehand
            yield bytes(1 << 16)

    check_refusal(limited.post("/invocations", content=endless()), 413)
    # A length alone, and no body at all: an answer means that nobody waited for it.
    with socket.create_connection((limited.base_url.host, limited.base_url.port), 20) as raw:
        raw.sendall(b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999"
                    b"\r\n\r\n")  # fmt: skip
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_an_upload_that_stalls_is_given_up(model: SmallModel) -> None:
    with (
        running(model, upload_timeout=0.3) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), 20) as raw,
    ):
        raw.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nab"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_never_says_what_it_wants_is_ended(model: SmallModel) -> None:
    with running(model, upload_timeout=0.3) as client:
        there = (client.base_url.host, client.base_url.port)
        for said in (b"", b"GET / HTT", b"GET /ping HTTP/1.1\r\nHost: localhost\r\n"):
            with socket.create_connection(there, 20) as raw:
                raw.sendall(said)
                assert raw.recv(100) == b""
        # One whose body was refused may not keep the connection by sending it for ever.
        with socket.create_connection(there, 20) as raw, pytest.raises(ConnectionError):
            raw.sendall(b"POST /recognize HTTP/1.1\r\nHost: localhost\r\n"
                        b"Content-Length: 9999999999\r\n\r\n")  # fmt: skip
            assert raw.recv(100).startswith(b"HTTP/1.1 415 ")
            for _ in range(400):
                raw.sendall(b"a")
                time.sleep(0.05)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.close()


def test_who_hangs_up_frees_the_place_and_the_model(model: SmallModel) -> None:
    scored = model.count_scored()
    content = wav(noise(3))
    with running(model, queue=1) as client:
        recognize(client, content)
        wait_until(lambda: client.service.queue.busy_seconds == 0)
        model.may_run.clear()
        scored.clear()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            raw.sendall(b"POST /invocations?window=0.1 HTTP/1.1\r\nHost: localhost\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(content) + content)  # fmt: skip
            wait_until(lambda: client.service.queue.busy_seconds > 0)
            check_refusal(recognize(client, content), 429)
        wait_until(lambda: client.service.in_progress == 0)  # though the model is still held up
        model.may_run.set()
        wait_until(lambda: client.service.queue.busy_seconds == 0)
        assert sum(scored) <= client.service.queue.lanes  # of 30 windows, those it was at
        assert recognize(client, content).status_code == 200
        assert 'serpipe_requests_total{path="/invocations",status="499"} 1' in client.get(
            "/metrics"
        ).text  # fmt: skip


def test_a_timeline_alone_is_scored_by_all_threads(model: SmallModel) -> None:
    """Two windows are scored at the same time, or each would wait for the other in vain."""
    together = threading.Barrier(2)
    score = model.real.predictor.score

    def meeting(pieces: Sequence[Waveform]) -> list[ClipScores]:
        together.wait(30)
        return score(pieces)

    model.change(lanes=2, score=meeting)
    queue = ModelQueue(model.real, 8, 120.0, lambda *_: None)
    job = Job(model.cut(noise(1).astype(np.float32), "array", window=0.25))
    queue.put(job)
    assert len(job.answer.result(60).timeline) == 4
    queue.close(60)


def test_a_job_that_fails_in_two_threads_at_once_ends_neither(model: SmallModel) -> None:
    together = threading.Barrier(2)

    def failing(pieces: Sequence[Waveform]) -> list[ClipScores]:
        together.wait(30)
        raise MachineError("memory is short")

    model.change(lanes=2, score=failing)
    queue = ModelQueue(model.real, 8, 120.0, lambda *_: None)
    for _ in range(20):
        job = Job(model.cut(noise(1).astype(np.float32), "array", window=0.5))
        queue.put(job)
        with pytest.raises(MachineError):
            job.answer.result(60)
    assert queue.is_alive
    queue.close(60)


def test_a_long_timeline_takes_turns_with_other_requests(model: SmallModel) -> None:
    model.change(lanes=1)
    order: list[int] = []
    score = model.real.predictor.score

    def recording_lengths(pieces: Sequence[Waveform]) -> list[ClipScores]:
        order.extend(len(piece) for piece in pieces)
        return score(pieces)

    sound = noise(4).astype(np.float32)
    expected = [
        model.predict_batch([sound[:n]], ["array"], window=w)[0]
        for n, w in ((4 * RATE, 0.1), (RATE, None), (2 * RATE, 0.5))
    ]
    model.change(score=recording_lengths)
    queue = ModelQueue(model.real, 8, 120.0, lambda *_: None)
    jobs = [Job(model.cut(sound, "array", window=0.1)), Job(model.cut(sound[:RATE], "array")),
            Job(model.cut(sound[: 2 * RATE], "array", window=0.5))]  # fmt: skip
    for job in jobs:
        queue.put(job)
    assert [job.answer.result(60) for job in jobs] == expected  # to the bit
    assert len(order) == 40 + 1 + 4
    assert set(order[-30:]) == {1600}  # the short ones were done long before the long one
    gone = Job(model.cut(sound, "array", window=0.1))
    gone.given_up.set()
    queue.put(gone)
    queue.close(60)
    assert len(order) == 45 and not queue.is_alive


def test_scores_of_a_timeline_are_those_of_predict_whoever_else_asks(model: SmallModel) -> None:
    sounds = [noise(seconds) for seconds in (3.0, 1.0, 1.7, 2.2)]
    contents = [wav(sound) for sound in sounds]
    with running(model) as client, ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(recognize, client, each, params="window=0.7&hop=0.1")
                 for each in contents]  # fmt: skip
        timelines = [each.result().json() for each in asked]
    for content, answer in zip(contents, timelines, strict=True):
        waveform, hash_ = model.decode(content, Path("clip.flac"))
        (alone,) = model.predict_batch(
            [waveform], ["clip.flac"], audio_sha256=[hash_], window=0.7, hop=0.1
        )
        assert isinstance(alone, Prediction)
        assert answer["scores"] == alone.scores and answer["label"] == alone.label
        assert [each["scores"] for each in answer["timeline"]] == [
            each.scores for each in alone.timeline
        ]


def test_channels_become_one_as_the_model_was_fitted(model: SmallModel, tmp_path: Path) -> None:
    both = np.stack([noise(2), np.random.default_rng(1).standard_normal(2 * RATE) / 9], axis=1)
    file = tmp_path / "stereo.wav"
    file.write_bytes(wav(both))
    model.change(channels="left")
    with running(model) as client:
        answer = recognize(client, file.read_bytes()).json()
    assert answer["scores"] == model.predict(file).scores


def test_memory_that_does_not_suffice_is_told_and_passes(model: SmallModel) -> None:
    score = model.predictor.score

    def short_of_memory(pieces: Sequence[Waveform]) -> list[ClipScores]:
        if any(len(piece) > 3 * RATE for piece in pieces):
            raise MemoryError
        scored: list[ClipScores] = score(pieces)
        return scored

    model.change(score=short_of_memory)
    with running(model) as client:
        answer = recognize(client, wav(noise(4)))
        assert "memory" in check_refusal(answer, 503) and answer.headers["retry-after"]
        assert recognize(client, wav(noise(2))).status_code == 200


def test_only_those_with_the_token_are_heard(model: SmallModel, clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    with running(model, token=TOKEN) as client:
        for header in (None, "", TOKEN, "Bearer", "Bearer wrong", "Basic " + TOKEN, "Bearer é"):
            headers = {} if header is None else {"authorization": header.encode()}
            answer = recognize(client, content, headers=headers)
            check_refusal(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/model"):
            check_refusal(client.get(path), 401)
        check_refusal(client.post("/invocations", content=content), 401)
        for path in ("/", "/page/app.js", "/ping", "/healthz"):  # these tell nothing
            assert client.get(path).status_code == 200
        assert not model.batches
        right = {"authorization": f"Bearer {TOKEN}"}
        assert recognize(client, content, headers=right).status_code == 200


def test_the_token_is_read_from_where_it_is_and_must_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERPIPE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("SERPIPE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    file = tmp_path / "token"
    for content in ("", "short", "with spaces between its words", "é" * 20):
        file.write_text(content)
        with raises_about(UserError, "--token-file"):
            read_token(file)
    file.write_text("x" * 32 + "\n")
    assert read_token(file) == "x" * 32
    with raises_about(UserError, tmp_path / "absent"):
        read_token(tmp_path / "absent")


def test_a_full_queue_says_when_to_come_back_and_loses_nobody(
    model: SmallModel, clips: list[Path]
) -> None:
    content = clips[0].read_bytes()
    with running(model, queue=3) as client, ThreadPoolExecutor(3) as threads:
        model.may_run.clear()
        waiting = [threads.submit(recognize, client, content) for _ in range(3)]
        wait_until(lambda: client.service.in_progress == 3)
        answer = recognize(client, content)
        check_refusal(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.get("/ping").status_code == 200  # busy is not ill
        model.may_run.set()
        assert [each.result().status_code for each in waiting] == [200] * 3
        assert recognize(client, content).status_code == 200


def test_who_waits_too_long_is_told_so_and_not_heard(model: SmallModel, clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    model.change(lanes=1)
    with running(model, timeout=2.0) as client, ThreadPoolExecutor(1) as threads:
        recognize(client, content)  # decoders have started
        wait_until(lambda: client.service.queue.busy_seconds == 0)
        model.batches.clear()
        model.may_run.clear()
        first = threads.submit(recognize, client, content)
        wait_until(lambda: client.service.queue.busy_seconds > 0)
        turn_never_came = recognize(client, content)
        check_refusal(turn_never_came, 503)
        assert "retry-after" in turn_never_came.headers
        check_refusal(first.result(), 504)
        wait_until(lambda: client.service.queue.busy_seconds > 6)
        assert client.get("/ping").status_code == 503  # three limits long: it hangs
        model.may_run.set()
        wait_until(lambda: client.service.queue.busy_seconds == 0)
        assert client.get("/ping").status_code == 200
        assert recognize(client, content).status_code == 200
        assert model.batches == [1, 1]  # that which nobody waited for was not heard


def test_many_at_once_each_get_their_own_answer(model: SmallModel, clips: list[Path]) -> None:
    sounds = [wav(read_waveform(clip, RATE)[0][8000 : 16000 + 800 * i])
              for i, clip in enumerate(clips)]  # fmt: skip
    model.change(lanes=0)  # as on a GPU: one thread and batches
    with running(model, queue=200) as client:
        alone = [recognize(client, sound).json() for sound in sounds]
        model.batches.clear()

        async def ask_all() -> list[Any]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=client.base_url, timeout=120, limits=limits,
                                         trust_env=False) as many:  # fmt: skip
                return await asyncio.gather(*(
                    many.post("/recognize", files={"audio": (f"{n}.wav", sounds[n % 8])})
                    for n in range(100)))  # fmt: skip

        answers = asyncio.run(ask_all())
        assert [answer.status_code for answer in answers] == [200] * 100
        for n, answer in enumerate(answers):
            assert answer.json() | {"source": ""} == alone[n % 8] | {"source": ""}
            assert answer.json()["source"] == f"{n}.wav"
        assert sum(model.batches) == 100 and 1 < max(model.batches) <= 8
        counted = client.get("/metrics").text
        assert 'serpipe_requests_total{path="/recognize",status="200"} 108.0\n' in counted
        assert "serpipe_clips_total 108" in counted and "serpipe_waiting 0" in counted
        assert len({len(line.split(" ")) for line in counted.splitlines() if line[0] != "#"}) == 1


def test_one_bad_clip_does_not_spoil_the_batch(model: SmallModel, clips: list[Path]) -> None:
    model.change(lanes=0)
    with running(model) as client, ThreadPoolExecutor(4) as threads:
        model.may_run.clear()
        first = threads.submit(recognize, client, clips[0].read_bytes())
        wait_until(lambda: client.service.queue.busy_seconds > 0)
        contents = [wav(noise(1)), wav(noise(0.02)), wav(noise(1.5))]
        asked = [first, *(threads.submit(recognize, client, content) for content in contents)]
        wait_until(lambda: len(client.service.queue) == 2)  # the next batch, without the short one
        model.may_run.set()
        answers = [each.result() for each in asked]
        assert [answer.status_code for answer in answers] == [200, 200, 422, 200]
        assert_names(check_refusal(answers[2], 422), "25 ms")


def test_a_decoder_that_is_killed_hangs_or_eats_memory_ends_alone(clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    decoders = Decoders(RATE, "mean", ServeOptions(decoders=1))
    waveform, audio_sha256 = decoders.decode(content)
    expected, facts = read_waveform(clips[0], RATE)
    np.testing.assert_array_equal(waveform, expected)
    assert audio_sha256 == facts.audio_sha256
    decoder = decoders._idle.queue[0]
    assert decoder is not None
    decoder.process.kill()  # as the kernel does when memory is short
    decoder.process.wait()
    np.testing.assert_array_equal(decoders.decode(content)[0], waveform)
    decoder = decoders._idle.queue[0]
    assert decoder is not None
    limits = Path(f"/proc/{decoder.process.pid}/limits").read_text()
    assert re.search(r"Max file size +0 +0", limits)
    assert re.search(r"Max address space +\d+ +\d+", limits)
    environment = Path(f"/proc/{decoder.process.pid}/environ").read_bytes()
    assert b"SERPIPE_TOKEN" not in environment and b"HOME=" not in environment
    decoders.close()
    slow = Decoders(RATE, "mean", ServeOptions(decoders=1, decode_timeout=1.0))
    slow.decode(content)
    decoder = slow._idle.queue[0]
    assert decoder is not None
    os.kill(decoder.process.pid, signal.SIGSTOP)
    with raises_about(Refused, "1 s"):
        slow.decode(content)
    np.testing.assert_array_equal(slow.decode(content)[0], waveform)
    slow.close()
    small = Decoders(RATE, "mean", ServeOptions(decoders=1, decode_bytes=30 << 20, max_seconds=600))
    wide = wav(np.tile(noise(100)[:, None], (1, 8)).astype(np.float32), format="FLAC")
    with pytest.raises(Refused):
        small.decode(wide)
    np.testing.assert_array_equal(small.decode(content)[0], waveform)
    small.close()


def test_the_log_holds_answers_and_neither_audio_nor_names(
    model: SmallModel, clips: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    names = ["Jane Doe.flac", "../../etc/passwd", "a\nb", "C:\\secret\\x.wav", "<script>"]
    with running(model, log=AnswerLog(file)) as client:
        answers = [recognize(client, clips[0].read_bytes(), name).json() for name in names]
        recognize(client, b"no audio")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["label"] for line in lines] == [answer["label"] for answer in answers]
    assert set(lines[0]) == {"time", "sha256", "seconds", "label", "scores", "timeline", "model"}
    assert not re.search("Jane|passwd|secret|script", file.read_text())
    assert file.stat().st_mode & 0o077 == 0
    sources = [answer["source"] for answer in answers]
    assert sources[:2] == ["Jane Doe.flac", "passwd"] and sources[3] == "x.wav"
    assert all(re.fullmatch(r"[\w .()-]+", name) for name in sources)
    with raises_about(UserError, "--log"):
        AnswerLog(tmp_path / "absent" / "x.jsonl")


def test_a_decoder_that_is_killed_at_work_costs_the_clip_nothing(clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    decoders = Decoders(RATE, "mean", ServeOptions(decoders=1))
    waveform, _ = decoders.decode(content)
    decoder = decoders._idle.queue[0]
    assert decoder is not None
    os.kill(decoder.process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(decoders.decode, content)
        wait_until(decoders._idle.empty)
        decoder.process.kill()  # as the kernel does when memory is short
        np.testing.assert_array_equal(asked.result()[0], waveform)
        # One that is killed whenever it is started is still no fault of the clip.
        decoder = decoders._idle.queue[0]
        assert decoder is not None
        decoder.close()
        asked = threads.submit(decoders.decode, content)
        while not asked.done():
            for file in Path("/proc/self/task").glob("*/children"):
                for pid in file.read_text().split():
                    with contextlib.suppress(OSError):
                        if b"serpipe.serving.decode" in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(int(pid), signal.SIGKILL)
        with pytest.raises(Refused) as refused:
            asked.result()
    assert refused.value.status == 503 and refused.value.headers["Retry-After"]
    np.testing.assert_array_equal(decoders.decode(content)[0], waveform)
    decoders.close()


def test_pages_of_other_sites_run_nothing_on_any_address(model: SmallModel) -> None:
    content = wav(noise(1))
    allowed = "https://voices.example.org"
    # As beyond loopback, where any name is taken.
    with running(model, host="0.0.0.0", allow_origin=(allowed,)) as client:
        own = str(client.base_url).rstrip("/")
        foreign = ("http://evil.example", "null", "", f"{own}.evil.example", f"{own}@evil.example",
                   f"{own}/", own.partition("//")[2], f"{own[:-1]}", "http://127.0.0.1",
                   f"file://{own.partition('//')[2]}", f"{own}, http://evil.example",
                   f"{allowed}:443", f"{allowed}.evil.example",
                   "http://voices.example.org")  # fmt: skip
        for origin in foreign:
            headers = {"origin": origin}
            check_refusal(recognize(client, content, headers=headers), 403)
            check_refusal(client.post("/invocations", content=content, headers=headers), 403)
            assert client.get("/", headers=headers).status_code == 200
        twice = [("origin", own), ("origin", "http://evil.example")]
        check_refusal(client.post("/invocations", content=content, headers=twice), 403)
        claimed = {"origin": own, "sec-fetch-site": "cross-site"}
        check_refusal(recognize(client, content, headers=claimed), 403)
        assert not model.batches
        for headers in ({}, {"origin": own}, {"origin": allowed, "sec-fetch-site": "cross-site"}):
            answer = recognize(client, content, headers=headers)
            assert answer.status_code == 200
            reads = answer.headers.get("access-control-allow-origin")
            assert reads == (allowed if headers.get("origin") == allowed else None)
        # The browser asks before it sends a token.
        asks = {"access-control-request-method": "POST",
                "access-control-request-headers": "authorization"}  # fmt: skip
        for origin, status in ((allowed, 200), ("http://evil.example", 400)):
            answer = client.options("/recognize", headers=asks | {"origin": origin})
            assert answer.status_code == status
            assert ("access-control-allow-origin" in answer.headers) == (status == 200)
    with raises_about(UserError, "--allow-origin", f"{allowed}/page"):
        check_origins([allowed, f"{allowed}/page"])


def test_every_answer_tells_browsers_not_to_guess_its_type(model: SmallModel) -> None:
    with running(model) as client:
        for path in ("/", "/healthz", "/nowhere"):
            assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_those_who_are_refused_are_told_different_times(model: SmallModel) -> None:
    content = wav(noise(1))
    with running(model, queue=1) as client, ThreadPoolExecutor(1) as threads:
        model.may_run.clear()
        first = threads.submit(recognize, client, content)
        wait_until(lambda: client.service.in_progress == 1)
        client.service.metrics.seconds_per_window = 2.0 * client.service.queue.lanes
        retry_after = [int(recognize(client, content).headers["retry-after"]) for _ in range(100)]
        assert all(1 <= seconds <= 120 for seconds in retry_after)
        assert max(retry_after.count(seconds) for seconds in retry_after) <= 3
        model.may_run.set()
        assert first.result().status_code == 200


def test_nobody_is_let_in_to_wait_for_longer_than_the_limit(model: SmallModel) -> None:
    content = wav(noise(1))
    with running(model, max_wait=20.0) as client, ThreadPoolExecutor(1) as threads:
        model.may_run.clear()
        first = threads.submit(recognize, client, content)
        wait_until(lambda: client.service.queue.busy_seconds > 0)
        client.service.metrics.seconds_per_window = 21.0 * client.service.queue.lanes
        answer = recognize(client, content)
        assert "21 s" in check_refusal(answer, 429) and answer.headers["retry-after"]
        model.may_run.set()
        assert first.result().status_code == 200
        assert recognize(client, content).status_code == 200  # alone it waits for nobody


def _begin(client: Any, length: int) -> socket.socket:
    """Say that a body of some bytes follows, and send two of them."""
    raw = socket.create_connection((client.base_url.host, client.base_url.port), 20)
    raw.sendall(b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\nab"
                % length)  # fmt: skip
    return raw


def test_uploads_that_memory_does_not_hold_wait_unread_and_are_told(model: SmallModel) -> None:
    content = wav(noise(1))
    with running(model, work_megabytes=1, max_megabytes=1, max_wait=0.5) as client:
        recognize(client, content)
        with _begin(client, 500_000):
            wait_until(lambda: client.service.budget.used == 1_000_000)
            # A length alone, and no body at all: an answer means that nobody waited for it.
            with _begin(client, 500_000) as second:
                assert second.recv(1000).startswith(b"HTTP/1.1 503 ")
            large = client.post("/invocations", content=content + bytes(500_000))
            assert "memory" in check_refusal(large, 503) and large.headers["retry-after"]
            assert recognize(client, wav(noise(0.2))).status_code == 200  # a small one fits
        wait_until(lambda: client.service.in_progress == 0)
        assert client.service.budget.used == 0
        assert recognize(client, content).status_code == 200
        assert client.post("/invocations", content=content + bytes(500_000)).status_code == 200
        wait_until(lambda: client.service.budget.used == 0)


def test_uploads_that_stall_give_way_when_there_is_no_room(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serpipe.serving.app._STALLED_SECONDS", 0.2)
    content = wav(noise(1))
    with running(model, queue=2) as client, _begin(client, 1000) as a, _begin(client, 1000) as b:
        wait_until(lambda: client.service.in_progress == 2)
        wait_until(lambda: recognize(client, content).status_code == 200)
        gone = next(raw for raw in (a, b) if raw in select.select([a, b], [], [], 20)[0])
        assert gone.recv(100).startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: client.service.in_progress == 1)  # one place was enough


def test_an_answer_that_is_not_taken_ends_the_connection(model: SmallModel) -> None:
    with running(model, upload_timeout=0.3) as client, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(20)
        raw.connect((client.base_url.host, client.base_url.port))
        with pytest.raises(ConnectionError):
            while True:
                raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)


def test_idle_connections_and_broken_forms_keep_nobody_out_and_log_nothing(tmp_path: Path) -> None:
    """The command itself, with as few open files as some systems allow."""
    content = wav(noise(1))
    with (
        contextlib.ExitStack() as held,
        command(tmp_path, files=256) as (
            server,
            stderr,
            client,
        ),
    ):
        there = (client.base_url.host, client.base_url.port)
        part = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        for n in range(400):
            raw = held.enter_context(socket.create_connection(there, 20))
            raw.sendall((b"", b"GET / HT", part[:30], b"GET /ping HTTP/1.1\r\n")[n % 4])
        for _ in range(5):
            with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as other:
                assert recognize(other, content).status_code == 200
            held.enter_context(socket.create_connection(there, 20))
        form = {"content-type": "multipart/form-data; boundary=x"}
        for body in (b"junk", b"--xy\r\nA", b"\r\n\r\n--z", b"--x\r\n\0: a\r\n\r\n", b"--x--more"):
            check_refusal(client.post("/recognize", content=body, headers=form), 400, 422)
        # What large uploads took is given back: none of these bytes is audio.
        before = _resident(server.pid)
        large = os.urandom(1 << 20) * 22
        with ThreadPoolExecutor(6) as threads:
            asked = [threads.submit(client.post, "/invocations", content=large) for _ in range(6)]
            assert {each.result().status_code for each in asked} == {422}
        wait_until(lambda: _resident(server.pid) < before + (40 << 20))
        server.send_signal(signal.SIGTERM)
        assert stderr.read().splitlines() == [
            "serve    stopped; every request in progress was answered"
        ]


def _resident(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) << 10


def test_too_few_open_files_are_told_before_anybody_is_served(tmp_path: Path) -> None:
    code = (
        "import resource; from serpipe.serving.options import ServeOptions;"
        "from serpipe.serving.sockets import connections_allowed;"
        "print(connections_allowed(ServeOptions()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )

    def run(soft: int, hard: int) -> "subprocess.CompletedProcess[str]":
        limits = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" "$@"'
        words = ["sh", "-c", limits, sys.executable, "-c", code]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    error = run(90, 90).stderr.splitlines()[-1]
    assert "UserError: " in error
    assert_names(error, "--queue 64", 90)
    allowed, files = map(int, run(256, 256).stdout.split())
    assert 64 <= allowed < 200 and files == 256
    allowed, files = map(int, run(100, 3000).stdout.split())
    assert allowed == 1024 and 1024 < files <= 3000  # raised as far as it is needed


def test_a_log_takes_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("serpipe.tests.flood")
    logger.addFilter(OneASecond())
    failure = OSError(errno.EMFILE, "Too many open files")
    for _ in range(3000):
        logger.error("socket.accept() out of system resource", exc_info=failure)
    first, *rest = caplog.records
    assert len(rest) < 100 and "Too many open files" in first.getMessage() and not first.exc_info
    logger.exception("a request failed")
    assert caplog.records[-1].getMessage() == "a request failed"  # another line is not withheld


@contextmanager
def limit(what: int, soft: int) -> Iterator[None]:
    """A limit on what this process may take."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_a_full_disk_costs_the_log_no_line_but_those_of_its_time(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    entry = {"sha256": "", "seconds": 1.0, "label": "é", "scores": {}, "timeline": [],
            "model": {"name": "small"}}  # fmt: skip
    log = AnswerLog(file)
    log.append(entry)
    with limit(resource.RLIMIT_FSIZE, file.stat().st_size + 20):
        for _ in range(2):
            with pytest.raises(OSError):
                log.append(entry)
    log.append(entry)
    log.close()
    first, part, last = file.read_text().splitlines()
    assert json.loads(first)["label"] == json.loads(last)["label"] == "é"
    assert len(part) == 20


def test_a_decoder_that_cannot_be_started_is_no_fault_of_the_clip(clips: list[Path]) -> None:
    decoders = Decoders(RATE, "mean", ServeOptions(decoders=1))
    content = clips[0].read_bytes()
    with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(Refused) as refused:
        decoders.decode(content)
    assert refused.value.status == 503 and refused.value.headers["Retry-After"]
    assert len(decoders.decode(content)[0])
    decoders.close()


@pytest.mark.parametrize("name", [None, "", "..", "/", "a" * 500, "\0\x1b[31m", "‮gpj.exe"])
def test_a_name_of_a_client_is_never_a_path(name: str | None) -> None:
    cleaned = clean_name(name)
    assert re.fullmatch(r"[\w .()-]{1,100}", cleaned) and cleaned.strip(".") == cleaned


def test_the_page_and_the_docs_fetch_nothing_from_elsewhere(limited: Any) -> None:
    for path in ("/", "/docs", "/page/app.js", "/page/style.css"):
        answer = limited.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert not re.search(r"https?://(?!127\.0\.0\.1|www\.w3\.org)", answer.text)
        assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", answer.text)
    again = limited.get("/", headers={"if-none-match": limited.get("/").headers["etag"]})
    assert again.status_code == 304
    listed = limited.get("/openapi.json").json()["paths"]
    for path in ("/recognize", "/invocations", "/ping", "/healthz", "/metrics", "/model"):
        assert path in listed and path in limited.get("/docs").text


def test_the_page_in_a_real_browser(
    model: SmallModel, sample: Path, clips: list[Path], tmp_path: Path
) -> None:
    named = Path(shutil.copy(clips[0], tmp_path / "<b>x.flac"))
    with running(model) as client:
        label = recognize(client, clips[0].read_bytes(), params="window=2&hop=1").json()["label"]
        browser = Chromium(tmp_path / "profile")
        try:
            browser.shape(390, dark=True)
            browser.open(str(client.base_url))
            browser.wait_for("document.querySelector('#card').children.length > 3")
            assert "speakers" in browser.value("document.querySelector('#scored').textContent")
            # From the keyboard: the first stop is the choice of a file.
            browser.press("Tab")
            assert browser.value("document.activeElement.id") == "choose"
            browser.choose_file("#file", named)
            browser.wait_for("!document.querySelector('#result').hidden")
            assert browser.value("document.querySelector('#label').textContent") == label
            rows = "document.querySelectorAll('#scores li').length"
            assert browser.value(rows) == len(model.labels)
            # The waveform is drawn; the page is no wider than the phone.
            drawn = (
                "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean))"
                "(document.querySelector('#wave'))"
            )
            assert browser.value(drawn)
            assert browser.value("document.documentElement.scrollWidth") <= 390
            # A segment plays on Enter.
            browser.value("document.querySelector('#timeline button').focus()")
            browser.press("Enter")
            browser.wait_for("document.querySelector('#audio').currentTime > 0.2")
            assert browser.value("document.querySelector('#play').textContent") == "Pause"
            # What is refused is said.
            bad = tmp_path / "bad.wav"
            bad.write_bytes(b"no audio")
            browser.choose_file("#file", bad)
            browser.wait_for("!document.querySelector('#problem').hidden")
            detail = recognize(client, b"no audio").json()["detail"]
            assert detail in browser.value("document.querySelector('#problem').textContent")
            # The 422 itself is what Chromium logs; the rest must be silent.
            assert all("422" in line for line in browser.console), browser.console
            # Ratings are values, not shares; and windows may hold nothing to hear.
            rating = ClipScores("", np.array([3.4]))
            model.change(
                outputs=("valence",), is_rating=True, score=lambda pieces: [rating] * len(pieces)
            )
            model.real = replace(model.real, labels=())
            pause = tmp_path / "pause.wav"
            pause.write_bytes(wav(np.concatenate([np.zeros(3 * RATE), noise(2)])))
            browser.choose_file("#file", pause)
            browser.wait_for("state.answer.source === 'pause.wav'")
            assert browser.value("document.querySelector('#label').textContent") == "valence 3.40"
            segments = "[...document.querySelectorAll('#timeline button')].map(b => b.textContent)"
            assert browser.value(segments) == ["silence", "3.40"]
            own = (str(client.base_url), f"blob:{client.base_url}")
            assert all(url.startswith(own) for url in browser.requested), browser.requested
        finally:
            browser.close()


def test_the_page_by_keyboard_with_a_token_a_dropped_file_and_a_microphone(
    model: SmallModel, clips: list[Path], tmp_path: Path
) -> None:
    microphone = tmp_path / "microphone.wav"
    microphone.write_bytes(wav(read_waveform(clips[0], RATE)[0]))
    saved = tmp_path / "saved"
    focus = "document.activeElement.id"
    problem = "document.querySelector('#problem').textContent"
    with running(model, token=TOKEN) as client:
        content, right = clips[1].read_bytes(), {"authorization": f"Bearer {TOKEN}"}
        asked = "window=2&hop=1"
        sent_by_hand = recognize(client, content, clips[1].name, params=asked, headers=right).json()
        browser = Chromium(tmp_path / "profile", microphone)
        try:
            browser.keep_downloads(saved)
            browser.shape(1000, dark=False)
            browser.open(str(client.base_url))
            browser.wait_for("!document.querySelector('#token-form').hidden")
            browser.drop_file("#drop", clips[1])
            browser.wait_for(f"{problem}.includes('token')")
            for token in ("wrong", TOKEN):
                browser.value("document.activeElement.blur(), getSelection().removeAllRanges()")
                while browser.value(focus) != "token":
                    browser.press("Tab")
                browser.value("document.activeElement.select()")
                browser.type(token)
                browser.press("Enter")
                if token == "wrong":
                    browser.wait_for(f"state.token === 'wrong' && {problem}.includes('wrong')")
            # What was dropped before is heard now.
            browser.wait_for("!document.querySelector('#result').hidden")
            assert browser.value("state.answer") == sent_by_hand
            assert browser.value("document.querySelector('#token-form').hidden")
            assert browser.console and all("401" in line for line in browser.console)
            browser.console.clear()
            # All that can be done is a stop of the keyboard, in the order in which it is seen.
            stops = []
            browser.value("document.querySelector('#choose').focus()")
            while (stop := browser.value(focus)) != "download":
                stops.append(stop)
                browser.press("Tab")
                assert len(stops) < 20, stops
            assert stops == ["choose", "record", "seek", "", "play"]  # "": of the timeline
            browser.press("Enter")
            file = saved / clips[1].with_suffix(".json").name
            wait_until(file.exists)
            assert json.loads(file.read_text()) == sent_by_hand
            browser.value("document.querySelector('#record').focus()")
            browser.press("Enter")
            browser.wait_for("document.querySelector('#record').textContent === 'Stop'")
            browser.wait_for("/[2-9] s/.test(document.querySelector('#status').textContent)")
            browser.press(" ")
            browser.wait_for("state.answer.source === 'recording.wav'")
            assert browser.value("state.answer.seconds") > 1
            assert browser.value("Math.max(...state.peaks)") > 0.01  # the clip, not silence
            assert browser.value(focus) == "record"
            assert browser.console == []
        finally:
            browser.close()


def test_sigterm_finishes_what_has_begun(tmp_path: Path, clips: list[Path]) -> None:
    """The command itself, with the bundle and the encoder that ship with serpipe."""
    there = sorted(path for path in tmp_path.rglob("*"))
    with command(tmp_path) as (server, stderr, client), ThreadPoolExecutor(8) as threads:
        assert client.get("/ping").status_code == 200
        asked = [threads.submit(recognize, client, clip.read_bytes()) for clip in clips]
        wait_until(lambda: "serpipe_in_work 8" in client.get("/metrics").text)
        server.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
        assert [answer.status_code for answer in answers] == [200] * 8
        model = load_model(DEFAULT_BUNDLE)
        labels = [model.predict(clip).label for clip in clips]
        assert [answer.json()["label"] for answer in answers] == labels
        rest = stderr.read()
        assert server.wait(60) == 0
        assert "Traceback" not in rest
        assert sorted(path for path in tmp_path.rglob("*")) == there  # nothing was written


def test_mistakes_on_the_command_line_are_told_in_a_line(serpipe: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(serpipe("serve", "--port", port), f"--port {port}")
    absent = tmp_path / "absent"
    assert_refused(serpipe("serve", "--port", 0, "--model", absent), absent)
    done = serpipe("serve", "--timeout", "inf")
    assert done.code == 2 and "--timeout" in done.err and "Traceback" not in done.err
    assert_refused(serpipe("serve", "--token-file", absent), "--token-file")
