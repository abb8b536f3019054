"""Columns that are held out besides the speakers: new texts, and what they are worth."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serpipe.artifacts.report.checks import run_checks
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.run.results import RunResults, read_results
from serpipe.artifacts.run.summary import read_summary
from serpipe.features.cache import open_cache
from serpipe.pipeline.folds import selection_folds
from serpipe.pipeline.hold_out_column import PARTS, divide_column
from serpipe.pipeline.nuisance import MOST_FOLDS, _pool
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.plan import (
    Plan,
    inner_title,
    make_plan,
)

from .conftest import Command, write_hashed
from .messages import assert_refused
from .test_honesty import QUICK, write_voices

LABELS = ("angry", "happy", "sad")


def write_texts(path: Path, speakers: int, texts: int, **columns: Any) -> Path:
    """Write a cache in which each speaker says each text once in each of three emotions."""
    n = speakers * texts * len(LABELS)
    text = np.tile(np.repeat(np.arange(texts), len(LABELS)), speakers)
    given = {
        "speaker": np.array([f"p{row // (n // speakers):02d}" for row in range(n)]),
        "emotion": np.tile(LABELS, n // len(LABELS)),
        "statement": np.array([f"text {each}" for each in text]),
    } | columns
    return write_voices(path, list(range(n)), width=3, **given)


def known_label_texts(path: Path) -> Path:
    """Write a cache in which embeddings reveal the text, and the text nearly the label.

    Six speakers say each of four texts twice. Who knows the text knows the label, and a new text
    says nothing.
    """
    texts = np.tile(np.arange(4), 6 * 2)
    return write_voices(
        path,
        texts.tolist(),
        speaker=np.repeat([f"p{each:02d}" for each in range(6)], 8),
        statement=np.array([f"text {each}" for each in texts]),
        emotion=np.where(np.arange(48) % 13 == 0, "happy", np.where(texts % 2, "angry", "happy")),
    )


def plan(cache: Path, **options: Any) -> Plan:
    return make_plan(open_cache(cache), Protocol(**options))


def assert_apart(of: Plan) -> None:
    """No speaker and no text of a test clip is in training, and each clip is tested once."""
    tested = np.concatenate([fold.test for fold in of.split.folds])
    assert sorted(tested) == list(range(len(of.clips["path"])))
    for fold in of.split.folds:
        assert len(fold.train)
        for column in (of.clips["speaker"], of.clips["statement"]):
            assert not set(column[fold.train]) & set(column[fold.test])


@pytest.mark.parametrize(
    ("split", "texts", "n_folds"),
    [("loso", 2, 12), ("loso", 12, 6 * PARTS), ("kfold:3", 4, 12), ("file", 3, 6)],
)
def test_neither_speaker_nor_text_of_a_test_clip_is_in_training(
    split: str, texts: int, n_folds: int, tmp_path: Path
) -> None:
    cache = write_texts(tmp_path / "c.h5", 6, texts)
    if split == "file":
        folds = tmp_path / "folds.csv"
        folds.write_text("speaker,fold\n" + "".join(f"p{k:02d},{k % 2}\n" for k in range(6)))
        split = f"file:{folds}"
    made = plan(cache, split=split, hold_out="statement")
    assert len(made.split.folds) == len({fold.name for fold in made.split.folds}) == n_folds
    assert_apart(made)


@pytest.mark.parametrize("texts", [4, 12])
def test_inner_folds_hold_out_speakers_and_texts(texts: int, tmp_path: Path) -> None:
    made = plan(write_texts(tmp_path / "c.h5", 6, texts), hold_out="statement")
    problem = made.problem
    for fold in (*problem.folds, problem.everybody()):
        inner = selection_folds(fold, problem.strata[fold.train], problem.speakers[fold.train])
        tested = np.concatenate([part.test for part in inner])
        assert sorted(tested) == list(range(len(fold.train)))
        for part in inner:
            train, test = fold.train[part.train], fold.train[part.test]
            for column in (problem.speakers, made.clips["statement"]):
                assert not set(column[train]) & set(column[test])
    assert "statement" in inner_title(made, [{"C": (0.1, 1.0)}])


def test_inner_folds_hold_out_speakers_alone_where_one_text_is_left_and_the_run_says_so(
    tmp_path: Path,
) -> None:
    made = plan(write_texts(tmp_path / "c.h5", 6, 2), hold_out="statement")
    for fold in made.split.folds:
        speakers = made.problem.speakers[fold.train]
        inner = selection_folds(fold, made.problem.strata[fold.train], speakers)
        assert len(inner) == 5
        for part in inner:
            assert not set(speakers[part.train]) & set(speakers[part.test])
    assert any("12 of 12" in each and "statement" in each for each in made.assumptions)
    assert "statement" not in inner_title(made, [{"C": (0.1, 1.0)}])


def test_many_values_are_divided_into_a_few_balanced_parts_whatever_the_order_of_the_clips() -> (
    None
):
    draw = np.random.default_rng(0)
    words = np.array([f"word {each:03d}" for each in draw.integers(0, 200, 3000)])
    labels = draw.choice(LABELS, 3000, p=[0.6, 0.3, 0.1])
    clips = {"word": words, "path": words}
    divided = divide_column("--hold-out word", clips, "word", labels)
    assert len(divided.assumptions) == 1
    counts = np.unique(divided.parts, return_counts=True)[1]
    assert len(counts) == PARTS
    assert counts.max() < 1.1 * counts.min()
    for label in LABELS:
        of_label = np.unique(divided.parts[labels == label], return_counts=True)[1]
        assert of_label.max() < 1.5 * of_label.min()
    order = draw.permutation(3000)
    other = divide_column(
        "--hold-out word", {"word": words[order], "path": words}, "word", labels[order]
    )
    assert (other.parts == divided.parts[order]).all()


def test_two_spellings_of_a_text_are_one(tmp_path: Path) -> None:
    texts = ["Dogs are sitting.", "dogs are  sitting", "Kids are talking", "KIDS ARE TALKING!"]
    cache = write_texts(tmp_path / "c.h5", 4, 4, statement=np.tile(np.repeat(texts, 3), 4))
    made = plan(cache, hold_out="statement")
    assert len(made.split.folds) == 4 * 2
    for fold in made.split.folds:
        first = {text[:1].casefold() for text in made.clips["statement"][fold.test]}
        assert not first & {text[:1].casefold() for text in made.clips["statement"][fold.train]}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--hold-out", "nothing"], "statement"),  # the columns that there are
        (["--hold-out", "speaker"], "statement"),
        (["--hold-out", "path"], "statement"),
        (["--hold-out", "emotion"], "emotion"),
        (["--hold-out", "mood"], "mood"),  # determines the label under another name
        (["--hold-out", "style"], "clip0003.wav"),  # the first without a value
        (["--hold-out", "room"], "studio"),  # the only value
        (["--hold-out", "statement", "--split", "random:3"], "random:3"),
        (["--hold-out", "statement", "--split", "holdout:60/20/20"], "holdout:60/20/20"),
        (["--hold-out", "statement", "--split", "column:statement"], "column:statement"),
        (["--hold-out", "statement", "--train-on", "a", "--test-on", "b"], "statement"),
        (["--split", "column:room"], "studio"),
        (["--split", "column:"], "column:NAME"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    options: list[str], named: str, serpipe: Command, tmp_path: Path
) -> None:
    n = 6 * 3 * 3
    cache = write_texts(
        tmp_path / "c.h5", 6, 3,
        mood=np.tile(["cross", "glad", "blue"], n // 3),
        style=np.array(["read"] * 3 + [""] + ["free"] * (n - 4)),
        room=np.full(n, "studio"),
        corpus=np.array(["a"] * (n // 2) + ["b"] * (n // 2)),
        speaker_id=np.array([f"p{row // 9:02d}" for row in range(n)]),
    )  # fmt: skip
    done = serpipe("fit", "--cache", cache, "--head", "lr", *options)
    assert_refused(done, named)
    assert not Path("artifacts").exists()


def known(results: RunResults) -> list[str]:
    return [check.advice for check in run_checks(results) if check.code == "SER030"]


def fitted(serpipe: Command, cache: Path, *options: object) -> RunResults:
    done = serpipe("fit", "--cache", cache, "--jobs", 1, *QUICK, *options)
    assert done.code == 0, done.err
    return read_results(Path(done.out.strip()))


def uar(results: RunResults) -> float:
    return results.scores("lr")["uar"].value


def test_what_known_texts_are_worth_is_measured_reported_and_tabulated(
    serpipe: Command, tmp_path: Path
) -> None:
    cache = known_label_texts(tmp_path / "c.h5")
    by_speaker = fitted(serpipe, cache)
    assert uar(by_speaker) > 0.8
    assert len(known(by_speaker)) == 1
    held_out = fitted(serpipe, cache, "--hold-out", "statement")
    assert uar(held_out) < 0.6
    assert not known(held_out)
    assert held_out.summary.hold_out == "statement"
    assert held_out.summary.split == "loso"
    (advice,) = known(by_speaker)  # the runs are beside each other now
    assert f"{100 * uar(held_out):.1f}" in advice
    assert held_out.run.name in advice
    by_text = fitted(serpipe, cache, "--split", "column:statement")
    assert by_text.summary.has_mark("INFLATED")
    assert not known(by_text)

    done = serpipe("report", "--matrix", "--format", "json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    rows = {row["protocol"]: row for row in content["tables"]["matrix-lr"]}
    assert list(rows) == ["new text, speakers shared", "new speaker", "new speaker and text"]
    new_text = rows["new speaker and text"]
    assert new_text["hold_out"] == "statement"
    assert new_text["uar"] == pytest.approx(uar(held_out))
    assert new_text["difference"] == pytest.approx(uar(held_out) - uar(by_speaker))
    assert 0 < new_text["p"] < 0.05
    assert rows["new text, speakers shared"]["p"] is None  # marked: not tested
    commands = re.findall("`(serpipe fit .*?)`", "\n".join(content["notes"]))
    assert len(commands) == 3
    for command in commands:  # each makes the row that was missing
        assert serpipe(*command.split()[1:]).code == 0
    content = json.loads(serpipe("report", "--matrix", "--format", "json").out)
    rows = {row["protocol"]: row for row in content["tables"]["matrix-lr"]}
    assert len(rows) == 6
    assert [row["split"] for row in rows.values()].count("random:5") == 1
    assert "PERMUTED" in rows["new speaker, labels shuffled"]["warning"]
    assert not re.findall("`(serpipe fit .*?)`", "\n".join(content["notes"]))


def test_a_matrix_of_other_clips_or_with_other_reports_is_refused(
    serpipe: Command, tmp_path: Path
) -> None:
    cache = write_texts(tmp_path / "c.h5", 6, 2)
    assert serpipe("report", "--matrix").code == 2  # no run yet
    one = fitted(serpipe, cache)
    other = fitted(serpipe, cache, "--keep", "angry,sad")
    done = serpipe("report", "--matrix", one.run, other.run)
    assert_refused(done, one.run.name)
    assert serpipe("report", "--matrix", "--compare-layers", "lr", one.run).code == 2
    assert serpipe("report", "--matrix", one.run).code == 0


def test_new_texts_and_tables_without_texts_are_not_reported(tmp_path: Path) -> None:
    n = 6 * 2 * 3

    def codes(name: str, **columns: Any) -> list[str]:
        cache = write_texts(tmp_path / name, 6, 2, **columns)
        return [code for code, _ in plan(cache).findings]

    own = np.array([f"p{row // 6:02d} says {row % 6}" for row in range(n)])
    assert "SER030" in codes("known.h5")
    assert "SER030" in codes("named.h5", statement=np.full(n, ""), Sentence=np.tile(["a", "b"], 18))
    assert "SER030" not in codes("own.h5", statement=own)
    assert "SER030" not in codes("one.h5", statement=np.full(n, "the same"))
    assert "SER030" not in codes("none.h5", statement=np.full(n, ""))


def test_runs_of_versions_without_the_option_open_and_keep_their_names(
    serpipe: Command, tmp_path: Path
) -> None:
    results = fitted(serpipe, write_texts(tmp_path / "c.h5", 6, 2))
    path = results.run / "run.json"
    content = json.loads(path.read_text())
    del content["hold_out"]
    write_hashed(path, content)
    assert read_summary(results.run).hold_out == ""
    assert uar(read_results(results.run)) == uar(results)
    assert report_run(read_results(results.run)).tables
    assert "hold_out" not in Protocol().as_dict()
    assert Protocol(hold_out="statement").as_dict()["hold_out"] == "statement"


def test_pooled_nuisance_folds_keep_speakers_and_texts_apart(tmp_path: Path) -> None:
    made = plan(write_texts(tmp_path / "c.h5", 40, 2), hold_out="statement")
    assert len(made.split.folds) > MOST_FOLDS
    pooled = _pool(made.split.folds)
    assert len(pooled) < len(made.split.folds)
    assert sorted(np.concatenate([fold.test for fold in pooled])) == list(range(240))
    for fold in pooled:
        assert len(fold.train)
        for column in (made.clips["speaker"], made.clips["statement"]):
            assert not set(column[fold.train]) & set(column[fold.test])


def test_the_matrix_is_for_the_split_that_keeps_speakers_apart(
    serpipe: Command, tmp_path: Path
) -> None:
    cache = write_texts(tmp_path / "c.h5", 6, 2, take=np.tile(["first"] * 3 + ["second"] * 3, 6))
    fitted(serpipe, cache, "--split", "kfold:3")
    fitted(serpipe, cache, "--split", "kfold:3", "--hold-out", "take")
    done = serpipe("report", "--matrix", "--format", "json")
    rows = {row["protocol"]: row for row in json.loads(done.out)["tables"]["matrix-lr"]}
    assert {name: row["hold_out"] for name, row in rows.items()} == {
        "new speaker": "",
        "new speaker and take": "take",
    }
    one_split = fitted(serpipe, cache, "--split", "holdout:50/25/25")
    assert serpipe("report", "--matrix", one_split.run).code == 2
