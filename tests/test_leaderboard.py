"""The leaderboard takes a result only if its numbers follow from its own counts."""

import copy
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from serpipe.artifacts.leaderboard import MAX_BYTES, check_entry, entry_of, read_entry
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.pipeline.statistics import intervals

from .conftest import ROOT, Command
from .messages import assert_refused, raises_about

OURS = ROOT / "leaderboard" / "ravdess-whisper-tiny.en.json"
Content = dict[str, Any]


@pytest.fixture
def run(fitted_once: Path, serpipe: Command) -> Path:
    """A run of two heads on five speakers, in the working directory."""
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (folder,) = Path("artifacts/runs").iterdir()
    return folder


@pytest.fixture
def leaderboard(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes the page."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("make_leaderboard")


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_submitted_result_holds_the_scores_of_the_run_and_is_the_same_bytes(
    serpipe: Command, run: Path
) -> None:
    for name in ("first.json", "second.json"):
        done = serpipe("report", run, "--out", "report", "--submit", name)
        assert done.code == 0, done.err
    assert Path("first.json").read_bytes() == Path("second.json").read_bytes()
    entry, results = read_entry(Path("first.json")), read_results(run)
    assert entry == entry_of(results)
    assert entry.clips == 40 and entry.heads.keys() == {"lr", "svm"}
    assert {name: list(fold.test) for name, fold in entry.folds.items()} == {
        f"{n:02d}": [f"{n:02d}"] for n in range(1, 6)
    }
    for head, result in entry.heads.items():
        for key, expected in results.scores(head).items():
            stated = result.scores[key]
            assert (stated.value, stated.low, stated.high) == (
                expected.value, expected.low, expected.high,
            )  # fmt: skip
        for speaker, counts in results.counts(head).items():
            assert result.speakers[speaker].confusion_matrix == counts.tolist()
    assert entry.versions["serpipe"] and len(entry.commands) == 2


def set_at(*at: Any, value: Any) -> Callable[[Content], None]:
    """Return a change that sets an entry, given by the keys on the way to it."""

    def change(content: Content) -> None:
        inner: Any = content
        for key in at[:-1]:
            inner = inner[key]
        inner[at[-1]] = value(inner[at[-1]]) if callable(value) else value

    return change


def count_a_mistake_as_right(content: Content) -> None:
    matrix = content["heads"]["fuse"]["speakers"]["01"]["confusion_matrix"]
    row, column = next(
        (i, j) for i, counts in enumerate(matrix) for j, n in enumerate(counts) if n and i != j
    )
    matrix[row][column] -= 1
    matrix[row][row] += 1


def move_a_clip_to_another_label(content: Content) -> None:
    """In one head only, and with the UAR of the speaker that follows."""
    matrix = content["heads"]["lda"]["speakers"]["01"]["confusion_matrix"]
    matrix[0][0] -= 1
    matrix[1][0] += 1


def drop_the_interval(content: Content) -> None:
    score = content["heads"]["fuse"]["scores"]["uar"]
    score["low"] = score["high"] = None


def rename_speaker(content: Content, old: str, new: str) -> None:
    """Rename a speaker everywhere, so that only the spelling of the id is wrong."""
    for fold in content["folds"].values():
        for side in ("test", "train"):
            fold[side] = [new if each == old else each for each in fold[side]]
    for head in content["heads"].values():
        head["speakers"][new] = head["speakers"].pop(old)


def score_again(content: Content) -> None:
    """Compute the number of clips, all scores and all intervals from the counts."""
    for head in content["heads"].values():
        by_speaker = [head["speakers"][each] for each in sorted(head["speakers"])]
        counts = np.array([each["confusion_matrix"] for each in by_speaker])
        content["clips"] = int(counts.sum())
        for key, each in intervals(counts).items():
            head["scores"][key] = {"value": each.value, "low": each.low, "high": each.high}


def add_copy_of_speaker(content: Content, name: str) -> None:
    """Count the clips of a speaker twice, with a fold and scores that agree."""
    for fold in content["folds"].values():
        fold["train"].append(name)
    everybody = list(content["folds"])
    content["folds"][name] = {"test": [name], "train": everybody}
    for head in content["heads"].values():
        head["speakers"][name] = copy.deepcopy(head["speakers"]["01"])
    score_again(content)


def add_label_without_clips(content: Content) -> None:
    content["labels"].append("bored")
    for head in content["heads"].values():
        for speaker in head["speakers"].values():
            matrix = speaker["confusion_matrix"]
            speaker["confusion_matrix"] = [[*row, 0] for row in matrix] + [[0] * 9]
    score_again(content)


FUSE = ("heads", "fuse")
FIRST = (*FUSE, "speakers", "01")
CHANGES: dict[str, Callable[[Content], None]] = {
    "a higher UAR": set_at(*FUSE, "scores", "uar", "value", value=lambda uar: uar + 1e-4),
    "a narrower interval": set_at(*FUSE, "scores", "uar", "low", value=lambda low: low + 1e-4),
    "a higher accuracy": set_at(*FUSE, "scores", "accuracy", "value", value=0.9),
    "a higher UAR of a speaker": set_at(*FIRST, "uar", value=1.0),
    "a mistake counted as right": count_a_mistake_as_right,
    "a clip with another label": move_a_clip_to_another_label,
    "no interval": drop_the_interval,
    "an interval that is absent": lambda content: content["heads"]["fuse"]["scores"].pop("uar"),
    "a score that cannot be checked": set_at(
        *FUSE, "scores", value=lambda scores: scores | {"wa": scores["uar"]}
    ),
    "a speaker in training and test": set_at("folds", "01", "train", 0, value="01"),
    "a speaker who is tested twice": set_at("folds", "01", "test", value=["01", "02"]),
    "a fold without training": set_at("folds", "01", "train", value=[]),
    "fewer folds than speakers": lambda content: content["folds"].pop("24"),
    "a speaker who is not tested": lambda content: content["heads"]["fuse"]["speakers"].pop("24"),
    "a training speaker left out": lambda content: content["folds"]["01"]["train"].pop(),
    "a training speaker who is never tested": set_at("folds", "01", "train", 0, value="99"),
    "two spellings of a speaker": lambda content: rename_speaker(content, "02", "1"),
    "more speakers than the corpus has": lambda content: add_copy_of_speaker(content, "25"),
    "another number of folds": set_at("split", value="kfold:5"),
    "a split of no known form": set_at("split", value="loso:easy"),
    "a label without clips": add_label_without_clips,
    "a split of clips": set_at("split", value="random:5"),
    "a mark": set_at("warnings", value=["TRANSDUCTIVE: normalised by speaker"]),
    "more clips": set_at("clips", value=1441),
    "a negative count": set_at(*FIRST, "confusion_matrix", 0, 0, value=-1),
    "a huge count": set_at(*FIRST, "confusion_matrix", 0, 0, value=2**62),
    "a ragged matrix": set_at(*FIRST, "confusion_matrix", 0, value=[1]),
    "a label twice": set_at("labels", 1, value="angry"),
    "no hash of the weights": set_at("encoders", 0, "weights_sha256", value=""),
    "no command": set_at("commands", value=[]),
    "a number as text": set_at("clips", value="1440"),
    "an unknown field": set_at("encoders", 0, value=lambda encoder: encoder | {"note": ""}),
    "a field that is missing": lambda content: content.pop("versions"),
    "text that controls a terminal": set_at("corpus", value="RAVDESS\x1b[2J"),
    "a link": set_at("corpus", value="https://example.org"),
    "another link": set_at("encoders", 0, "encoder", value="see www.example.org"),
    "endless text": set_at("corpus", value="RAVDESS" * 1000),
    "another format": set_at("serpipe_result", value=2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_result_is_refused(change: Callable[[Content], None], tmp_path: Path) -> None:
    content = json.loads(OURS.read_text())
    assert read_entry(written(tmp_path / "entry.json", content)) == read_entry(OURS)
    change(content)
    path = written(tmp_path / "entry.json", content)
    with raises_about(UserError, path):
        read_entry(path)


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (MAX_BYTES + 1)):
        path.write_bytes(content)
        with raises_about(UserError, path):
            read_entry(path)
    with raises_about(UserError, tmp_path / "nothing.json"):
        read_entry(tmp_path / "nothing.json")


def test_intervals_are_over_groups_of_speakers_where_folds_keep_groups_together() -> None:
    entry = read_entry(OURS)
    speakers = sorted(entry.folds)
    groups = {speaker: f"pair {n // 2}" for n, speaker in enumerate(speakers)}
    folds = {
        group: replace(
            entry.folds["01"],
            test=[each for each in speakers if groups[each] == group],
            train=[each for each in speakers if groups[each] != group],
        )
        for group in set(groups.values())
    }
    in_pairs = replace(entry, groups=groups, folds=folds)
    with pytest.raises(UserError):
        check_entry(in_pairs, "entry")  # with the intervals over speakers

    def score_again(head: Any) -> Any:
        counts = np.array([head.speakers[each].confusion_matrix for each in speakers])
        by_pair = counts.reshape(12, 2, 8, 8).sum(axis=1)
        return replace(
            head,
            scores={
                key: replace(head.scores[key], value=each.value, low=each.low, high=each.high)
                for key, each in intervals(by_pair).items()
            },
        )

    heads = {name: score_again(head) for name, head in entry.heads.items()}
    check_entry(replace(in_pairs, heads=heads), "entry")
    first, second = (
        replace(folds["pair 0"], test=[each], train=[other for other in speakers if other != each])
        for each in speakers[:2]
    )
    shared = {**folds, "pair 0": first, "more": second}
    with raises_about(UserError, "'pair 0'"):
        check_entry(replace(in_pairs, heads=heads, folds=shared), "entry")


@pytest.mark.parametrize(
    "options",
    [
        ("--split", "random:4"),
        ("--split", "holdout:60/20/20"),
        ("--permute-labels",),
        ("--normalise", "speaker"),
        ("--split", "kfold:2", "--hold-out", "statement"),
    ],
    ids=lambda options: options[-1],
)
def test_a_run_that_cannot_be_compared_is_refused_before_anything_is_written(
    serpipe: Command, run: Path, options: tuple[str, ...]
) -> None:
    quick = ("--head", "lr", "--layers", "2", "--grid", "C=0.1")
    fitted = serpipe("fit", *quick, *options)
    assert fitted.code == 0, fitted.err
    done = serpipe("report", fitted.out.strip(), "--submit", "entry.json")
    assert_refused(done, fitted.out.strip())
    assert done.out == "" and not Path("entry.json").exists()


def test_a_comparison_cannot_be_submitted(serpipe: Command, run: Path) -> None:
    shutil.copytree(run, "copy")
    for arguments in ((run, "copy"), (run, "--matrix"), (run, "--compare-layers", "lr")):
        assert_refused(serpipe("report", *arguments, "--submit", "entry.json"), "--submit")


def test_the_page_shows_the_entries_in_the_repository(leaderboard: ModuleType) -> None:
    text = leaderboard.PAGE.read_text(encoding="utf-8")
    assert text == leaderboard.page(leaderboard.ENTRIES)
    ours = text.partition("Not reproduced")[0]
    assert ours.count(OURS.name) == len(read_entry(OURS).heads)


def test_the_page_is_not_made_of_a_changed_entry(leaderboard: ModuleType, tmp_path: Path) -> None:
    content = json.loads(OURS.read_text())
    for number, change in enumerate((None, count_a_mistake_as_right)):
        changed = copy.deepcopy(content)
        if change:
            change(changed)
        written(tmp_path / f"{number}.json", changed)
        if not change:
            leaderboard.page(tmp_path)
    with raises_about(UserError, tmp_path / "1.json"):
        leaderboard.page(tmp_path)


def test_names_in_an_entry_do_not_become_markup(leaderboard: ModuleType, tmp_path: Path) -> None:
    content = json.loads(OURS.read_text())
    content["corpus"] = "<img src=x>"
    content["encoders"][0]["encoder"] = "<script>|[link](page.md)"
    written(tmp_path / "entry.json", content)
    text = leaderboard.page(tmp_path)
    assert "<img" not in text.replace("\\<img", "") and "<script" not in text.replace(
        "\\<script", ""
    )
