"""The report says what was saved, warns of what misleads, and its page needs nothing else."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from serpipe.artifacts.models.bundle import load_bundle
from serpipe.artifacts.report.baselines import baselines_for
from serpipe.artifacts.report.checks import run_checks
from serpipe.artifacts.report.figures import as_bytes, draw_figures, draw_speakers
from serpipe.artifacts.report.page import hardest_clips, render_page
from serpipe.artifacts.report.report import as_json, headline, report_run
from serpipe.artifacts.report.result_tables import (
    classes_table,
    comparison_table,
    groups_table,
    layers_table,
    nested_table,
)
from serpipe.artifacts.report.table import Table, as_latex, as_markdown
from serpipe.artifacts.run.csv_files import NESTED
from serpipe.artifacts.run.results import RunResults, read_results
from serpipe.pipeline.measures import LABELS
from serpipe.pipeline.metrics import confusion, scores_of
from serpipe.pipeline.statistics import compare, intervals, recall_intervals

from .conftest import ROOT, Command, write_hashed, write_unhashed
from .messages import assert_names, assert_refused, names


@pytest.fixture
def results(serpipe: Command, fitted_once: Path) -> RunResults:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    return read_results(run)


def changed(results: RunResults, **fields: object) -> RunResults:
    summary = dataclasses.replace(results.summary, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(results, summary=summary)


def codes(results: RunResults) -> set[str]:
    return {check.code for check in run_checks(results)}


def test_each_check_fires_on_what_it_is_for_and_not_without(results: RunResults) -> None:
    usual = codes(results)
    # Of a random encoder, 40 clips and two heads; the loudness tells emotions better than it does.
    assert usual <= {"SER010", "SER011", "SER013", "SER014", "SER021", "SER024", "SER030"}
    assert "SER010" in usual  # of two values both are edges
    wrong: dict[str, dict[str, object]] = {
        "SER001": {"warnings": ["INFLATED: so"]},
        "SER002": {"warnings": ["TRANSDUCTIVE: so"]},
        "SER003": {"warnings": ["PERMUTED LABELS: so"]},
        "SER004": {"speakers": ["01", "02", "03"]},
        "SER005": {"planned": ["lr", "svm", "lgbm"]},
        "SER006": {"layers": ["2"]},
        "SER007": {"warnings": ["CONTAMINATED: so; and so"]},
    }
    for code, fields in wrong.items():
        assert code not in usual
        assert code in codes(changed(results, **fields))
    twice = results.clips["recording"].copy()
    twice[1] = twice[0]
    assert "SER008" in codes(
        dataclasses.replace(results, clips={**results.clips, "recording": twice})
    )
    versions = {"torch": "1", "transformers": "5", "serpipe": "0"}
    made = {"versions": versions, "cache": {"versions": versions | {"torch": "2"}}}
    assert "SER009" in codes(changed(results, provenance=made))
    made["cache"] = {"versions": versions}
    assert "SER009" not in codes(changed(results, provenance=made))
    assert "SER014" in usual
    assert "SER014" not in codes(changed(results, changes=["calm counted as neutral"]))
    repeated = {name: np.repeat(column, 36) for name, column in results.clips.items()}
    predicted = {
        head: {layer: np.repeat(values, 36) for layer, values in layers.items()}
        for head, layers in results.predicted.items()
    }
    whole = dataclasses.replace(results, clips=repeated, predicted=predicted, nuisance={})
    assert "SER014" not in codes(whole)  # 1440 of 1440
    summary = results.summary.heads["lr"]
    last = [{**choice, "layer": "3"} for choice in summary.choices]
    middle = [{**choice, "layer": "2"} for choice in summary.choices]
    for choices, expected in ((last, True), (middle, False)):
        heads = {"lr": dataclasses.replace(summary, choices=choices)}
        assert ("SER011" in codes(changed(results, heads=heads, planned=["lr"]))) is expected
    fits = {"points": 10, "pruned": 3, "inner_not_converged": 2}
    heads = {"lr": dataclasses.replace(summary, fits=fits)}
    assert {"SER012", "SER013"} <= codes(changed(results, heads=heads, planned=["lr"]))


#: Checks whose severity depends on what was found.
_GRADED = {"SER021", "SER024"}


def test_every_code_is_in_the_docs_with_its_severity() -> None:
    code = (ROOT / "artifacts" / "report" / "checks.py").read_text()
    used = set(re.findall(r'"(SER\d+)"(?:,|: \()\s*"(invalid|warning|note)"', code))
    table = re.findall(
        r"^\| (SER\d+) \| ([\w ]+) \|", (ROOT / "docs" / "checks.md").read_text(), re.M
    )
    documented = {
        (number, each) for number, severities in table for each in severities.split(" or ")
    }
    assert used <= documented  # of some the severity depends on what was found
    assert {number for number, _ in used} | _GRADED == {number for number, _ in documented}
    assert len(table) == len({number for number, _ in table})


def test_json_holds_every_number(results: RunResults, serpipe: Command) -> None:
    report = report_run(results)
    content = json.loads(as_json(report))
    assert serpipe("report", results.run, "--format", "json").out == as_json(report)
    assert set(content["tables"]) == {
        "nested", "nuisance", "layers", "comparisons", "classes", "probabilities",
        "groups", "gaps", "confusion", "speakers",
    }  # fmt: skip
    baselines = {row["baseline"] for row in content["tables"]["nuisance"]}
    assert baselines == {"all of them", "duration", "loudness"}  # one corpus, one format
    assert len(content["tables"]["layers"]) == 2 * 4
    assert content["facts"]["split"] == "leave one speaker out, 5 folds"
    assert [check["code"] for check in content["checks"]] == [c.code for c in report.checks]


def test_names_from_outside_cannot_break_out_of_a_table_or_the_page(results: RunResults) -> None:
    table = Table("t", "T", ("a", "b"), (("x|y", "50 % & <b>_1"),))
    assert r"| x\|y |" in as_markdown(table)
    assert r"50 \% \& $<$b$>$\_1" in as_latex(table)
    assert as_latex(Table("t", "T", ("a", "b"), (("a^b~c\n", "-9.5 [-13.9, 3-4]"),))).endswith(
        "a\\textasciicircum{}b\\textasciitilde{}c & $-$9.5 [$-$13.9, 3--4] \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )
    clips = {**results.clips, "sex": np.where(results.clips["sex"] == "male", r"$\bad{$", "x")}
    renamed = dataclasses.replace(results, clips=clips)
    for figure in draw_figures(renamed, report_run(renamed)).values():
        as_bytes(figure, "png")
    evil = changed(results, corpus="<script>alert(1)</script>")
    page = render_page("<script>", report_run(evil), {})
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_figures_are_the_same_bytes_each_time_and_not_empty(results: RunResults) -> None:
    report = report_run(results)
    figures, again = draw_figures(results, report), draw_figures(results, report)
    assert set(figures) == {
        "layers", "speakers", "groups", "reliability", "risk-coverage", "confusion-lr",
        "confusion-svm",
    }  # fmt: skip
    for name, figure in figures.items():
        png, pdf = as_bytes(figure, "png"), as_bytes(figure, "pdf")
        assert (png, pdf) == (as_bytes(again[name], "png"), as_bytes(again[name], "pdf"))
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert (pixels < 128).mean() > 0.005
        assert (pixels[[0, -1]] == 255).all()  # nothing is cut off
        assert (pixels[:, [0, -1]] == 255).all()


def test_the_hardest_clips_are_wrong_and_their_audio_stays_in_the_folder(
    results: RunResults, few_clips: Path, tmp_path: Path
) -> None:
    hardest = hardest_clips(results, "lr", few_clips)
    assert 0 < len(hardest) <= 20
    margins = [clip.margin for clip in hardest]
    assert margins == sorted(margins, reverse=True)
    for clip in hardest:
        assert clip.truth != clip.predicted
        assert clip.address == (few_clips / clip.path).resolve().as_uri()
    secret = tmp_path / "secret.flac"
    secret.write_bytes(b"")
    path = results.run / "predictions" / "lr.csv"
    path.write_text(path.read_text().replace(hardest[0].path, "../secret.flac"))
    summary = dataclasses.replace(results.summary, files=None)
    outside = hardest_clips(dataclasses.replace(results, summary=summary), "lr", few_clips)
    (one,) = (clip for clip in outside if clip.path == "../secret.flac")
    assert one.address == ""


def test_the_page_is_whole_and_asks_for_nothing(
    serpipe: Command, results: RunResults, few_clips: Path, tmp_path: Path
) -> None:
    assert serpipe("report", results.run, "--audio", few_clips, render_figures=True).code == 0
    folder = results.run / "report"
    page = (folder / "index.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == page.count("<img") == 7
    for image in images:
        Image.open(io.BytesIO(base64.b64decode(image))).verify()
    assert page.count("<audio") == len(hardest_clips(results, "lr"))
    for name in ("layers", "speakers", "groups", "reliability", "confusion-lr"):
        assert (folder / f"{name}.png").is_file()
        assert (folder / f"{name}.pdf").is_file()
    console, shown = open_in_chromium(folder / "index.html", tmp_path)
    assert not console
    assert_names(shown, "lr", "svm")
    # What the test would see if something were missing, or asked for.
    for number, source in enumerate(("missing.png", "http://127.0.0.1:9/x.png")):
        other = folder / f"other-{number}.html"
        other.write_text(page.replace("<h2 ", f'<img src="{source}"><h2 ', 1))
        assert open_in_chromium(other, tmp_path)[0]


def open_in_chromium(page: Path, tmp_path: Path) -> tuple[list[str], str]:
    """Return what a page says on the console, and its text."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium here to open the page in")
    shown = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", "--dump-dom", page.resolve().as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shown.returncode == 0
    return [line for line in shown.stderr.splitlines() if "CONSOLE" in line], shown.stdout


