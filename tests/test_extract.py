"""A cache holds each clip's own numbers, whatever happened on the way, and says whence."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from serpipe.corpora import scan
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import BadClipError, BadClipsError, MachineError, UserError
from serpipe.features import extract as extract_module
from serpipe.features.audio import read_waveform
from serpipe.features.batching import HeardClip, in_order, plan
from serpipe.features.cache import open_cache
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.extract import Extraction, extract

from .conftest import write_wav


@pytest.fixture(scope="module")
def encoder(small_encoder: Path) -> Encoder:
    return load_encoder(str(small_encoder), poolings=("mean", "std"))


def run(folder: Path, encoder: Encoder, out: Path, **options: object) -> Extraction:
    clips = list(scan(folder, RAVDESS).clips)
    if options.pop("shuffle", False):
        random.Random(0).shuffle(clips)
    return extract(clips, encoder, out, provenance={"corpus": "x"}, **options)  # type: ignore[arg-type]


def test_each_row_is_the_clip_alone(few_clips: Path, encoder: Encoder, tmp_path: Path) -> None:
    cache = run(few_clips, encoder, tmp_path / "c.h5", workers=2).cache
    assert len(cache) == 40
    assert cache.layers == ("0", "1", "2", "3")
    for row, path in enumerate(cache.clips["path"]):
        waveform, facts = read_waveform(few_clips / path, 16000)
        alone = encoder.embed([waveform])
        assert cache.clips["sha256"][row] == facts.sha256
        for pooling in ("mean", "std"):
            for layer in range(4):
                ours = cache.embeddings(str(layer), pooling)[row]
                np.testing.assert_allclose(ours, alone[pooling][layer, 0], rtol=1e-3, atol=1e-6)


def test_the_clip_table_is_what_the_names_say(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    clips = run(few_clips, encoder, tmp_path / "c.h5").cache.clips
    for row, name in enumerate(clips["name"]):
        codes = name.split("-")
        assert clips["speaker"][row] == codes[6]
        assert clips["sex"][row] == ("male" if int(codes[6]) % 2 else "female")
        assert clips["intensity"][row] == {"01": "normal", "02": "strong"}[codes[3]]
        assert clips["repetition"][row] == str(int(codes[5]))
    assert sorted(np.unique(clips["emotion"])) == sorted(RAVDESS.expected)


def test_the_file_is_the_same_bytes_for_any_order_workers_and_batch(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    run(few_clips, encoder, tmp_path / "a.h5", workers=1)
    run(few_clips, encoder, tmp_path / "b.h5", workers=2, shuffle=True, batch_seconds=1.0)
    run(few_clips, encoder, tmp_path / "c.h5", workers=3, batch_seconds=1e6)
    first = (tmp_path / "a.h5").read_bytes()
    assert (tmp_path / "b.h5").read_bytes() == first
    assert (tmp_path / "c.h5").read_bytes() == first
    assert sorted(p.name for p in tmp_path.glob("*.h5*")) == ["a.h5", "b.h5", "c.h5"]


def test_h5py_alone_reads_it(few_clips: Path, encoder: Encoder, tmp_path: Path) -> None:
    run(few_clips, encoder, tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        X = file["embeddings/mean/3"][:]
        emotions = file["clips/emotion"].asstr()[:]
        key = json.loads(file.attrs["key"])
    assert X.shape == (40, 32)
    assert X.dtype == np.float32
    assert len(emotions) == 40
    assert key["encoder"].startswith("wav2vec2-group")
    assert key.keys() >= {
        *("revision", "weights_sha256", "normalise", "poolings", "layers", "resampler"),
        *("channels", "precision", "device", "torch", "transformers", "serpipe"),
    }


def test_a_second_run_computes_nothing_and_leaves_the_file_alone(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c.h5"
    assert run(few_clips, encoder, out).computed == 40
    before = out.stat().st_mtime_ns
    again = run(few_clips, encoder, out)
    assert (again.computed, again.reused, again.removed) == (0, 40, 0)
    assert out.stat().st_mtime_ns == before


def test_new_and_changed_clips_alone_are_computed_and_removed_ones_told(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    clips = sorted(few_clips.rglob("*.flac"))
    aside = [clip.rename(tmp_path / clip.name) for clip in clips[:3]]
    out = tmp_path / "c.h5"
    assert run(few_clips, encoder, out).computed == 37
    for clip, original in zip(aside, clips, strict=False):
        clip.rename(original)
    waveform, _ = read_waveform(clips[5], 16000)
    write_wav(clips[5], 0.5 * waveform)
    clips[6].unlink()
    changed = run(few_clips, encoder, out)
    assert (changed.computed, changed.reused, changed.removed) == (4, 35, 2)
    run(few_clips, encoder, tmp_path / "anew.h5")
    assert out.read_bytes() == (tmp_path / "anew.h5").read_bytes()


def test_the_same_bytes_under_two_names_are_computed_once_and_told(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    clip = few_clips / "Actor_01" / "03-01-03-01-01-01-01.flac"
    names = ["03-01-03-01-02-01-01.flac", "03-01-03-01-02-02-01.flac"]
    source = next(iter(sorted((few_clips / "Actor_01").glob("03-01-03*"))))
    for name in names:
        shutil.copyfile(source, clip.with_name(name)) if source.name != name else None
    done = run(few_clips, encoder, tmp_path / "c.h5")
    assert done.computed == 40
    assert len(done.cache) == 40 + sum(name != source.name for name in names)
    assert [len(group) for group in done.same_bytes] == [len({*names, source.name})]


@pytest.mark.parametrize("field", ["weights_sha256", "normalise", "resampler"])
def test_a_cache_made_otherwise_is_not_reused_and_the_field_is_named(
    few_clips: Path, encoder: Encoder, tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"
    run(few_clips, encoder, out)
    before = out.read_bytes()
    key = extract_module.cache_key(encoder)
    monkeypatch.setattr(extract_module, "cache_key", lambda encoder: key | {field: "other"})
    with pytest.raises(UserError, match=rf"{field} is .* --overwrite"):
        run(few_clips, encoder, out)
    assert out.read_bytes() == before
    assert run(few_clips, encoder, out, overwrite=True).computed == 40


def test_something_else_at_the_place_is_not_overwritten(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "thesis.h5"
    out.write_text("three years of work")
    with pytest.raises(UserError, match="not a whole cache"):
        run(few_clips, encoder, out)
    assert out.read_text() == "three years of work"


def test_bad_clips_stop_the_run_before_the_long_work_or_are_left_out(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = sorted(few_clips.rglob("*.flac"))
    clips[0].write_bytes(b"")
    write_wav(clips[1], np.zeros(16000))
    write_wav(clips[2], np.full(300, 0.1))
    out = tmp_path / "c.h5"
    with monkeypatch.context() as patch, pytest.raises(BadClipsError) as caught:
        patch.setattr(Encoder, "embed", lambda *args: pytest.fail("the long work has begun"))
        run(few_clips, encoder, out)
    for clip in clips[:3]:
        assert str(clip) in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    done = run(few_clips, encoder, out, skip_bad=True)
    assert len(done.cache) == 37
    assert len(done.bad) == 3


def test_what_is_computed_survives_an_error_in_the_middle(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"
    embed, calls = Encoder.embed, []

    def breaks(self: Encoder, waveforms: list[np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > 10:
            raise BadClipError("x", "went away", "it to stay", "look for it")
        return embed(self, waveforms)

    with monkeypatch.context() as patch, pytest.raises(BadClipError):
        patch.setattr(Encoder, "embed", breaks)
        run(few_clips, encoder, out)
    assert not out.exists()
    resumed = run(few_clips, encoder, out)
    assert resumed.computed == 30
    run(few_clips, encoder, tmp_path / "whole.h5")
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_clip_that_changes_under_way_is_noticed(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = extract_module._listen

    def listen_then_change(*args: object) -> object:
        heard = listen(*args)  # type: ignore[arg-type]
        clip = sorted(few_clips.rglob("*.flac"))[7]
        write_wav(clip, np.full(16000, 0.1))
        return heard

    monkeypatch.setattr(extract_module, "_listen", listen_then_change)
    with pytest.raises(BadClipError, match="has changed"):
        run(few_clips, encoder, tmp_path / "c.h5")


def test_two_extractions_into_one_file_the_second_is_refused(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    from filelock import FileLock

    out = tmp_path / "c.h5"
    parts = tmp_path / "c.h5.parts"
    parts.mkdir()
    with FileLock(parts / "lock"), pytest.raises(UserError, match="another extraction"):
        run(few_clips, encoder, out)
    assert run(few_clips, encoder, out).computed == 40


KILLED = """
import sys
from pathlib import Path
from serpipe.features import shards
shards.FLUSH_SECONDS = 0.0
from serpipe.corpora import RAVDESS, scan
from serpipe.features.encoder import load_encoder
from serpipe.features.extract import extract
encoder = load_encoder(sys.argv[1], poolings=("mean", "std"))
print("ready", flush=True)
extract(scan(Path(sys.argv[2]), RAVDESS).clips, encoder, Path(sys.argv[3]),
        provenance={"corpus": "x"}, workers=2)
