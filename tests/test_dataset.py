"""A data set for PyTorch gives every clip that has a target, whole, with its label and speaker."""

import doctest
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from serpipe.corpora.clip import Clip
from serpipe.corpora.manifest import read_manifest
from serpipe.errors import BadClipsError, UserError
from serpipe.features import dataset as module
from serpipe.features.audio import read_waveform
from serpipe.features.dataset import ClipDataset, collate, corpus_dataset
from torch.utils.data import DataLoader

from .conftest import run_python, write_wav
from .messages import assert_names, raises_about

TONE = 0.1 * np.sin(np.arange(16000) / 10)


def five_clips(folder: Path, text: str = "") -> tuple[Clip, ...]:
    """Stereo clips of 1000, 2000, ... samples, of which some lack an emotion or a rating."""
    for n in range(1, 6):
        samples = np.stack([TONE, -0.5 * TONE], axis=1)[: 1000 * n]
        write_wav(folder / f"{n}.wav", samples)
    table = text or (
        "path,speaker,emotion,fatigue,room\n"
        "1.wav,anna,sad,3.5,hall\n2.wav,anna,,1,hall\n3.wav,bert,angry,,\n"
        "4.wav,bert,sad,0,hall\n5.wav,cleo,happy,7,kitchen\n"
    )
    (folder / "clips.csv").write_text(table)
    return read_manifest(folder / "clips.csv").clips


def stems(clips: Sequence[Clip]) -> list[str]:
    return [clip.name for clip in clips]


def test_every_clip_has_its_label_and_the_requested_rate() -> None:
    dataset = corpus_dataset("sample", 8000)
    assert len(dataset) == len(dataset.clips) == len(dataset.speakers) == 192
    assert dataset.labels == tuple(sorted({clip.emotion for clip in dataset.clips}))
    assert len(dataset.labels) == 8
    for index in (0, 100, 191):
        waveform, label = dataset[index]
        expected, facts = read_waveform(dataset.clips[index].file, 8000)
        np.testing.assert_array_equal(waveform.numpy(), expected)
        assert waveform.dtype == torch.float32
        assert len(waveform) == pytest.approx(8000 * facts.seconds, abs=1)
        assert dataset.labels[label] == dataset.clips[index].emotion  # type: ignore[index]
        assert dataset.speakers[index] == dataset.clips[index].speaker
    with pytest.raises(IndexError):  # what ends a loop over it
        dataset[192]


def test_clips_without_a_target_are_omitted(tmp_path: Path) -> None:
    clips = five_clips(tmp_path)
    words = ClipDataset(clips, 16000)
    assert stems(words.clips) == ["1", "3", "4", "5"]
    assert words.labels == ("angry", "happy", "sad")
    assert [words[i][1] for i in range(4)] == [2, 0, 2, 1]
    assert words.speakers == ("anna", "bert", "bert", "cleo")
    assert [len(words[i][0]) for i in range(4)] == [1000, 3000, 4000, 5000]
    numbers = ClipDataset(clips, 16000, target="fatigue")  # one of them 0, which is not empty
    assert stems(numbers.clips) == ["1", "2", "4", "5"]
    assert numbers.labels == ()
    assert [numbers[i][1] for i in range(4)] == [3.5, 1.0, 0.0, 7.0]
    assert stems(ClipDataset(clips, 16000, target="room").clips) == ["1", "2", "4", "5"]
    other = replace(clips[0], more={"fatigue": math.nan}), replace(clips[1], more={}), clips[4]
    assert stems(ClipDataset(other, 16000, target="fatigue").clips) == ["5"]


def test_label_indices_follow_the_given_order(tmp_path: Path) -> None:
    labels = ["sad", "fearful", "happy", "angry"]
    dataset = ClipDataset(five_clips(tmp_path), 16000, labels=labels)
    assert dataset.labels == tuple(labels)
    assert dataset.targets == (0, 3, 0, 2)