def predicting(results: RunResults, layer: str, right: float) -> RunResults:
    """Return results in which a layer is right in the first so many of each speaker's clips."""
    truth, speakers = results.clips["label"], results.clips["speaker"]
    wrong = np.roll(np.array(results.summary.labels), 1)
    said = wrong[np.searchsorted(results.summary.labels, truth)]
    for speaker in np.unique(speakers):
        rows = np.flatnonzero(speakers == speaker)
        rows = rows[: round(right * len(rows))]
        said[rows] = truth[rows]
    predicted = {head: {**layers, layer: said} for head, layers in results.predicted.items()}
    return dataclasses.replace(results, predicted=predicted)


def many_speakers(results: RunResults, number: int) -> RunResults:
    """Return the same results of so many speakers, by giving each speaker's clips new names."""
    of_speaker = [
        np.flatnonzero(results.clips["speaker"] == speaker)
        for speaker in np.unique(results.clips["speaker"])
    ]
    rows = [of_speaker[place % len(of_speaker)] for place in range(number)]
    all_rows = np.concatenate(rows)
    clips = {name: column[all_rows] for name, column in results.clips.items()}
    clips["speaker"] = np.concatenate([np.full(len(r), f"{n:03d}") for n, r in enumerate(rows)])
    predicted = {
        head: {layer: said[all_rows] for layer, said in layers.items()}
        for head, layers in results.predicted.items()
    }
    return dataclasses.replace(results, clips=clips, predicted=predicted)


