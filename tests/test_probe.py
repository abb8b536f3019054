"""A fine-tuned run is not shown alone: beside it is the frozen probe of its clips and folds."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serpipe.artifacts.report.comparison import compare_runs, report_runs
from serpipe.artifacts.report.report import Report, report_run
from serpipe.artifacts.report.table import Table
from serpipe.artifacts.run.csv_files import save_clips, save_predictions
from serpipe.artifacts.run.results import read_results
from serpipe.artifacts.run.summary import HeadSummary, RunSummary, read_summary, write_summary
from serpipe.errors import UserError
from serpipe.pipeline.fit import Choice, HeadFit, Predictions
from serpipe.pipeline.folds import Fold

from .conftest import Command, write_hashed
from .messages import assert_names, assert_refused

FINETUNED = "finetuned"
SPEAKERS = [f"{number:02d}" for number in range(10)]
LABELS = ["angry", "calm"]
EACH = 10  # clips of a speaker and label: as many may be wrong
#: Of how many of each speaker's angry clips a head is mistaken.
FEW = [1, 0, 2, 1, 0, 1, 2, 1, 0, 1]
MANY = [5, 4, 7, 6, 3, 8, 9, 4, 5, 6]
MIXED = [0, 1, 2, 1, 1, 0, 2, 1, 0, 2]


def write_run(run: Path, wrong: Mapping[str, list[int]], **fields: Any) -> Path:
    """Write a run in which heads are wrong in so many clips of each speaker."""
    clips = [(speaker, label, n) for speaker in SPEAKERS for label in LABELS for n in range(EACH)]
    truth = np.array([label for _, label, _ in clips])
    table = {
        "path": np.array([f"{speaker}-{label}-{n}.wav" for speaker, label, n in clips]),
        "speaker": np.array([speaker for speaker, *_ in clips]),
        "corpus": np.array(["mine"] * len(clips)),
    }
    folds = [
        Fold(speaker, np.flatnonzero(table["speaker"] != speaker),
             np.flatnonzero(table["speaker"] == speaker))
        for speaker in SPEAKERS
    ]  # fmt: skip
    save_clips(run, table, truth, folds)
    layer = "end to end" if FINETUNED in wrong else "2"
    grid = {"epoch" if FINETUNED in wrong else "C": (1.0, 2.0, 3.0)}
    chosen = {"fold": "", "layer": layer, "parameters": {next(iter(grid)): 1.0},
              "inner_score": None}  # fmt: skip
    fits = {"points": 1, "pruned": 0, "inner_not_converged": 0}
    for head, errors in wrong.items():
        mistaken = dict(zip(SPEAKERS, errors, strict=True))
        said = [
            "calm" if label == "angry" and n < mistaken[speaker] else label
            for speaker, label, n in clips
        ]
        found = Predictions(np.array(said), np.full((len(said), len(LABELS)), 0.5))
        final = Choice("", layer, {}, math.nan)
        save_predictions(
            run, head, HeadFit(found, {layer: found}, (), final, {}), table, truth, folds
        )
    heads = {
        head: HeadSummary(
            "", "probabilities (softmax)", grid, [],
            chosen | ({"temperature": 2.0} if head == "svm" else {}), fits, {},
        )
        for head in wrong
    }  # fmt: skip
    summary: dict[str, Any] = {
        "name": run.name, "corpus": "mine", "pooling": "mean", "target": "emotion", "changes": [],
        "encoder": {"encoder": "some/encoder", "revision": "1", "precision": "float32",
                    "device": "cpu", "weights_sha256": "abc"},
        "normalise": "none", "split": "loso", "split_title": "leave one speaker out", "inner": "",
        "warnings": [], "seed": 0, "layers": [layer], "labels": LABELS, "speakers": SPEAKERS,
        "clips": len(clips), "content": "", "planned": list(wrong),
        "heads": heads, "provenance": {},
    }  # fmt: skip
    write_summary(run, RunSummary(**(summary | fields)))
    return run


def edit(run: Path, **fields: Any) -> None:
    path = run / "run.json"
    write_hashed(path, json.loads(path.read_text()) | fields)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def encoder(run: Path, **fields: str) -> dict[str, str]:
    fields_of_run: dict[str, str] = json.loads((run / "run.json").read_text())["encoder"]
    return fields_of_run | fields


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "probe", {"lr": FEW, "svm": MIXED})


@pytest.fixture
def tuned(tmp_path: Path, probe: Path) -> Path:
    return write_run(tmp_path / "runs" / "tuned", {FINETUNED: MANY}, probe=probe.name)


def beside(report: Report) -> Table | None:
    return next((table for table in report.tables if table.name == "probe"), None)


def codes(report: Report) -> set[str]:
    return {check.code for check in report.checks}


def test_a_note_says_of_each_head_whether_its_probabilities_are_calibrated(
    probe: Path, tuned: Path
) -> None:
    notes = {
        head: next(note for note in report_run(read_results(run)).notes if f" of {head}:" in note)
        for run, head in ((probe, "lr"), (probe, "svm"), (tuned, FINETUNED))
    }
    assert "not calibrated" in notes["lr"] and "not calibrated" in notes[FINETUNED]
    assert "not calibrated" not in notes["svm"]


def test_the_probe_stands_right_below_the_headline_with_the_numbers_of_the_paired_test(
    tuned: Path,
) -> None:
    report = report_run(read_results(tuned))
    assert [table.name for table in report.tables[:2]] == ["nested", "probe"]
    table = report.tables[1]
    assert [row[0] for row in table.rows] == ["fine-tuned", "frozen lr", "frozen svm"]
    scores = [1 - sum(wrong) / (2 * EACH * len(SPEAKERS)) for wrong in (MANY, FEW, MIXED)]
    for row, score in zip(table.rows, scores, strict=True):
        assert row[1].startswith(f"{100 * score:.1f} [")
    p = 2 / 2 ** len(SPEAKERS)  # fine-tuning is worse for each of them
    for record, score in zip(table.records, scores[1:], strict=True):
        assert record["first_uar"] == pytest.approx(scores[0])
        assert record["second_uar"] == pytest.approx(score)
        assert record["difference"] == pytest.approx(scores[0] - score)
        assert record["low"] < record["difference"] < record["high"] < 0
        assert (record["p"], record["p_holm"]) == pytest.approx((p, 2 * p))
    assert table.bold == {(row, column) for row in (1, 2) for column in (0, 2, 3, 4)}
    assert table.rows[1][2].startswith("-24.0 [")


def test_it_is_in_all_that_a_report_prints_and_writes_and_goes_with_its_probe(
    serpipe: Command, tuned: Path, probe: Path
) -> None:
    output = serpipe("report", tuned).out
    assert "-24.0 [" in output
    folder = tuned / "report"
    records = json.loads((folder / "results.json").read_text())["tables"]["probe"]
    assert [record["second_head"] for record in records] == ["lr", "svm"]
    assert len((folder / "probe.csv").read_text().splitlines()) == 3
    assert "frozen lr" in (folder / "probe.tex").read_text()
    for name in ("index.html", "report.md"):
        assert "frozen svm" in (folder / name).read_text()
    edit(tuned, probe=None)
    assert serpipe("report", tuned).code == 0
    assert not list(folder.glob("probe.*"))
    assert "frozen svm" not in (folder / "index.html").read_text()


def other_clip(probe: Path) -> None:
    for path in ("clips.csv", "predictions/lr.csv", "predictions/svm.csv"):
        replace_in(probe / path, "03-angry-4.wav", "03-angry-44.wav")


def other_fold(probe: Path) -> None:
    replace_in(probe / "clips.csv", "calm,03,03-calm-4.wav", "calm,04,03-calm-4.wav")


def other_label(probe: Path) -> None:
    replace_in(probe / "clips.csv", "calm,03,03-calm-4.wav", "angry,03,03-calm-4.wav")
    for head in ("lr", "svm"):
        replace_in(
            probe / "predictions" / f"{head}.csv", "03-calm-4.wav,03,03,calm",
            "03-calm-4.wav,03,03,angry",
        )  # fmt: skip


def other_weights(probe: Path) -> None:
    edit(probe, encoder=encoder(probe, weights_sha256="abd"))


def no_folds(probe: Path) -> None:
    replace_in(probe / "clips.csv", "label,fold,path", "label,fould,path")


def fine_tuned_itself(probe: Path) -> None:
    write_run(probe, {FINETUNED: FEW})


@pytest.mark.parametrize(
    "change",
    [
        other_clip, other_fold, other_label, other_weights, no_folds, fine_tuned_itself,
        shutil.rmtree,
        lambda probe: edit(probe, split="kfold:10"),
        lambda probe: edit(probe, heads={}),
        lambda probe: (probe / "run.json").write_text("{"),
        lambda probe: (probe / "predictions" / "svm.csv").unlink(),
    ],
)  # fmt: skip
def test_another_run_is_not_taken_for_its_probe(
    change: Callable[[Path], Any], tuned: Path, probe: Path
) -> None:
    change(probe)
    with contextlib.suppress(UserError):
        write_summary(probe, read_summary(probe))  # with hashes that fit
    report = report_run(read_results(tuned))
    assert beside(report) is None
    assert "SER015" in codes(report) and "SER016" not in codes(report)


@pytest.mark.parametrize(
    "name",
    ["../runs/probe", "/runs/probe", "a/probe", "a\\probe", "\\\\host\\share", "C:probe", "..", ".",
     "", "a\0b", "probe/", 7, ["probe"]],
)  # fmt: skip
def test_what_is_no_plain_name_of_a_folder_beside_is_refused(
    name: object, serpipe: Command, tuned: Path
) -> None:
    edit(tuned, probe=name)
    result = serpipe("report", tuned)
    assert result.out == ""
    assert_refused(result, tuned / "run.json", "probe")
    assert len(result.err.splitlines()) == 2  # which run, and what is wrong


def test_a_loss_to_the_probe_is_a_warning_where_it_is_resolved_and_a_gain_never(
    tuned: Path, probe: Path
) -> None:
    report = report_run(read_results(tuned))
    (check,) = (check for check in report.checks if check.code == "SER016")
    assert check.severity == "warning"
    assert_names(check.finding, "24.0", "lr", "23.5", "svm")
    write_run(tuned, {FINETUNED: [*MIXED[:9], 4]}, probe=probe.name)  # worse, but not surely
    table = beside(report_run(read_results(tuned)))
    assert table and table.records[0]["difference"] < 0 and not table.bold
    assert "SER016" not in codes(report_run(read_results(tuned)))
    write_run(probe, {"lr": MANY})
    write_run(tuned, {FINETUNED: FEW}, probe=probe.name)
    report = report_run(read_results(tuned))
    gained = beside(report)
    assert gained and gained.bold and gained.rows[1][2].startswith("+24.0 [")
    assert not codes(report) & {"SER015", "SER016"}


def test_a_mark_on_one_side_is_told_and_nothing_is_tested(tuned: Path, probe: Path) -> None:
    edit(probe, warnings=["TRANSDUCTIVE: so it is"])
    report = report_run(read_results(tuned))
    table = beside(report)
    assert table and not table.bold
    assert table.rows[1][0] == "frozen lr (TRANSDUCTIVE)"
    assert table.rows[1][2].startswith("-24.0 [") and table.rows[1][3:] == ("", "")
    assert report.warnings == ("frozen probe: TRANSDUCTIVE: so it is",)
    assert "SER016" not in codes(report)
    edit(tuned, warnings=["TRANSDUCTIVE: so it is"])
    both = report_run(read_results(tuned))
    assert "SER016" in codes(both)
    assert both.warnings == ("TRANSDUCTIVE: so it is",)


def test_a_network_from_scratch_needs_no_probe_but_may_stand_beside_any(
    tuned: Path, probe: Path
) -> None:
    edit(tuned, encoder=encoder(tuned, weights_sha256=""), probe=None)
    alone = report_run(read_results(tuned))
    assert beside(alone) is None
    assert not codes(alone) & {"SER015", "SER016"}
    edit(tuned, probe=probe.name)
    table = beside(report_run(read_results(tuned)))
    assert table and table.rows[0][0].startswith(FINETUNED)
    assert_names(table.note, "some/encoder")
    other_fold(probe)
    assert beside(report_run(read_results(tuned))) is None


def test_a_probe_that_it_is_compared_with_is_beside_it(tuned: Path, probe: Path) -> None:
    edit(tuned, probe=None)
    (check,) = (each for each in report_run(read_results(tuned)).checks if each.code == "SER015")
    assert_names(check.advice, "serpipe fit --split loso")

    def both() -> set[str]:
        return codes(report_runs(compare_runs([read_results(tuned), read_results(probe)])))

    assert "SER015" not in both() and "SER016" in both()
    other_weights(probe)
    assert "SER015" in both() and "SER016" not in both()
    assert not codes(report_run(read_results(probe))) & {"SER015", "SER016"}


def test_a_run_in_the_working_directory_finds_its_probe_beside_it(
    tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuned)
    assert beside(report_run(read_results(Path())))
