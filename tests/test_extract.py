"""A cache holds each clip's own numbers, whatever happened on the way, and says whence."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock
from serpipe.corpora import scan
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import (
    BadClipError,
    BadClipsError,
    MachineError,
    OtherCacheError,
    UserError,
)
from serpipe.features import engine as engine_module
from serpipe.features import extract as extract_module
from serpipe.features.audio import read_waveform
from serpipe.features.batching import Lane, embed_batches, plan
from serpipe.features.cache import open_cache, verify_cache
from serpipe.features.cache_write import write_cache
from serpipe.features.decoding import DecodedClip, DecodingOptions
from serpipe.features.encoder import Encoder, PreparedBatch, load_encoder
from serpipe.features.extract import Extraction
from serpipe.features.in_order import in_order
from serpipe.features.trim import trim

from .conftest import extract_with, write_wav
from .messages import assert_names, names, raises_about


@pytest.fixture(scope="module")
def encoder(small_encoder: Path) -> Encoder:
    return load_encoder(str(small_encoder), poolings=("mean", "std"))


def run(folder: Path, encoder: Encoder, out: Path, **options: Any) -> Extraction:
    clips = list(scan(folder, RAVDESS).clips)
    if options.pop("shuffle", False):
        random.Random(0).shuffle(clips)
    done: Extraction = extract_with(encoder, clips, out, **options)
    return done


def test_each_row_is_the_embedding_of_the_clip_alone(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
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


def test_the_clip_table_follows_the_names(
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
    one, two, three = (tmp_path / name / "c.h5" for name in "abc")  # nothing is copied
    run(few_clips, encoder, one, workers=1)
    run(few_clips, encoder, two, workers=2, shuffle=True, batch_seconds=1.0)
    run(few_clips, encoder, three, workers=3, batch_seconds=1e6)
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    left = [path.name for path in tmp_path.rglob("*.h5*") if not path.name.startswith(".")]
    assert left == ["c.h5"] * 3


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
    before, inode = out.read_bytes(), out.stat().st_ino
    os.utime(out, (0, 0))
    again = run(few_clips, encoder, out)
    assert (again.computed, again.reused, again.removed) == (0, 40, ())
    assert (out.read_bytes(), out.stat().st_ino) == (before, inode)
    assert out.stat().st_mtime > 1e9  # it is the newest again: `serpipe fit` takes it


def test_clips_of_another_cache_beside_it_are_copied_to_the_last_bit(
    few_clips: Path, small_encoder: Path, tmp_path: Path
) -> None:
    both, mean = (
        load_encoder(str(small_encoder), poolings=poolings)
        for poolings in (("mean", "std"), ("mean",))
    )
    folder = tmp_path / "caches"
    actors = sorted(few_clips.iterdir())
    some = tmp_path / "some"
    some.mkdir()
    for actor in actors[:2]:
        shutil.copytree(actor, some / actor.name)
    n_some = len(list(some.rglob("*.flac")))
    apart = run(few_clips, mean, tmp_path / "apart" / "all.h5")
    assert (apart.computed, apart.copied) == (40, {})
    assert run(some, both, folder / "some.h5").computed == n_some
    (folder / "broken.h5").write_bytes(b"no cache")
    done = run(few_clips, mean, folder / "all.h5")
    assert (done.computed, done.reused) == (40 - n_some, n_some)
    assert done.copied == {"some.h5": n_some}
    assert (folder / "all.h5").read_bytes() == (tmp_path / "apart" / "all.h5").read_bytes()
    # Nothing is taken from a cache with fewer poolings, other numbers, or damage; nor to overwrite.
    assert run(few_clips, both, folder / "both.h5").copied == {"some.h5": n_some}
    assert run(few_clips, mean, folder / "new.h5", overwrite=True).copied == {}
    assert run(few_clips, mean, folder / "left.h5", channels="left").copied == {}
    for path in (folder / "all.h5", folder / "both.h5", folder / "new.h5"):
        path.unlink()
    with h5py.File(folder / "some.h5", "r+") as file:
        file["embeddings/mean/0"][0] += 1
    assert run(few_clips, mean, folder / "damaged.h5").copied == {}


def test_only_new_and_changed_clips_are_computed_and_removed_ones_reported(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "BLOCK_ROWS", 7)  # more than one block of the old file
    clips = sorted(few_clips.rglob("*.flac"))
    aside = [clip.rename(tmp_path / clip.name) for clip in clips[:3]]
    out = tmp_path / "c.h5"
    assert run(few_clips, encoder, out).computed == 37
    for clip, original in zip(aside, clips, strict=False):
        clip.rename(original)
    waveform, _ = read_waveform(clips[5], 16000)
    write_wav(clips[5], 0.5 * waveform)
    clips[6].unlink()
    before = out.read_bytes()
    with raises_about(OtherCacheError, out, 1, clips[6].name, "--drop-removed"):
        run(few_clips, encoder, out)
    assert out.read_bytes() == before
    changed = run(few_clips, encoder, out, drop_removed=True)
    assert (changed.computed, changed.reused) == (4, 35)
    assert [Path(path).name for path in changed.removed] == [clips[6].name]
    run(few_clips, encoder, tmp_path / "anew.h5")
    assert out.read_bytes() == (tmp_path / "anew.h5").read_bytes()


def test_the_same_bytes_under_two_names_are_computed_once_and_reported(
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


def test_a_cache_with_another_key_is_not_reused_and_the_field_is_named(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"
    run(few_clips, encoder, out)
    before = out.read_bytes()
    key = engine_module.cache_key(encoder)
    for field in ("weights_sha256", "normalise", "resampler"):
        other = key | {field: "other"}
        monkeypatch.setattr(engine_module, "cache_key", lambda *args, other=other: other)
        with raises_about(OtherCacheError, out, field, "--out", "--overwrite"):
            run(few_clips, encoder, out)
        assert out.read_bytes() == before
    assert run(few_clips, encoder, out, overwrite=True).computed == 40


def test_a_file_that_is_no_cache_is_not_overwritten(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "thesis.h5"
    out.write_text("three years of work")
    with raises_about(UserError, out):
        run(few_clips, encoder, out)
    assert out.read_text() == "three years of work"


def test_bad_clips_stop_the_run_before_the_long_computation_or_are_omitted(
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
    assert_names(str(caught.value), *clips[:3], "--skip-bad")
    done = run(few_clips, encoder, out, skip_bad=True)
    assert len(done.cache) == 37
    assert len(done.bad) == 3


def test_computed_embeddings_survive_an_error_in_the_middle(
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
    run(few_clips, encoder, tmp_path / "whole" / "whole.h5")
    assert out.read_bytes() == (tmp_path / "whole" / "whole.h5").read_bytes()


def test_a_clip_that_changes_after_its_check_is_noticed(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = extract_module.check_clips

    def check_then_change(*args: object) -> object:
        decoded = check(*args)  # type: ignore[arg-type]
        clip = sorted(few_clips.rglob("*.flac"))[7]
        write_wav(clip, np.full(16000, 0.1))
        return decoded

    monkeypatch.setattr(extract_module, "check_clips", check_then_change)
    with raises_about(BadClipError, sorted(few_clips.rglob("*.flac"))[7]):
        run(few_clips, encoder, tmp_path / "c.h5")


def test_two_extractions_into_one_file_the_second_is_refused(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c.h5"
    for options in ({}, {"overwrite": True}):
        with (
            FileLock(tmp_path / ".c.h5.lock"),
            raises_about(UserError, out),
        ):
            run(few_clips, encoder, out, **options)
    assert run(few_clips, encoder, out).computed == 40


def test_a_cache_rewritten_under_a_reader_is_noticed(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    cache = run(few_clips, encoder, tmp_path / "c.h5").cache
    next(iter(few_clips.rglob("*.flac"))).unlink()
    run(few_clips, encoder, tmp_path / "c.h5", drop_removed=True)
    with raises_about(UserError, tmp_path / "c.h5"):
        cache.embeddings("1")


def test_a_stopped_overwrite_is_resumed(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"
    key = engine_module.cache_key(encoder)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "cache_key", lambda *args: key | {"torch": "0.1"})
        run(few_clips, encoder, out)
    embed, calls = Encoder.embed, []

    def stops(self: Encoder, waveforms: list[np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return embed(self, waveforms)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "embed", stops)
        run(few_clips, encoder, out, overwrite=True)
    assert open_cache(out).key["torch"] == "0.1"  # the old stays until the new is whole
    assert run(few_clips, encoder, out, overwrite=True).computed == 30
    assert run(few_clips, encoder, out, overwrite=True).computed == 0


def stop_after(
    clips: Path,
    encoder: Encoder,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    **options: object,
) -> list[Path]:
    """Stop an extraction after some clips, each in a part of its own; return the parts."""
    embed, calls = Encoder.embed, []

    def stops(self: Encoder, waveforms: list[np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > number:
            raise KeyboardInterrupt
        return embed(self, waveforms)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "embed", stops)
        patch.setattr("serpipe.features.parts.FLUSH_SECONDS", 0.0)
        run(clips, encoder, out, **options)
    return sorted(out.with_name(out.name + ".parts").glob("*.safetensors"))


def test_a_part_of_another_extraction_is_computed_again(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole, of the same clips and shape, but made with other options."""
    whole, out, left = (tmp_path / name / "c.h5" for name in ("whole", "out", "left"))
    run(few_clips, encoder, whole)
    parts = stop_after(few_clips, encoder, out, monkeypatch, 3)
    (other, *_) = stop_after(few_clips, encoder, left, monkeypatch, 3, trim=20.0)
    parts[0].unlink()
    shutil.copy(other, parts[0].parent)
    done = run(few_clips, encoder, out)
    assert done.damaged_parts == (other.name,)
    assert out.read_bytes() == whole.read_bytes()