def test_a_layer_is_called_worse_only_where_the_interval_says_so(results: RunResults) -> None:
    best = predicting(results, "0", 1.0)
    best = predicting(best, "1", 0.5)  # of every speaker: clearly worse
    same = dict(best.predicted["lr"])
    first = np.unique(best.clips["speaker"])[0]
    one = best.clips["speaker"] == first  # of one speaker alone: it shows nothing of others
    same["2"] = np.where(one, same["1"], same["0"])
    best = many_speakers(dataclasses.replace(best, predicted={"lr": same}), 10)
    table = layers_table(best)
    cells = {row[0]: row[1] for row in table.rows}
    assert table.bold == {(0, 1)}
    assert cells["2"].startswith("≈ ")
    assert not cells["1"].startswith("≈")
    assert "≈" in table.note
    below = {record["layer"]: record["below_best"] for record in table.records}
    assert (below["0"], below["1"], below["2"]) == (False, True, False)
    assert r"$\approx$ " in as_latex(table)
    few = many_speakers(best, 5)  # of whom no test can come out below 0.05
    assert not any(record["below_best"] for record in layers_table(few).records)
    comparisons = compare({"a": few.by_speaker("lr", "0"), "b": few.by_speaker("lr", "1")})
    members = {name: {"warning": ""} for name in "ab"}
    assert_names(comparison_table(comparisons, "", members, 5, LABELS).note, "5 speakers", "1 test")