"""


def test_a_kill_at_any_moment_corrupts_nothing(
    few_clips: Path, encoder: Encoder, small_encoder: Path, tmp_path: Path
) -> None:
    run(few_clips, encoder, tmp_path / "whole.h5")
    out = tmp_path / "killed.h5"
    delays = [0.05, 0.3, 0.6, 0.9]  # seconds of work: the whole takes about one
    for delay in delays:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, small_encoder, few_clips, out],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if out.exists():
            assert len(open_cache(out)) == 40
    run(few_clips, encoder, out)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from serpipe.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.argv = ["serpipe", *sys.argv[1:]]
main()
"""


def test_a_disk_that_takes_no_more_is_told_in_one_line(
    few_clips: Path, small_encoder: Path, tmp_path: Path
) -> None:
    arguments = ["extract", "--data", few_clips, "--encoder", small_encoder, "--out", "c.h5"]
    full = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith("serpipe: c.h5")
    assert not (tmp_path / "c.h5").exists()


def test_a_full_disk_at_the_last_step_keeps_the_work(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("Can't write data (errno = 28, error message = 'No space left on device')")

    with monkeypatch.context() as patch, pytest.raises(MachineError, match="No space left"):
        patch.setattr(h5py.Group, "create_dataset", full)
        run(few_clips, encoder, out)
    assert run(few_clips, encoder, out).computed == 0
    assert len(open_cache(out)) == 40


def test_a_damaged_cache_is_refused(few_clips: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "c.h5"
    run(few_clips, encoder, out)
    out.write_bytes(out.read_bytes()[:5000])
    with pytest.raises(UserError, match="not a whole cache"):
        open_cache(out)
    with pytest.raises(UserError, match="no such file"):
        open_cache(tmp_path / "none.h5")


def test_batches_hold_one_length_and_stay_within_the_budget(few_clips: Path) -> None:
    heard = [
        HeardClip(clip, read_waveform(clip.file, 16000)[1])
        for clip in scan(few_clips, RAVDESS).clips
    ]
    batches = plan(heard, 12.0)
    assert sorted(h.clip.name for batch in batches for h in batch) == sorted(
        h.clip.name for h in heard
    )
    assert any(len(batch) > 1 for batch in batches)
    for batch in batches:
        assert len({h.facts.frames for h in batch}) == 1
        assert len(batch) == 1 or sum(h.facts.seconds for h in batch) <= 12.0
    assert plan(reversed(heard), 12.0) == batches
    assert all(len(batch) == 1 for batch in plan(heard, 0.0))


def test_threads_keep_order_raise_and_never_run_far_ahead() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number * 2, items(), workers=2, ahead=3)  # type: ignore[arg-type]
    assert next(results) == 0
    assert len(taken) <= 6
    assert list(results) == [2 * number for number in range(1, 100)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda number: 1 // number, [1, 0], workers=2, ahead=1))