def test_the_requested_channel_is_used(tmp_path: Path) -> None:
    clips = five_clips(tmp_path)
    for channels, factor in (("mean", 0.25), ("left", 1.0), ("right", -0.5)):
        waveform, _ = ClipDataset(clips, 16000, channels=channels)[0]
        np.testing.assert_allclose(waveform, factor * TONE[:1000], atol=2 / 2**15)


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"target": "mood"}, ["target", "'mood'", "emotion", "fatigue", "room"]),
        ({"target": "speaker"}, ["target", "'speaker'"]),
        ({"target": "intensity"}, ["target", "intensity", 5]),
        ({"labels": ["sad", "angry"]}, ["5.wav", "emotion", "'happy'", "sad, angry"]),
        ({"labels": ["sad", "angry", "sad", "happy"]}, ["labels", "sad, angry, sad, happy"]),
        ({"labels": ["sad"], "target": "fatigue"}, ["target", "fatigue", "labels"]),
        ({"channels": "middle"}, ["channels", "middle"]),
        ({"sampling_rate": 16}, ["sampling rate", 16]),
    ],
)
def test_invalid_targets_are_refused_before_any_audio_is_read(
    tmp_path: Path, settings: dict[str, object], values: list[object]
) -> None:
    clips = five_clips(tmp_path)
    for clip in clips:
        Path(str(clip.file)).unlink()
    assert len(ClipDataset(clips, 16000)) == 4
    with raises_about(UserError, *values):
        ClipDataset(clips, **({"sampling_rate": 16000} | settings))  # type: ignore[arg-type]


def test_numbers_and_words_are_not_mixed(tmp_path: Path) -> None:
    clips = five_clips(tmp_path)
    other = replace(clips[1], more={"fatigue": "high"})
    with raises_about(UserError, "target", "fatigue", "3.5", "'high'"):
        ClipDataset((clips[0], other), 16000, target="fatigue")


def test_a_batch_holds_complete_clips_followed_by_zeros(tmp_path: Path) -> None:
    clips = five_clips(tmp_path)
    for target, kind in (("emotion", torch.int64), ("fatigue", torch.float32)):
        dataset = ClipDataset(clips, 16000, target=target)
        items = [dataset[i] for i in (2, 0, 3)]
        waveforms, lengths, targets = collate(items)
        assert (waveforms.dtype, lengths.dtype, targets.dtype) == (torch.float32, torch.int64, kind)
        assert waveforms.shape == (3, 5000)
        assert lengths.tolist() == [4000, 1000, 5000]
        assert targets.tolist() == [dataset.targets[i] for i in (2, 0, 3)]
        for row, length, (waveform, _) in zip(waveforms, lengths, items, strict=True):
            assert torch.equal(row[:length], waveform)
            assert not row[length:].any()


def test_spawned_worker_processes_give_the_same_batches(tmp_path: Path) -> None:
    dataset = ClipDataset(five_clips(tmp_path), 8000)
    here = list(DataLoader(dataset, 2, collate_fn=collate))
    there = list(
        DataLoader(dataset, 2, collate_fn=collate, num_workers=1, multiprocessing_context="spawn")
    )
    assert len(here) == len(there) == 2
    for ours, theirs in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_error_of_a_worker_names_the_bad_clip(tmp_path: Path) -> None:
    clips = five_clips(tmp_path)
    Path(str(clips[2].file)).write_bytes(b"")
    dataset = ClipDataset(clips, 8000)
    loader = DataLoader(
        dataset, 2, collate_fn=collate, num_workers=1, multiprocessing_context="spawn"
    )
    with pytest.raises(RuntimeError) as caught:  # that of torch, with the traceback of the worker
        list(loader)
    assert_names(str(caught.value).splitlines()[-1], clips[2].file)


def test_wrongly_named_files_are_refused_or_omitted(few_clips: Path) -> None:
    assert len(corpus_dataset(str(few_clips), 16000)) == 40
    write_wav(few_clips / "happy.wav", TONE)
    with raises_about(BadClipsError, few_clips / "happy.wav", "--skip-bad", lines=2):
        corpus_dataset(f"ravdess={few_clips}", 16000)
    assert len(corpus_dataset(f"ravdess={few_clips}", 16000, skip_bad=True)) == 40


def test_the_example_in_the_documentation_runs() -> None:
    (example,) = [
        test for test in doctest.DocTestFinder().find(module.ClipDataset) if test.examples
    ]
    assert "GroupKFold" in (example.docstring or "")
    assert doctest.DocTestRunner().run(example).failed == 0


def test_only_this_module_imports_torch() -> None:
    code = (
        "import sys, serpipe, serpipe.cli, serpipe.corpora.data\n"
        "assert 'torch' not in sys.modules\n"
        "import serpipe.features.dataset\n"
        "assert 'torch' in sys.modules\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