def test_a_part_that_is_lost_or_damaged_is_computed_again(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(few_clips, encoder, tmp_path / "whole" / "whole.h5")
    out = tmp_path / "c.h5"
    parts = stop_after(few_clips, encoder, out, monkeypatch, 10)
    assert len(parts) == 10
    parts[3].unlink()
    damaged = bytearray(parts[5].read_bytes())
    damaged[-100] ^= 1
    parts[5].write_bytes(damaged)
    # A second stop: what is written now must not take the place of what is there.
    assert len(stop_after(few_clips, encoder, out, monkeypatch, 5)) == 8 + 5
    done = run(few_clips, encoder, out)
    assert done.computed == 40 - 13
    assert out.read_bytes() == (tmp_path / "whole" / "whole.h5").read_bytes()
    assert verify_cache(out) == []


def test_a_damaged_part_is_named(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"
    parts = stop_after(few_clips, encoder, out, monkeypatch, 3)
    parts[0].write_bytes(parts[0].read_bytes()[:-1])
    done = run(few_clips, encoder, out)
    assert done.damaged_parts == (parts[0].name,)
    assert done.computed == 38


def test_parts_with_a_damaged_key_are_refused_and_overwrite_starts_over(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.h5"
    parts = stop_after(few_clips, encoder, out, monkeypatch, 3)
    key = parts[0].with_name("key.json")
    key.write_text(key.read_text()[:-9])
    with raises_about(UserError, key, "--overwrite"):
        run(few_clips, encoder, out)
    assert all(part.exists() for part in parts)
    assert run(few_clips, encoder, out, overwrite=True).computed == 40


def test_parts_with_another_key_are_not_used_by_overwrite(
    few_clips: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, clips = tmp_path / "c.h5", sorted(few_clips.rglob("*.flac"))[:3]
    stop_after(few_clips, encoder, tmp_path / "other.h5", monkeypatch, 39)
    aside = [clip.rename(tmp_path / clip.name) for clip in clips]
    assert run(few_clips, encoder, out).computed == 37
    for clip, original in zip(aside, clips, strict=True):
        clip.rename(original)
    parts = (tmp_path / "other.h5.parts").rename(tmp_path / "c.h5.parts") / "key.json"
    parts.write_text(json.dumps(json.loads(parts.read_text()) | {"torch": "0.1"}))
    assert run(few_clips, encoder, out, overwrite=True).computed == 3


def test_rows_that_were_never_written_are_refused(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    cache = run(few_clips, encoder, tmp_path / "c.h5").cache
    some = np.arange(39)
    sources = [(some, lambda pooling, layer: cache.read_rows(pooling, layer, some))]
    with raises_about(MachineError, tmp_path / "new.h5", 1, 39):
        write_cache(tmp_path / "new.h5", cache.key, {}, cache.clips, sources)
    assert not (tmp_path / "new.h5").exists()
    with h5py.File(cache.path, "r+") as file:
        layer = file["embeddings/mean/2"]
        layer[7] = 0
        layer.attrs["sha256"] = hashlib.sha256(layer[:].tobytes()).hexdigest()
    assert any(names(line, "embeddings/mean/2") for line in verify_cache(cache.path))


def test_a_cache_with_data_in_other_files_is_refused(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    whole = run(few_clips, encoder, tmp_path / "whole" / "whole.h5").cache.path
    secret = tmp_path / "secret.txt"
    secret.write_text("x" * 4000)

    def external_storage(file: h5py.File) -> None:
        del file["clips/sex"]
        file.create_dataset(
            "clips/sex", (40,), "S4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )

    def external_link(file: h5py.File) -> None:
        del file["clips/sex"]
        file["clips/sex"] = h5py.ExternalLink(str(whole), "clips/emotion")

    def soft_link(file: h5py.File) -> None:
        file["clips/other"] = h5py.SoftLink("/clips/sex")

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((40,), "f8")
        layout[:] = h5py.VirtualSource(str(whole), "clips/seconds", (40,))
        del file["clips/seconds"]
        file.create_virtual_dataset("clips/seconds", layout)

    def circle(file: h5py.File) -> None:
        file["clips/again"] = file["clips"]

    for change in (external_storage, external_link, soft_link, virtual, circle):
        copy = tmp_path / f"{change.__name__}.h5"
        shutil.copy(whole, copy)
        with h5py.File(copy, "r+") as file:
            change(file)
        for read in (open_cache, verify_cache):
            with raises_about(UserError, copy):
                read(copy)


def test_parts_that_lost_their_key_are_not_used(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    parts = tmp_path / "c.h5.parts"
    parts.mkdir()
    (parts / "000000.safetensors").write_bytes(b"whose?")
    assert run(few_clips, encoder, tmp_path / "c.h5").computed == 40


def test_clips_are_trimmed_and_cut_only_on_request(
    few_clips: Path, small_encoder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    whole = run(few_clips, encoder, tmp_path / "a.h5").cache
    trimmed = run(few_clips, encoder, tmp_path / "b.h5", trim=30.0).cache
    cutting = load_encoder(str(small_encoder), poolings=("mean", "std"), max_seconds=2.0)
    cut = run(few_clips, cutting, tmp_path / "c.h5").cache
    for cache, field, value in ((trimmed, "trim_decibels", 30.0), (cut, "max_seconds", 2.0)):
        assert (whole.key[field], cache.key[field]) == (None, value)
        assert not np.allclose(cache.embeddings("2"), whole.embeddings("2"), rtol=1e-3)
    waveform, _ = read_waveform(few_clips / trimmed.clips["path"][3], 16000)
    alone = encoder.embed([trim(waveform, 30.0)])["mean"][2, 0]
    np.testing.assert_allclose(trimmed.embeddings("2")[3], alone, rtol=1e-3, atol=1e-6)


def test_float16_is_stored_on_request_and_read_as_float32(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    whole = run(few_clips, encoder, tmp_path / "a.h5").cache
    half = run(few_clips, encoder, tmp_path / "b.h5", dtype="float16").cache
    with h5py.File(half.path) as file:
        assert file["embeddings/std/1"].dtype == np.float16
    assert half.embeddings("1").dtype == np.float32
    np.testing.assert_array_equal(
        half.embeddings("1"), whole.embeddings("1").astype(np.float16).astype(np.float32)
    )
    assert half.path.stat().st_size < 0.8 * whole.path.stat().st_size


def test_verify_finds_one_wrong_bit(few_clips: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = run(few_clips, encoder, tmp_path / "c.h5").cache.path
    assert verify_cache(out) == []
    with h5py.File(out) as file:
        offset = file["embeddings/mean/2"].id.get_offset()
    content = bytearray(out.read_bytes())
    content[offset + 1000] ^= 1
    out.write_bytes(content)
    (finding,) = verify_cache(out)
    assert_names(finding, "embeddings/mean/2", "checksum")
    assert open_cache(out).embeddings("1").shape == (40, 32)
    with raises_about(UserError, out, "layer 2", "checksum"):
        open_cache(out).embeddings("2")
    with raises_about(UserError, out, "embeddings/mean/2", "--overwrite"):
        run(few_clips, encoder, out)
    assert run(few_clips, encoder, out, overwrite=True).computed == 40
    assert verify_cache(out) == []


def test_one_recording_under_two_speakers_is_refused(
    few_clips: Path, encoder: Encoder, tmp_path: Path
) -> None:
    source = next(few_clips.glob("Actor_01/03-01-02-*"))
    copy = few_clips / "Actor_02" / "03-01-02-02-02-02-02.flac"
    copy.unlink(missing_ok=True)
    shutil.copyfile(source, copy)
    with pytest.raises(BadClipsError) as caught:
        run(few_clips, encoder, tmp_path / "c.h5")
    assert source.name in str(caught.value)
    assert copy.name in str(caught.value)


#: At a line, extracts in a process of its own and says its number; at the next, waits for it.
KILLED = """
import os, signal, sys
from pathlib import Path
from serpipe.features import parts
parts.FLUSH_SECONDS = 0.0  # each clip becomes a file of its own
from serpipe.corpora import RAVDESS, scan
from serpipe.features.encoder import load_encoder
from serpipe.features.engine import local_engine
from serpipe.features.extract import extract
encoder = load_encoder(sys.argv[1], poolings=("mean", "std"))
replace, seen = Path.replace, 0
for line in sys.stdin:
    number, moment = line.split()

    def replace_or_die(path, target):
        global seen
        seen += 1
        last = target.suffix == ".h5"
        if moment == "before" and (last if number == "last" else seen == int(number)):
            os.kill(os.getpid(), signal.SIGKILL)
        result = replace(path, target)
        if moment == "after" and (last if number == "last" else seen == int(number)):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    process = os.fork()  # torch has one thread, and has not worked yet
    if process == 0:
        Path.replace = replace_or_die
        extract(local_engine([encoder], workers=2), scan(Path(sys.argv[2]), RAVDESS).clips,
                Path(sys.argv[3]), provenance={"corpus": "x"})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def test_a_kill_at_any_moment_corrupts_nothing(
    few_clips: Path, encoder: Encoder, small_encoder: Path, tmp_path: Path
) -> None:
    """Killed before or after a file is put in place: the key, a part, the next, or the cache."""
    run(few_clips, encoder, tmp_path / "whole" / "whole.h5")
    out = tmp_path / "killed.h5"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, small_encoder, few_clips, out],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        for moment in ("1 before", "1 after", "2 before", "2 after", "9 after", "last before",
                       "last after"):  # fmt: skip
            print(moment, file=process.stdin, flush=True)
            assert int(process.stdout.readline()) == -signal.SIGKILL, moment
            assert out.exists() == (moment == "last after")
        process.stdin.close()
    assert process.returncode == 0
    assert len(open_cache(out)) == 40
    run(few_clips, encoder, out)
    assert out.read_bytes() == (tmp_path / "whole" / "whole.h5").read_bytes()


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from serpipe.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.argv = ["serpipe", *sys.argv[1:]]
main()
"""


def test_a_full_disk_is_reported_in_one_line(
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

    with monkeypatch.context() as patch, raises_about(MachineError, out):
        patch.setattr(h5py.Group, "create_dataset", full)
        run(few_clips, encoder, out)
    assert run(few_clips, encoder, out).computed == 0
    assert len(open_cache(out)) == 40


def test_a_damaged_cache_is_refused(few_clips: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "c.h5"
    run(few_clips, encoder, out)
    out.write_bytes(out.read_bytes()[:5000])
    with raises_about(UserError, out):
        open_cache(out)
    with raises_about(UserError, tmp_path / "none.h5"):
        open_cache(tmp_path / "none.h5")


@pytest.fixture
def decoded(few_clips: Path) -> list[DecodedClip]:
    clips = scan(few_clips, RAVDESS).clips
    return [DecodedClip(clip, read_waveform(clip.file, 16000)[1]) for clip in clips]


def test_batches_stay_within_the_budget_and_depend_on_content_alone(
    decoded: list[DecodedClip],
) -> None:
    batches = plan(decoded, 20.0)
    planned = sorted(h.clip.name for batch in batches for h in batch)
    assert planned == sorted(h.clip.name for h in decoded)
    assert max(map(len, batches)) > 3
    for batch in batches:
        assert len(batch) * batch[0].facts.seconds <= 20.0
        assert batch[0].facts.seconds == max(h.facts.seconds for h in batch)
    assert plan(reversed(decoded), 20.0) == batches
    assert all(len(batch) == 1 for batch in plan(decoded, 0.0))
    assert max(map(len, plan(decoded, 65.0, window_seconds=30.0))) == 2  # Whisper pads to 30 s


def test_a_batch_holds_one_length_where_the_corpus_has_enough_of_it(
    decoded: list[DecodedClip],
) -> None:
    many = [DecodedClip(h.clip, replace(h.facts, sha256=str(n), frames=16000 * (1 + n % 2)))
            for n, h in enumerate(decoded)]  # fmt: skip
    assert all(len({h.facts.frames for h in batch}) == 1 for batch in plan(many, 10.0))


class OnGpu:
    """The small encoder, said to be on a GPU: it takes the way that batches take there."""

    def __init__(self, encoder: Encoder, most_samples: float = float("inf")) -> None:
        self.encoder, self.most_samples, self.tried = encoder, most_samples, []  # type: ignore[var-annotated]
        self.identity, self.device = encoder.identity, torch.device("meta")

    def prepare(self, waveforms: list[np.ndarray]) -> PreparedBatch:
        return self.encoder.prepare(waveforms)

    def embed_prepared(self, batch: PreparedBatch) -> dict[str, np.ndarray]:
        size = len(batch.waveforms) * max(map(len, batch.waveforms))
        self.tried.append(size)
        if size > self.most_samples:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.encoder.embed_prepared(batch)


def test_batches_over_several_devices_give_what_clips_give_alone(
    decoded: list[DecodedClip], encoder: Encoder
) -> None:
    copies = [OnGpu(encoder), OnGpu(encoder)]
    batches = plan(decoded, 20.0)
    results = list(embed_batches(copies, batches, 2, DecodingOptions()))  # type: ignore[arg-type]
    assert [batch for batch, _ in results] == batches
    assert sum(len(copy.tried) for copy in copies) == len(batches)
    for batch, embeddings in results:
        for position, clip in enumerate(batch):
            alone = encoder.embed([read_waveform(clip.clip.file, 16000)[0]])
            for pooling in ("mean", "std"):
                ours, theirs = embeddings[pooling][:, position], alone[pooling][:, 0]
                error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
                assert error.max() < 1e-4


def test_out_of_memory_halves_the_budget_and_continues(encoder: Encoder) -> None:
    waveforms = [np.random.default_rng(n).normal(size=8000).astype(np.float32) for n in range(8)]
    gpu = OnGpu(encoder, most_samples=2 * 8000)
    lane = Lane(gpu)  # type: ignore[arg-type]
    embedded = lane.embed(waveforms)
    np.testing.assert_allclose(embedded["mean"], encoder.embed(waveforms)["mean"], atol=1e-5)
    gpu.tried.clear()
    lane.embed(waveforms)
    assert max(gpu.tried) <= 2 * 8000  # it has learnt
    gpu.most_samples = 10
    with pytest.raises(torch.OutOfMemoryError):
        lane.embed(waveforms)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
    ids=["python", "gpu", "cpu"],
)
def test_out_of_memory_on_a_single_clip_keeps_the_other_embeddings(
    few_clips: Path,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    embed, calls = Encoder.embed, []

    def runs_out(self: Encoder, waveforms: list[np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > 5:
            raise error
        return embed(self, waveforms)

    with (
        monkeypatch.context() as patch,
        raises_about(MachineError, tmp_path / "c.h5", "--max-seconds"),
    ):
        patch.setattr(Encoder, "embed", runs_out)
        run(few_clips, encoder, tmp_path / "c.h5")
    assert run(few_clips, encoder, tmp_path / "c.h5").computed == 35


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


def test_the_channel_is_chosen_and_part_of_the_key(
    few_clips: Path, small_encoder: Path, tmp_path: Path
) -> None:
    clip = next(iter(sorted(few_clips.rglob("*.flac"))))
    sound, rate = soundfile.read(clip, dtype="float32")
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, len(sound)).astype(np.float32)
    soundfile.write(clip, np.stack([sound, noise], axis=1), rate)
    (one,) = [each for each in scan(few_clips, RAVDESS).clips if each.file == clip]
    encoder = load_encoder(str(small_encoder))
    caches = {
        channels: extract_with(encoder, [one], tmp_path / f"{channels}.h5", channels=channels).cache
        for channels in ("mean", "left", "right")
    }
    states = {channels: cache.embeddings("2") for channels, cache in caches.items()}
    soundfile.write(clip, sound, rate)
    alone = extract_with(encoder, [one], tmp_path / "mono.h5").cache.embeddings("2")
    np.testing.assert_array_equal(states["left"], alone)
    assert not np.allclose(states["mean"], states["left"])
    assert not np.allclose(states["right"], states["left"])
    with raises_about(OtherCacheError, "channels", '"mean"', '"left"'):
        extract_with(encoder, [one], tmp_path / "mean.h5", channels="left")
