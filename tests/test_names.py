"""Runs have names in all that a comparison writes, and it says once how they differ."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from serpipe.artifacts.report.comparison import compare_runs
from serpipe.artifacts.report.figures import draw_comparison
from serpipe.artifacts.report.result_tables import (
    comparison_table,
    identity,
    layers_table,
    nested_table,
)
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.pipeline.statistics import compare

from .conftest import Command, write_unhashed
from .messages import assert_names

QUICK = ("--head", "lr", "--layers", "1-2", "--grid", "C=0.1")


@pytest.fixture
def run(fitted_once: Path, serpipe: Command) -> Path:
    """A run of two heads, in the working directory."""
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (folder,) = Path("artifacts/runs").iterdir()
    return folder


def test_names_are_in_every_table_figure_and_file_of_a_comparison(
    serpipe: Command, run: Path
) -> None:
    other = serpipe("fit", *QUICK, "--name", "second_run").out.strip()
    done = serpipe("report", f"first={run}", other, "--out", "compared")
    assert done.code == 0, done.err
    folder = Path("compared")
    rows = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["first", "first", "second_run"]
    pairs = list(csv.DictReader((folder / "comparisons.csv").read_text().splitlines()))
    assert {row["first_name"] for row in pairs} | {row["second_name"] for row in pairs} == {
        "first",
        "second_run",
    }
    content = json.loads((folder / "results.json").read_text())
    assert [each["name"] for each in content["tables"]["runs"]] == ["first", "first", "second_run"]
    assert r"second\_run lr &" in (folder / "runs.tex").read_text()
    for text in (done.out, *((folder / name).read_text() for name in ("report.md", "index.html"))):
        assert "first svm" in text and "second_run lr" in text
        assert not re.search(r"\b[12] (lr|svm)\b|run [12]\b", text)
    first = read_results(run).called("first")
    figures = draw_comparison(compare_runs([first, read_results(Path(other))]))
    ticks = [tick.get_text() for tick in figures["runs"].axes[0].get_yticklabels()]
    assert ticks == ["first lr", "first svm", "second_run lr"]


def test_what_differs_between_runs_is_printed_once(serpipe: Command, run: Path) -> None:
    other = serpipe("fit", *QUICK).out.strip()
    shown = serpipe("report", run, other, "--out", "compared").out
    assert shown.count("layers 0-3") == 1 and shown.count("layers 1-2") == 1
    assert shown.count("lr C 0.1") == 1  # lr tried other values in the two
    assert "svm C" not in shown  # svm has nothing to differ from
    tabular = Path("compared/runs.tex").read_text().partition(r"\begin{tabular}")[2]
    assert "layers" not in tabular and "lr C" not in tabular


def test_a_finished_run_can_be_named_later_and_keeps_its_name(serpipe: Command, run: Path) -> None:
    first = Path(serpipe("fit", *QUICK).out.strip())
    before = json.loads((first / "run.json").read_text())
    predictions = (first / "predictions" / "lr.csv").stat().st_mtime_ns
    assert before["given_name"] == ""
    for options, name in ((("--name", "wavlm"), "wavlm"), ((), "wavlm"), (("--name", "b"), "b")):
        assert serpipe("fit", *QUICK, *options).out.strip() == str(first)
        now = json.loads((first / "run.json").read_text())
        assert now == before | {"given_name": name, "sha256": now["sha256"]}
    assert (first / "predictions" / "lr.csv").stat().st_mtime_ns == predictions
    del before["given_name"]  # as an earlier version wrote it
    write_unhashed(first / "run.json", before)
    assert read_results(first).summary.given_name == ""


def test_a_folder_with_an_equals_sign_is_a_path(serpipe: Command, run: Path) -> None:
    shutil.copytree(run, "seed=1")
    done = serpipe("report", "seed=1", "--format", "json")
    assert done.code == 0
    assert {each["name"] for each in json.loads(done.out)["tables"]["nested"]} == {""}
    named = serpipe("report", "mine=seed=1", "--format", "json")
    assert {each["name"] for each in json.loads(named.out)["tables"]["nested"]} == {"mine"}


def test_names_that_tables_cannot_show_or_tell_apart_are_refused(
    serpipe: Command, run: Path
) -> None:
    shutil.copytree(run, "copy")
    for arguments in (
        ("report", f"same={run}", "same=copy"),
        ("report", f"={run}"),
        ("fit", *QUICK, "--name", "a\x1b[2J"),
        ("fit", *QUICK, "--name", "x" * 41),
        ("fit", *QUICK, "--name", "x", "--split", "kfold:2", "--repeats", 2),
    ):
        done = serpipe(*arguments)
        assert done.code == 2, arguments
        assert done.err.splitlines()[-1].startswith("serpipe: ")
    changed = json.loads((run / "run.json").read_text()) | {"given_name": "a\x1b"}
    (run / "run.json").write_text(json.dumps(changed))
    with pytest.raises(UserError):
        read_results(run)


def test_fit_alone_compares_two_heads_and_their_fusion(serpipe: Command, run: Path) -> None:
    done = serpipe("fit", "--layers", "1-2", "--grid", "C=1", "--out", "default")
    assert done.code == 0, done.err
    assert read_results(Path("default")).heads == ("lda", "svm", "fuse")


def test_bold_marks_the_best_of_several_and_nothing_alone(run: Path) -> None:
    read = read_results(run)
    right = dict.fromkeys(read.predicted["svm"], read.truth)
    both = dataclasses.replace(read, predicted={"lr": read.predicted["lr"], "svm": right})
    assert nested_table(both).bold == {(0, 2)}
    alone = dataclasses.replace(read, predicted={"lr": read.predicted["lr"]})
    assert not nested_table(alone).bold
    assert len(layers_table(alone).bold) == 1  # of several layers


def test_one_test_is_not_plural(run: Path) -> None:
    results = read_results(run)
    heads = {head: results.by_speaker(head) for head in results.heads}
    members = {head: identity(results.summary) for head in heads}
    table = comparison_table(compare(heads, results.measure), "", members, 5, results.measure)
    assert_names(table.note, "5 speakers", "1 test")


def test_csv_files_of_a_report_begin_with_a_mark_only_where_they_are_not_ascii(
    serpipe: Command, run: Path
) -> None:
    assert serpipe("report", f"müde={run}", "--out", "named").code == 0
    named = Path("named/nested.csv").read_bytes()
    assert named.startswith(b"\xef\xbb\xbf") and "müde".encode() in named
    (row, *_) = csv.DictReader(named.decode("utf-8-sig").splitlines())
    assert row["name"] == "müde"
    assert serpipe("report", run, "--out", "plain").code == 0
    for path in Path("plain").glob("*.csv"):
        assert path.read_bytes().isascii(), path
    printed = serpipe("report", f"müde={run}", "--out", "again", "--format", "csv").out
    assert printed.encode() == named[3:]  # what is printed is for programs
