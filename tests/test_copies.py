"""The same recording in other bytes is found, kept on one side, and never under two speakers."""

import csv
import json
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from scipy.signal import butter, sosfilt
from serpipe.artifacts.report.checks import run_checks
from serpipe.artifacts.run.results import read_results
from serpipe.corpora import Clip, scan
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import UserError
from serpipe.features.audio import AUDIO_CHECKS, read_waveform
from serpipe.features.cache import open_cache
from serpipe.features.cache_write import write_cache
from serpipe.features.copies import (
    SAME_RECORDING,
    SAME_WHITENED,
    correlation,
    mark_recordings,
)
from serpipe.features.decoding import DecodedClip
from serpipe.features.encoder import load_encoder
from serpipe.features.fingerprint import RATE, find_candidates, fingerprint
from serpipe.features.recordings import recordings
from serpipe.features.trim import trim
from serpipe.pipeline.folds import make_split

from .conftest import Command, extract_with
from .messages import assert_names, assert_refused, raises_about

#: Of float64, shape (n_samples,) or (n_samples, n_channels).
Samples = Any


def resampled(samples: Samples, old: int, new: int) -> Samples:
    return soxr.resample(samples, old, new)


def noisy(samples: Samples, decibels: float) -> Samples:
    noise = np.random.default_rng(0).standard_normal(len(samples))
    return samples + noise * np.sqrt(np.mean(samples**2)) * 10 ** (-decibels / 20)


def filtered(samples: Samples, rate: int, kind: str) -> Samples:
    return sosfilt(butter(2, 1000, kind, fs=rate, output="sos"), samples)


def through_telephone(samples: Samples, rate: int) -> Samples:
    band = butter(4, [300, 3400], "bandpass", fs=8000, output="sos")
    return sosfilt(band, resampled(samples, rate, 8000))


def silence(seconds: float, rate: int) -> Samples:
    return np.zeros(int(seconds * rate))


