"""The partitions that a corpus publishes, as a split."""

import json
from pathlib import Path

import numpy as np
import pytest
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.plan import Plan, make_plan

from .conftest import Command
from .messages import assert_refused, raises_about
from .test_honesty import write_voices

#: Twelve speakers of six clips each, three in each partition.
SPEAKERS = np.repeat(np.arange(12), 6).tolist()
PARTITIONS = np.repeat(["Train", "Development", "Test1", "Test2"], 18)


def corpus(path: Path, partitions: np.ndarray = PARTITIONS) -> Path:
    emotion = np.tile(["angry", "sad", "neutral"], 24)
    return write_voices(path, SPEAKERS, width=3, split=partitions, emotion=emotion)


def plan(cache: Path, split: str) -> Plan:
    return make_plan(open_cache(cache), Protocol(split=split))


@pytest.mark.parametrize("name", ["Test1", "Test2", "test1"])
def test_each_partition_has_its_part_and_the_other_test_sets_have_none(
    name: str, tmp_path: Path
) -> None:
    planned = plan(corpus(tmp_path / "c.h5"), f"partition:{name}")
    (fold,) = planned.split.folds
    of_clip = planned.clips["split"]
    assert fold.validation is not None
    assert set(of_clip[fold.test]) == {name.capitalize()}
    assert set(of_clip[fold.validation]) == {"Development"}
    assert set(of_clip[np.setdiff1d(fold.train, fold.validation)]) == {"Train"}
    assert len(fold.train) + len(fold.test) == len(of_clip) == 54
    assert len(fold.test) == 18


def test_without_a_development_set_inner_folds_choose(tmp_path: Path) -> None:
    partitions = np.where(PARTITIONS == "Development", "train", PARTITIONS)
    (fold,) = plan(corpus(tmp_path / "c.h5", partitions), "partition:Test1").split.folds
    assert fold.validation is None
    assert (len(fold.train), len(fold.test)) == (36, 18)  # "train" and "Train" are one partition


def test_partitions_that_share_a_speaker_are_refused(tmp_path: Path) -> None:
    partitions = PARTITIONS.copy()
    partitions[0] = "Test1"
    with raises_about(UserError, "speaker", "p00", "clip0000.wav", "kfold:N", "--manifest"):
        plan(corpus(tmp_path / "c.h5", partitions), "partition:Test1")


@pytest.mark.parametrize("split", ["partition:Test4", "partition:", "partition:Train"])
def test_a_partition_that_no_clip_has_is_refused(split: str, tmp_path: Path) -> None:
    with raises_about(UserError, split, "Development", "Test1", "Test2", "Train"):
        plan(corpus(tmp_path / "c.h5"), split)


def test_clips_without_partitions_are_refused(tmp_path: Path) -> None:
    cache = write_voices(tmp_path / "c.h5", SPEAKERS, width=3)
    with raises_about(UserError, "--split partition:Test1", "split"):
        plan(cache, "partition:Test1")


def test_a_label_that_is_not_tested_is_refused(tmp_path: Path) -> None:
    emotion = np.tile(["angry", "sad", "neutral"], 24)
    emotion[(PARTITIONS == "Test1") & (emotion == "sad")] = "angry"
    cache = write_voices(tmp_path / "c.h5", SPEAKERS, width=3, split=PARTITIONS, emotion=emotion)
    with raises_about(UserError, "--split partition:Test1", "'sad'", "--keep"):
        plan(cache, "partition:Test1")


def test_a_fit_scores_one_test_set_and_its_report_blames_no_draw(
    serpipe: Command, tmp_path: Path
) -> None:
    cache = corpus(tmp_path / "c.h5")
    fit = ("fit", "--cache", cache, "--head", "lr", "--grid", "lr.C=1,10")
    done = serpipe(*fit, "--split", "partition:Test1")
    assert done.code == 0, done.err
    run = Path(done.out.strip().splitlines()[-1])
    assert run.name.startswith("c-partition-Test1-lr-")
    results = read_results(run)
    assert len(results.truth) == 18
    assert set(results.clips["speaker"]) == {"p06", "p07", "p08"}
    report = serpipe("report", run, "--format", "json")
    codes = {check["code"] for check in json.loads(report.out)["checks"]}
    assert "SER001" not in codes  # no speaker is shared
    assert "SER025" not in codes  # nothing was drawn
    assert_refused(
        serpipe(*fit, "--split", "partition:Test1", "--repeats", "3"),
        "--repeats",
        "partition:Test1",
    )