def test_groups_and_recalls_have_the_intervals_of_their_speakers(results: RunResults) -> None:
    groups = {record["group"]: record for record in groups_table(results).records
              if record["head"] == "lr"}  # fmt: skip
    rows = results.clips["intensity"] == "strong"
    of_speaker = [
        confusion(
            results.clips["label"][rows & (results.clips["speaker"] == speaker)],
            results.predicted["lr"][NESTED][rows & (results.clips["speaker"] == speaker)],
            results.summary.labels,
        )
        for speaker in np.unique(results.clips["speaker"][rows])
    ]
    uar = intervals(np.stack(of_speaker))["uar"]
    strong = groups["strong"]
    assert (strong["uar"], strong["uar_low"], strong["uar_high"]) == (
        uar.value,
        uar.low,
        uar.high,
    )
    assert strong["chance"] == 1 / len(set(results.clips["label"][rows]))
    recall = recall_intervals(results.by_speaker("lr"))
    for number, record in enumerate(classes_table(results).records[: len(results.summary.labels)]):
        assert (record["recall_low"], record["recall_high"]) == pytest.approx(
            (recall[number].low, recall[number].high), nan_ok=True
        )


def held_by(results: RunResults, label: str, speakers: int) -> RunResults:
    """Return results in which only the first so many speakers hold a label."""
    names = np.unique(results.clips["speaker"])
    other = np.isin(results.clips["speaker"], names[speakers:])
    another = next(each for each in results.summary.labels if each != label)
    column = np.where(other & (results.clips["label"] == label), another, results.clips["label"])
    return dataclasses.replace(results, clips={**results.clips, "label": column})


def test_a_label_that_few_speakers_hold_is_named_and_counted_and_has_no_interval(
    results: RunResults,
) -> None:
    assert "SER018" not in codes(results)
    few = held_by(results, "sad", 2)
    (check,) = (check for check in run_checks(few) if check.code == "SER018")
    assert check.severity == "warning"
    assert_names(check.finding, "sad", 2)
    place = results.summary.labels.index("sad")
    table = classes_table(few)
    assert table.header[2] == "speakers"
    assert [row[2] for row in table.rows] == ["2" if n == place else "5" for n in range(8)]
    assert "[" not in table.rows[place][3] and table.note
    record = table.records[place]
    assert record["label_speakers"] == 2
    assert np.isnan([record["recall_low"], record["recall_high"]]).all()
    nested = nested_table(few)
    assert np.isnan(nested.records[0]["uar_low"])
    assert nested.note != nested_table(results).note
    assert nested.records[0]["accuracy_low"] > 0
    three = changed(results, speakers=["01", "02", "03"])
    assert "SER018" not in codes(dataclasses.replace(three, clips=few.clips))  # but SER004


def test_each_head_is_tested_against_chance(results: RunResults) -> None:
    good = predicting(results, NESTED, 0.8)
    table = nested_table(good)
    (row,) = (row for row in table.rows if row[0] == "p against chance")
    assert row[1:] == ("< 0.001", "< 0.001")
    assert [record["p_chance"] < 0.001 for record in table.records] == [True, True]
    labels = good.clips["label"]
    other = np.random.default_rng(0).permutation(labels)
    shuffled = {head: {**layers, NESTED: other} for head, layers in good.predicted.items()}
    unrelated = dataclasses.replace(good, predicted=shuffled)
    assert nested_table(unrelated).records[0]["p_chance"] > 0.05
    assert "< 0.001" in headline(good)[0]
    constant = dataclasses.replace(good, clips={**good.clips, "label": np.full(40, "sad")})
    assert np.isnan(nested_table(constant).records[0]["p_chance"])
    assert "p against chance" not in [row[0] for row in nested_table(constant).rows]