#: From samples and their rate to samples, rate, suffix and subtype of the copy.
Change = Callable[[Samples, int], tuple[Samples, int, str, str]]
CHANGES: dict[str, Change] = {
    "format": lambda x, r: (x, r, "wav", "PCM_16"),
    "gain": lambda x, r: (0.8 * x, r, "wav", "PCM_16"),
    "quiet": lambda x, r: (0.1 * x, r, "wav", "PCM_16"),
    "8kHz": lambda x, r: (resampled(x, r, 8000), 8000, "wav", "PCM_16"),
    "48kHz": lambda x, r: (resampled(x, r, 48000), 48000, "wav", "PCM_16"),
    "44kHz": lambda x, r: (resampled(x, r, 44100), 44100, "wav", "PCM_16"),
    "through8kHz": lambda x, r: (resampled(resampled(x, r, 8000), 8000, r), r, "wav", "PCM_16"),
    "telephone": lambda x, r: (resampled(x, r, 8000), 8000, "wav", "ULAW"),
    "gsm": lambda x, r: (through_telephone(x, r), 8000, "wav", "GSM610"),
    "mp3": lambda x, r: (x, r, "mp3", "MPEG_LAYER_III"),
    "ogg": lambda x, r: (x, r, "ogg", "VORBIS"),
    "trim50": lambda x, r: (x[r // 20 :], r, "wav", "PCM_16"),
    "first100": lambda x, r: (x[r // 10 :], r, "wav", "PCM_16"),
    "last500": lambda x, r: (x[: -r // 2], r, "wav", "PCM_16"),
    "silence": lambda x, r: (trim(x.astype(np.float32), 30), r, "wav", "PCM_16"),
    "trim500": lambda x, r: (x[r // 2 : -r // 2], r, "wav", "PCM_16"),
    "noise": lambda x, r: (noisy(x, 30), r, "wav", "PCM_16"),
    "loud-noise": lambda x, r: (noisy(x, 10), r, "wav", "PCM_16"),
    "offset": lambda x, r: (x + 0.02, r, "wav", "PCM_16"),
    "inverted": lambda x, r: (-x, r, "wav", "PCM_16"),
    "preemphasis": lambda x, r: (np.diff(x, prepend=0), r, "wav", "PCM_16"),
    "highpass": lambda x, r: (filtered(x, r, "highpass"), r, "wav", "PCM_16"),
    "lowpass": lambda x, r: (filtered(x, r, "lowpass"), r, "wav", "PCM_16"),
    "stereo": lambda x, r: (np.stack([x, 0 * x], axis=1), r, "wav", "PCM_16"),
    "padded": lambda x, r: (
        np.concatenate([silence(0.3, r), x, silence(0.6, r)]), r, "wav", "PCM_16",
    ),
}  # fmt: skip


def plant(source: Path, folder: Path, change: str) -> Path:
    """Write a changed copy of a clip."""
    samples, rate = soundfile.read(source)
    samples, rate, suffix, subtype = CHANGES[change](samples, rate)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}_{change}.{suffix}"
    soundfile.write(path, np.clip(samples, -1, 1), rate, subtype=subtype)
    return path


def decode(clips: Iterable[Clip]) -> list[DecodedClip]:
    decoded = []
    for clip in clips:
        waveform, facts = read_waveform(clip.file, 16000)
        decoded.append(DecodedClip(clip, replace(facts, fingerprint=fingerprint(waveform, 16000))))
    return decoded


def file_of(decoded: DecodedClip) -> Path:
    return Path(str(decoded.clip.file))


def as_clip(path: Path, speaker: str = "01", emotion: str = "calm") -> Clip:
    return Clip(path, path.name, path.name, "ravdess", speaker, "male", emotion)


@pytest.fixture(scope="module")
def originals(sample: Path) -> list[DecodedClip]:
    return decode(scan(sample, RAVDESS).clips)


def write_manifest(folder: Path, rows: Iterable[tuple[Path, str, str]]) -> Path:
    """Write a table of clips: path, speaker and emotion."""
    path = folder / "clips.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "name", "speaker", "emotion"])
        for clip, speaker, emotion in rows:
            name = str(clip.relative_to(folder))
            writer.writerow([name, name.replace("/", "-"), speaker, emotion])
    return path


def of_clips(folder: Path) -> list[tuple[Path, str, str]]:
    return [(Path(str(c.file)), c.speaker, c.emotion) for c in scan(folder, RAVDESS).clips]


def test_every_kind_of_copy_has_the_recording_of_its_original(
    originals: list[DecodedClip], tmp_path: Path
) -> None:
    sources = originals[5::100]
    planted = {
        (source.clip.name, change): plant(file_of(source), tmp_path, change)
        for source in sources
        for change in CHANGES
    }
    marked = mark_recordings([*originals, *decode(map(as_clip, planted.values()))], workers=2)
    recording = {each.clip.name: each.recording for each in marked}
    lost = [key for key, path in planted.items() if recording[path.name] != recording[key[0]]]
    assert lost == []
    assert len(set(recording.values())) == len(originals)


def test_no_clip_of_the_sample_is_a_copy(originals: list[DecodedClip]) -> None:
    marked = mark_recordings(originals)
    assert [each.recording for each in marked] == [each.facts.audio_sha256 for each in originals]
    assert {each.unconfirmed_copy_of for each in marked} == {""}


def test_takes_of_one_sentence_by_one_speaker_are_different_recordings(shared: Path) -> None:
    actor = shared / "data" / "ravdess" / "Actor_07"
    if not actor.is_dir():
        pytest.skip(f"{actor} is not here")
    marked = mark_recordings(decode(scan(actor, RAVDESS).clips), workers=2)
    groups: dict[str, list[str]] = {}
    for each in marked:
        groups.setdefault(each.recording, []).append(each.clip.name)
    same = [sorted(names) for names in groups.values() if len(names) > 1]
    assert same == [["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]]  # the release's own fault


def test_the_48_khz_originals_are_the_recordings_of_the_16_khz_clips(shared: Path) -> None:
    originals = sorted((shared / "data" / "originals" / "ravdess").rglob("*.wav"))
    files = [shared / "data" / "ravdess" / path.parent.name for path in originals]
    clips = [folder / f"{path.stem}.flac" for folder, path in zip(files, originals, strict=True)]
    if not all(path.is_file() for path in clips):
        pytest.skip("the 16 kHz clips are not here")
    marked = mark_recordings(decode(map(as_clip, [*originals, *clips])), workers=2)
    groups: dict[str, set[str]] = {}
    for each in marked:
        groups.setdefault(each.recording, set()).add(each.clip.path)
    names = {frozenset({path.name, f"{path.stem}.flac"}) for path in originals}
    # In the release, these two clips are one recording.
    (twins,) = [paths for paths in groups.values() if len(paths) > 2]
    assert {Path(path).stem for path in twins} == {"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"}
    assert {frozenset(paths) for paths in groups.values() if paths != twins} == {
        pair for pair in names if not pair <= twins
    }


def test_waveforms_of_copies_agree_and_those_of_other_clips_do_not(
    originals: list[DecodedClip], tmp_path: Path
) -> None:
    source = file_of(originals[0])
    waveform = read_waveform(source, RATE)[0]
    for change in CHANGES:
        copy = read_waveform(plant(source, tmp_path, change), RATE)[0]
        correlations = correlation(waveform, copy), correlation(waveform, copy, whiten=True)
        assert max(correlations[0] - SAME_RECORDING, correlations[1] - SAME_WHITENED) > 0.1
        assert correlation(copy, waveform) == pytest.approx(correlations[0], abs=0.01)
    others = [h for h in originals[1:] if h.clip.speaker == originals[0].clip.speaker]
    for other in others:
        different = read_waveform(other.clip.file, RATE)[0]
        assert correlation(waveform, different) < SAME_RECORDING - 0.2
        assert correlation(waveform, different, whiten=True) < SAME_WHITENED - 0.2
    hum = np.sin(np.arange(3 * RATE) * 2 * np.pi * 50 / RATE).astype(np.float32)
    humming = [each[: 2 * RATE] + hum[: 2 * RATE] for each in (
        waveform, read_waveform(others[0].clip.file, RATE)[0])]  # fmt: skip
    assert correlation(*humming) < SAME_RECORDING - 0.2
    assert correlation(*humming, whiten=True) < SAME_WHITENED - 0.1
    beep = 0.5 * np.sin(np.arange(RATE // 2) * 2 * np.pi * 1000 / RATE).astype(np.float32)
    beeping = [np.concatenate([beep, each / np.abs(each).max() / 2]) for each in (
        waveform, read_waveform(others[0].clip.file, RATE)[0])]  # fmt: skip
    assert correlation(*beeping) < SAME_RECORDING - 0.2
    assert correlation(*beeping, whiten=True) < SAME_WHITENED - 0.1


def test_recordings_depend_neither_on_order_nor_on_other_clips(
    originals: list[DecodedClip], tmp_path: Path
) -> None:
    copy = decode([as_clip(plant(file_of(originals[0]), tmp_path, "gain"))])
    few, many = [*originals[:20], *copy], [*originals, *copy]
    random.Random(0).shuffle(many)
    recordings = [
        {each.clip.name: each.recording for each in mark_recordings(clips)} for clips in (few, many)
    ]
    assert recordings[0].items() <= recordings[1].items()
    smallest = min(originals[0].facts.audio_sha256, copy[0].facts.audio_sha256)
    assert recordings[0][originals[0].clip.name] == recordings[0][copy[0].clip.name] == smallest


@pytest.mark.parametrize("emotion", ["same", "other"])
def test_copies_under_another_speaker_stop_extract_and_both_files_are_named(
    serpipe: Command, few_clips: Path, small_encoder: Path, emotion: str
) -> None:
    clips = of_clips(few_clips)
    source, speaker, felt = clips[3]
    changes = ["format", "gain", "8kHz", "mp3", "trim50", "noise", "inverted", "stereo", "padded"]
    planted = [plant(source, few_clips / "more", change) for change in changes]
    theirs = ("05", felt) if emotion == "same" else (speaker, "another")
    table = write_manifest(few_clips, [*clips, *((path, *theirs) for path in planted)])
    done = serpipe("extract", "--manifest", table, "--encoder", small_encoder, "--out", "c.h5")
    assert done.code == 2
    lines = done.err.splitlines()
    for path in planted:
        assert [source.name in line for line in lines if path.name in line] == [True]
    assert not Path("c.h5").exists()
    skipped = serpipe("extract", "--manifest", table, "--encoder", small_encoder, "--skip-bad",
                      "--out", "c.h5")  # fmt: skip
    assert skipped.code == 0
    assert len(open_cache(Path("c.h5"))) == 40


def test_copies_of_one_speaker_stay_together_and_a_check_names_them(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    clips = of_clips(few_clips)
    copies = {}
    for place, change in ((0, "gain"), (9, "8kHz"), (20, "trim50"), (31, "ogg")):
        path, speaker, felt = clips[place]
        copies[path.name] = plant(path, few_clips / "more", change)
        clips.append((copies[path.name], speaker, felt))
    table = write_manifest(few_clips, clips)
    done = serpipe("extract", "--manifest", table, "--encoder", small_encoder, "--format", "json")
    assert done.code == 0
    content = json.loads(done.out)
    assert [len(group) for group in content["same_recording"]] == [2, 2, 2, 2]
    assert content["same_bytes"] == []
    fitted = serpipe(
        "fit", "--head", "lr", "--split", "random:5", "--layers", "1", "--grid", "lr.C=0.01"
    )
    run = Path(fitted.out.strip())
    with (run / "clips.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    for original, copy in copies.items():
        assert rows[original]["fold"] == rows[copy.name]["fold"]
        assert rows[original]["recording"] == rows[copy.name]["recording"]
    results = read_results(run)
    (check,) = [check for check in run_checks(results) if check.code == "SER008"]
    for name in list(copies)[:3]:
        assert name in check.finding
    labels = results.truth.copy()
    labels[[Path(path).name == copies[name].name for path in results.clips["path"]]] = "other"
    relabelled = replace(results, clips={**results.clips, "label": labels})
    (differing,) = [check for check in run_checks(relabelled) if check.code == "SER008"]
    assert differing.finding.startswith(check.finding)
    assert_names(differing.finding.removeprefix(check.finding), 1)
    unread = np.array(["", "x.wav", *[""] * (len(rows) - 2)])
    changed = replace(results, clips={**results.clips, "unconfirmed_copy_of": unread})
    codes = [{each.code for each in run_checks(each)} for each in (results, changed)]
    assert ["SER022" in each for each in codes] == [False, True]
    (copied,) = [line for line in serpipe("cache", "info").out.splitlines() if "recordings" in line]
    assert_names(copied, 8, 4)


def test_finetune_refuses_a_copy_under_another_speaker(serpipe: Command, few_clips: Path) -> None:
    clips = of_clips(few_clips)
    copy = plant(clips[0][0], few_clips / "more", "trim50")
    table = write_manifest(few_clips, [*clips, (copy, "05", clips[0][2])])
    done = serpipe("finetune", "--manifest", table, "--network", "cnn", "--epochs", "1")
    assert done.code == 2
    assert copy.name in done.err
    assert clips[0][0].name in done.err


def test_only_new_clips_are_compared(
    few_clips: Path, small_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(str(small_encoder))
    compared: list[int] = []

    def track(items: Iterable[Any], what: object, total: int) -> Iterable[Any]:
        compared.extend([total] if what == "comparing possible copies" else [])
        return items

    def again() -> Any:
        compared.clear()
        clips = [
            replace(clip, speaker="x", speaker_id="x", emotion="x", shared_emotion="")
            for clip in scan(few_clips, RAVDESS).clips
        ]
        done = extract_with(encoder, clips, tmp_path / "c.h5", track=track)
        return recordings(done.cache.clips).tolist()

    source = next(few_clips.rglob("03-01-01*-01.flac"))
    first = plant(source, tmp_path / "aside", "gain")
    shutil.move(first, few_clips / "Actor_01" / "03-01-08-02-02-02-01.wav")
    pairs_compared = again()
    assert compared
    before = (tmp_path / "c.h5").read_bytes()
    assert again() == pairs_compared
    assert compared == []
    assert (tmp_path / "c.h5").read_bytes() == before
    second = plant(source, tmp_path / "aside", "trim50")
    shutil.move(second, few_clips / "Actor_01" / "03-01-08-02-02-01-01.wav")
    assert len(again()) == len(pairs_compared) + 1
    assert compared
    assert len(set(again())) == len(set(pairs_compared))
    anew = tmp_path / "c.h5"
    grown = anew.read_bytes()
    anew.unlink()
    again()
    assert anew.read_bytes() == grown
    monkeypatch.setattr("serpipe.features.extract.AUDIO_CHECKS", AUDIO_CHECKS + 1)
    again()  # a later version may find copies that this one missed
    assert compared


def test_clips_that_cannot_be_read_again_are_reported_as_unconfirmed_copies(
    originals: list[DecodedClip], tmp_path: Path
) -> None:
    path = plant(file_of(originals[0]), tmp_path, "gain")
    copy = decode([as_clip(path)])
    path.unlink()
    marked = mark_recordings([*originals[:10], *copy])
    assert len({each.recording for each in marked}) == 11
    unconfirmed = {each.clip.path: each.unconfirmed_copy_of for each in marked
                   if each.unconfirmed_copy_of}  # fmt: skip
    assert unconfirmed == {
        path.name: originals[0].clip.path, originals[0].clip.path: path.name
    }  # fmt: skip


@pytest.mark.parametrize("column", ["recording", "audio_sha256", "sha256"])
@pytest.mark.parametrize("what", ["speaker", "emotion"])
@pytest.mark.parametrize("split", ["loso", "kfold:3", "random:3", "random:50/25/25"])
def test_no_split_takes_a_recording_of_two_speakers_or_emotions(
    column: str, what: str, split: str
) -> None:
    n = 24
    clips = {
        "speaker": np.repeat([f"{k}" for k in range(6)], 4), "corpus": np.full(n, "c"),
        "emotion": np.tile(["sad", "happy"], 12), "path": np.array([f"{k}.wav" for k in range(n)]),
        "sha256": np.array([f"bytes{k:02d}" for k in range(n)]),
    }  # fmt: skip
    columns = ["sha256", "audio_sha256", "recording"]
    for name in columns[1 : columns.index(column) + 1]:  # an older table lacks the later ones
        clips[name] = np.array([f"{name}{k:02d}" for k in range(n)])
    make_split(split, clips, clips["emotion"])
    other = 4 if what == "speaker" else 1
    clips[column][other] = clips[column][0]
    with raises_about(UserError, f"{other}.wav", "0.wav", what):
        make_split(split, clips, clips["emotion"])


def test_fit_finds_copies_in_a_cache_without_recordings(
    serpipe: Command, extracted_once: Path
) -> None:
    cache = open_cache(next((extracted_once / "features" / "cache").glob("*.h5")))
    later = ("recording", "unconfirmed_copy_of", "audio_sha256")
    table = {name: column for name, column in cache.clips.items() if name not in later}
    felt = table["emotion"]
    copy = int(np.flatnonzero((felt == felt[0]) & (table["speaker"] != table["speaker"][0]))[0])

    def write(rows: np.ndarray[Any, Any]) -> None:
        def values(pooling: str, layer: str) -> np.ndarray[Any, Any]:
            return cache.read_rows(pooling, layer, rows)

        write_cache(Path("old.h5"), cache.key, {}, table, [(np.arange(len(rows)), values)])

    fit = ("fit", "--head", "lr", "--cache", "old.h5", "--layers", "1", "--grid", "lr.C=0.01")
    rows = np.arange(len(cache))
    write(rows)
    assert serpipe(*fit).code == 0
    rows[copy] = 0
    write(rows)
    assert_refused(serpipe(*fit), table["path"][0], table["path"][copy])


def test_candidates_are_pairs_that_share_hashes_and_no_others() -> None:
    draw = np.random.default_rng(0)
    prints = [np.sort(draw.integers(0, 2**32, 64, np.uint32)) for _ in range(300)]
    prints[7][:12] = prints[200][:12]
    prints[9][:2] = prints[201][:2]  # too few
    for each in prints:
        each[-1] = 4_000_000_000  # of every clip: says nothing
    candidates = find_candidates([np.sort(each).astype("<u4").tobytes() for each in prints])
    assert candidates.tolist() == [[7, 200]]
    assert find_candidates([]).shape == (0, 2)
    assert find_candidates([b"", prints[0].tobytes()]).shape == (0, 2)