def test_runs_of_other_clips_stand_beside_and_are_not_tested_against(
    serpipe: Command, results: RunResults, tmp_path: Path
) -> None:
    fewer = serpipe("fit", "--head", "lr", "--keep", "angry,calm,sad", "--format", "json")
    run = json.loads(fewer.out)
    assert [record["head"] for record in run["nested"]] == ["lr"]
    again = serpipe("fit", "--head", "lr", "--layers", "2").out.strip()
    result = serpipe("report", results.run, run["run"], again, "--format", "json",
                   render_figures=True)  # fmt: skip
    content = json.loads(result.out)
    columns = ("first_run", "first_head", "second_run", "second_head")
    pairs = [tuple(row[name] for name in columns) for row in content["tables"]["comparisons"]]
    assert pairs == [(1, "lr", 1, "svm"), (1, "lr", 3, "lr"), (1, "svm", 3, "lr")]
    chance = [record["chance"] for record in content["tables"]["runs"]]
    assert chance == [1 / 8, 1 / 8, 1 / 3, 1 / 8]
    assert any(names(note, "run 2") and names(note, "run 1") for note in content["notes"])
    page = Path(re.search(r"page +(.+?),", result.err)[1])  # type: ignore[index]
    assert page.parent.parent == Path("artifacts/comparisons")
    assert {path.name for path in page.parent.glob("*.png")} == {"runs.png", "comparisons.png"}
    assert serpipe("report", again, run["run"], "--out", tmp_path / "c").code == 0
    assert not (tmp_path / "c" / "comparisons.png").exists()  # there are none
    assert not open_in_chromium(page, tmp_path)[0]


def test_a_damaged_bundle_loses_no_table(serpipe: Command, results: RunResults) -> None:
    whole = serpipe("report", results.run).out
    (results.run / "bundles" / "lr" / "bundle.json").write_text("{")
    result = serpipe("report", results.run)
    assert_refused(result, results.run / "bundles" / "lr" / "bundle.json")
    assert result.out == whole


def test_a_run_that_has_nothing_yet_is_not_the_newest(
    serpipe: Command, results: RunResults
) -> None:
    empty = results.run.parent / "stopped"
    empty.mkdir()
    summary = json.loads((results.run / "run.json").read_text())
    write_unhashed(empty / "run.json", summary | {"heads": {}})
    assert str(results.run.name) in serpipe("report", "--compare-layers", "lr").err
    assert_refused(serpipe("report", empty), empty, "serpipe fit --head lr,svm")


def test_many_speakers_are_drawn_below_each_other(results: RunResults) -> None:
    crowd = many_speakers(results, 80)
    assert len(draw_speakers(results).axes) == 1
    assert len(draw_speakers(crowd).axes) == len(results.heads)


def test_an_inflated_run_is_shown_beside_and_weakens_no_test(
    serpipe: Command, results: RunResults
) -> None:
    other = serpipe("fit", "--head", "lr", "--layers", "2").out.strip()
    inflated = serpipe("fit", "--head", "lr", "--layers", "2", "--split", "random:2").out.strip()
    tables = [
        {
            (row["first_run"], row["first_head"], row["second_run"], row["second_head"]): row
            for row in json.loads(serpipe("report", *runs, "--format", "json").out)["tables"][
                "comparisons"
            ]
        }
        for runs in ((results.run, other), (results.run, other, inflated))
    ]
    assert len(tables[1]) == len(tables[0]) + 3
    for pair, row in tables[1].items():
        if pair in tables[0]:
            assert row == tables[0][pair]
            assert "INFLATED" not in row["warning"]
        else:
            assert row["p"] is row["p_holm"] is None
            assert row["difference"] is not None
            assert "INFLATED" in row["warning"]
    twice = serpipe("report", other, f"{other}/", "--format", "json")
    assert_refused(twice, other)
    output = serpipe("report", other, inflated).out
    assert re.search(r"run 1 +leave one speaker out, 5 folds *\n", output)  # what differs, no more
    assert re.search(r"all runs +RAVDESS speech, emotion, wav2vec2", output)


def test_a_damaged_run_json_is_one_line(serpipe: Command, results: RunResults) -> None:
    path = results.run / "run.json"
    whole = json.loads(path.read_text())
    damages: tuple[Callable[[dict[str, Any]], Any], ...] = (
        lambda told: told["heads"]["lr"].update(fits={}),
        lambda told: told["heads"]["lr"]["choices"][0]["parameters"].update(C="x"),
        lambda told: told.update(provenance=[]),
        lambda told: told.update(warnings=[1]),
    )
    for damage in damages:
        told = json.loads(json.dumps(whole))
        damage(told)
        write_hashed(path, told)
        assert_refused(serpipe("report", results.run), path)
    write_unhashed(path, whole)
    predictions = results.run / "predictions" / "lr.csv"
    text = predictions.read_text()
    predictions.write_text(re.sub(r",[-0-9.e]+$", ",many", text, flags=re.M))
    assert_refused(serpipe("report", results.run), predictions, "'many'")


def test_nothing_of_an_earlier_report_stays_and_nothing_outside_is_written(
    serpipe: Command, results: RunResults, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    assert serpipe("report", results.run, "--out", out).code == 0
    assert not list(results.run.glob("bundles/*/README.md"))
    assert {path.name for path in out.glob("card-*")} == {"card-lr.md", "card-svm.md"}
    (out / "mine.csv").write_text("")
    one = serpipe("fit", "--head", "lr", "--layers", "2").out.strip()
    assert serpipe("report", one, "--out", out).code == 0
    assert not (out / "confusion-svm.png").exists()
    assert not (out / "comparisons.tex").exists()
    assert (out / "confusion-lr.pdf").exists()
    assert (out / "mine.csv").exists()
    file = tmp_path / "file"
    file.write_text("")
    result = serpipe("report", one, "--out", file)
    assert (result.code, result.out) == (2, "")


def test_options_that_would_do_nothing_are_refused(serpipe: Command, results: RunResults) -> None:
    other = serpipe("fit", "--head", "lr", "--layers", "2").out.strip()
    for arguments in (
        (results.run, other, "--audio", "."),
        (results.run, other, "--baseline"),
        (results.run, "--compare-layers", "lr", "--baseline"),
        (results.run, other, "--compare-layers", "lr"),
        (results.run, "--audio", "nowhere"),
    ):
        result = serpipe("report", *arguments)
        assert (result.code, result.out) == (2, "")
    result = serpipe("report", results.run, "--compare-layers", "lr", "--out", "layers")
    assert (Path("layers") / "comparisons.csv").is_file()


def test_published_results_stand_only_beside_what_may_be_compared(results: RunResults) -> None:
    emotions = ["angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"]
    whole = {"clips": 1440, "labels": emotions, "split": "loso", "changes": [], "warnings": []}
    shown = baselines_for(changed(results, **whole))
    assert {(each.split, each.features) for each in shown} >= {("loso", "WavLM large")}
    assert {each.split for each in shown} == {"loso"}
    folds = baselines_for(changed(results, **whole | {"split": "emobox"}))
    assert {each.features: each.uar.value for each in folds}["wav2vec2 base"] == 0.5433
    for other in (
        {"clips": 1439}, {"labels": emotions[:7]}, {"split": "kfold:5"}, {"target": "sex"},
        {"changes": ["calm counted as neutral"]}, {"warnings": ["TRANSDUCTIVE: so"]},
    ):  # fmt: skip
        assert not baselines_for(changed(results, **whole | other))
    report = report_run(changed(results, **whole), baseline=True)
    (table,) = (table for table in report.tables if table.name == "baselines")
    assert all(record["source"] and not record["reproduced"] for record in table.records)


def test_a_model_card_has_no_blanks_and_reads_as_the_hub_reads_it(
    serpipe: Command, results: RunResults
) -> None:
    assert serpipe("report", results.run).code == 0
    for head in ("lr", "svm"):
        path = results.run / "bundles" / head / "README.md"
        loaded = ModelCard.load(path)
        assert loaded.data.license == "cc-by-nc-sa-4.0"
        (uar, *_) = loaded.data.eval_results
        counts = results.by_speaker(head).sum(axis=0)
        assert uar.metric_value == round(100 * float(scores_of(counts).uar), 1)
        text = path.read_text()
        assert not re.search(r"More Information Needed|TODO|None|nan|\{|\(\)", text)
        assert_names(text, "40 clips", "5 speakers")
        assert "not calibrated" not in text and "calibrated" in text
        load_bundle(path.parent)  # a card beside it does not disturb
