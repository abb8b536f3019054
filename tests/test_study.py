"""A study computes what its file names, once, and reports it from ordinary runs."""

import contextlib
import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import serpipe as package
from serpipe.artifacts.run.csv_files import NESTED
from serpipe.artifacts.run.results import RunResults, read_results
from serpipe.artifacts.study.caches import cache_path, find_cache
from serpipe.artifacts.study.comparison import StudyRun, group_runs
from serpipe.artifacts.study.study_figures import draw_study
from serpipe.artifacts.study.study_file import Study, read_study
from serpipe.artifacts.study.study_report import MethodCost, pareto_front, report_study
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.features.encoder_cost import is_available_offline
from serpipe.pipeline.rank_tests import compare_ranks, compare_speakers, mean_ranks

from .conftest import ROOT, Command, made_once, run_main
from .messages import assert_names, assert_refused, raises_about

PAGE = ROOT / "docs" / "how-to" / "run-a-study.md"


def write(text: str, name: str = "study.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def csv_records(name: str, study: str = "study") -> list[dict[str, str]]:
    text = Path("artifacts/studies", study, f"{name}.csv").read_text(encoding="utf-8-sig")
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="session")
def studied_once(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """The example of the documentation, with fewer clips."""

    def make(folder: Path) -> None:
        for number in range(1, 6):
            for clip in sorted((sample / f"Actor_{number:02d}").glob("03-01-0[45]-*.flac")):
                (folder / "few" / f"Actor_{number:02d}").mkdir(parents=True, exist_ok=True)
                shutil.copy(clip, folder / "few" / f"Actor_{number:02d}")
        (study,) = code_blocks("toml")
        study = study.replace('sample = "sample"', 'sample = "few"')
        if not is_available_offline("opensmile:eGeMAPSv02"):
            study = re.sub(r"egemaps.*\n", "", study)
        (folder / "study.toml").write_text(study)
        with contextlib.chdir(folder):
            exec("\n".join(code_blocks("python")), {})
        (commands,) = code_blocks("sh")
        for command in commands.splitlines():
            words = command.partition("#")[0].split()
            assert words[0] == "serpipe"
            with contextlib.chdir(folder):
                render = words[1:3] == ["study", "run"]
                assert run_main(*words[1:], render_figures=render) == 0

    return made_once(tmp_path_factory, "studied", make)


@pytest.fixture
def studied(studied_once: Path, serpipe: Command) -> Command:
    """The command line in a copy of the folder of the example."""
    shutil.copytree(studied_once, ".", dirs_exist_ok=True)
    return serpipe


def test_the_example_of_the_page_makes_ordinary_runs_whose_scores_it_reports(
    studied: Command,
) -> None:
    encoders = [each.name for each in read_study(Path("study.toml")).encoders]
    records = csv_records("results-lda")
    assert [each["study_encoder"] for each in records] == encoders
    for record in records:
        results = read_results(Path("artifacts/runs", record["run"]))
        assert float(record["uar"]) == results.scores("lda")["uar"].value
        assert record["encoder"] == results.summary.encoder["encoder"]
    assert len(csv_records("pairs-lda")) == len(encoders) * (len(encoders) - 1) // 2
    page = Path("artifacts/studies/study")
    assert 'id="results-lda"' in (page / "index.html").read_text()
    assert {"scores.png", "cost.pdf", "layers-whisper.png", "results-lda.tex"} <= {
        path.name for path in page.iterdir()
    }
    report = json.loads((page / "results.json").read_text())
    assert next(iter(report["facts"])) == "summary"
    assert_names(report["facts"]["summary"], "lda", "loso", "Wilcoxon", "5")
    cost = {each["encoder"]: each for each in csv_records("cost")}
    assert float(cost["whisper"]["parameters"]) > float(cost["random"]["parameters"]) > 0
    assert all(float(each["seconds_per_hour"]) > 0 for each in cost.values())


def test_the_report_is_made_of_the_runs_alone_with_the_same_bytes(studied: Command) -> None:
    page = Path("artifacts/studies/study")
    before = {path.name: path.read_bytes() for path in page.glob("*.csv")}
    shutil.rmtree("few")
    shutil.rmtree("random-wav2vec2")
    done = studied("study", "report", "study.toml", "--format", "json")
    assert done.code == 0, done.err
    assert before == {path.name: path.read_bytes() for path in page.glob("*.csv")}
    assert json.loads(done.out)["tables"]["results-lda"]


def test_a_new_line_in_the_file_computes_only_what_belongs_to_it(studied: Command) -> None:
    def predictions() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in Path("artifacts/runs").glob("*/predictions/*.csv")
        }

    study = read_study(Path("study.toml"))
    random = [each for each in study.encoders if each.name == "random"]
    assert random
    text = Path("study.toml").read_text()
    text = re.sub(r"(whisper|egemaps) = .*\n", "", text)  # the quickest is enough
    write(text)
    before = predictions()
    assert studied("study", "run", "study.toml").code == 0
    assert predictions() == before
    write(text.replace('heads = ["lda"]', 'heads = ["lda", "lr"]\ngrid = ["lr.C=0.1"]'))
    dry = studied("study", "run", "study.toml", "--dry-run", "--format", "json")
    assert dry.code == 0, dry.err
    (plan,) = json.loads(dry.out)["tables"]["plan"]
    assert (plan["runs"], plan["runs_to_fit"], plan["extraction_hours"]) == (2, 1, 0.0)
    assert plan["fit_hours"] > 0
    assert predictions() == before
    done = studied("study", "run", "study.toml")
    assert done.code == 0, done.err
    after = predictions()
    assert {path: time for path, time in after.items() if path in before} == before
    assert [path.name for path in after if path not in before] == ["lr.csv"]
    assert [each["head"] for each in csv_records("results-lr")] == ["lr"]


def test_copies_to_train_on_are_extracted_where_the_protocol_augments(studied: Command) -> None:
    text = re.sub(r"(whisper|egemaps) = .*\n", "", Path("study.toml").read_text())
    write(f'{text}\n[protocol]\naugment = ["noise:20"]\n')
    done = studied("study", "run", "study.toml")
    assert done.code == 0, done.err
    assert list(Path("features/cache").glob("*.perturbed/noise-20.h5"))
    (record,) = csv_records("results-lda")
    assert "noise:20" in str(read_results(Path("artifacts/runs", record["run"])).summary)


def test_what_fails_is_reported_with_its_reason_and_the_rest_is_computed(
    studied: Command,
) -> None:
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{}")
    text = re.sub(r"(whisper|egemaps) = .*\n", "", Path("study.toml").read_text())
    wrong = 'broken = "broken"\nunnamed = "lab/x..y"'  # the latter cannot be a hub id
    write(text.replace("[encoders]", f"[encoders]\n{wrong}"))
    done = studied("study", "run", "study.toml")
    assert done.code == 1
    assert "Traceback" not in done.err
    missing = {each["encoder"]: each["reason"] for each in csv_records("missing")}
    assert missing.keys() == {"broken", "unnamed"}
    assert_names(missing["broken"], "broken")
    assert_names(missing["unnamed"], "lab/x..y")
    assert [each["study_encoder"] for each in csv_records("results-lda")] == ["random"]


OF_SAMPLE = '[corpora]\na = "sample"\n[encoders]\na = "whisper-tiny.en"\n'
WRONG: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "long line": ("\na" + ".a" * 100_000 + " = 1", 2, ("200005",)),
    "perturbation": (f"{OF_SAMPLE}[extract]\nperturbation = 'noise:10'", 6, ("perturbation",)),
    "labels": (f"{OF_SAMPLE}[protocol]\nlabels = 'most'", 6, ("most", "majority")),
    "cross-corpus": (
        f"{OF_SAMPLE}[protocol]\ntrain_on = ['a']\ntest_on = ['b']",
        7,
        ("train_on", "test_on"),
    ),
    "date": (f"{OF_SAMPLE}[extract]\ntrim = 1979-05-27", 6, ("extract.trim",)),
    "huge number": (f"{OF_SAMPLE}[protocol]\nseed = {'9' * 6000}", 6, ()),
    "huge number of folds": (f"splits = ['kfold:{'9' * 5000}']\n{OF_SAMPLE}", 1, ("splits",)),
    "syntax": ('title = "x"\nheads = ["lda"\n[corpora]\n', 3, ()),
    "unknown key": ('title = "x"\nheds = ["lda"]\n', 2, ("heds", "heads")),
    "head": ('heads = [\n  "lda",\n  "lad",\n]\n', 3, ("lad",)),
    "split": ('splits = ["losso"]', 1, ("losso",)),
    "pooling": ('poolings = ["max"]', 1, ("max", "mean")),
    "twice": ('heads = ["lda", "lda"]', 1, ("lda",)),
    "grid": (
        'heads = ["lda"]\ngrid = ["lr.C=1"]\n[corpora]\na = "sample"\n[encoders]\n'
        'a = "whisper-tiny.en"',
        2,
        ("lr.C=1",),
    ),
    "no corpora": ("[encoders]\n", 1, ("corpora",)),
    "name": ('[corpora]\n"a/b" = "sample"\n[encoders]\na = "whisper-tiny.en"', 2, ("a/b",)),
    "type": ('[corpora]\na = "sample"\n[protocol]\nseed = "1"', 4, ("protocol.seed",)),
    "augment": ('[corpora]\na = "sample"\n[protocol]\naugment = ["nois:3"]', 4, ("nois:3",)),
    "value": ('[corpora]\na = "sample"\n[protocol]\nnormalise = "x"', 4, ("speaker",)),
    "option": (
        '[corpora]\na = "sample"\n[encoders.b]\nencoder = "whisper-tiny.en"\nmax_second = 1',
        5,
        ("max_seconds",),
    ),
    "folder": ('[encoders]\na = "whisper-tiny.en"\n\n[corpora]\na = "nowhere"', 5, ("nowhere",)),
    "encoder": (
        '[corpora]\na = "sample"\n[encoders]\na = "nowhere/at/all"',
        4,
        ("nowhere/at/all",),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_in_the_file_is_one_line_with_the_line_number(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, line, values = WRONG[what]
    path = write(text)
    with pytest.raises(UserError) as caught:
        read_study(path).check_paths()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"study.toml, line {line}: ")
    assert_names(message, *values)


def test_a_new_file_is_a_study_and_is_never_overwritten(
    serpipe: Command,
) -> None:
    assert serpipe("study", "init").code == 0
    (cell,) = read_study(Path("study.toml")).cells
    assert (cell.encoder.options.encoder, cell.heads, cell.split) == (
        "whisper-tiny.en",
        "lda",
        "loso",
    )
    text = Path("study.toml").read_text()
    assert "study run study.toml" in text
    assert serpipe("study", "init").code == 2
    assert Path("study.toml").read_text() == text
    missing = serpipe("study", "run", "nowhere.toml")
    assert missing.code == 2
    assert_names(missing.err, "nowhere.toml")


def test_options_of_a_corpus_or_an_encoder_take_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = read_study(
        write(
            """
            heads = ["lda", "lr"]
            poolings = ["mean", "mean,std"]
            grid = ["lr.C=0.1"]
            [corpora]
            a = "sample"
            [corpora.b]
            data = ["x", "y"]
            heads = ["ridge"]
            merge = {calm = "neutral"}
            seed = 2
            [encoders]
            e = "opensmile:eGeMAPSv02"
            [encoders.w]
            encoder = "whisper-tiny.en"
            trim = 20
            [protocol]
            seed = 1
            keep = ["calm", "sad"]
            [extract]
            trim = 30
            """
        )
    )
    a, b = study.corpora
    e, w = study.encoders
    assert (a.protocol.seed, b.protocol.seed, dict(b.protocol.merge)) == (1, 2, {"calm": "neutral"})
    assert list(b.protocol.keep) == ["calm", "sad"]
    assert (e.options.trim, w.options.trim, e.poolings) == (30, 20, ("mean",))
    assert len(study.cells) == 3 * 2 + 3 * 1
    grids = {cell.heads: study.grid_of(cell) for cell in study.cells}
    assert grids == {"lda": (), "lr": ("lr.C=0.1",), "ridge": ()}


def test_a_cache_with_more_poolings_is_used_and_one_of_other_options_is_not(
    extracted_once: Path, small_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(extracted_once, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    study = read_study(write(f'[corpora]\nravdess = "x"\n[encoders]\nsmall = "{small_encoder}"\n'))
    (corpus,), (encoder,) = study.corpora, study.encoders
    (path,) = Path("features/cache").glob("*.h5")
    found = find_cache(corpus, encoder, "mean")
    assert found is not None and found.path == path
    assert cache_path(corpus, encoder, "mean") == path
    assert find_cache(corpus, encoder, "mean,std") is None
    assert cache_path(corpus, encoder, "mean,std") != path
    trimmed = dataclasses.replace(encoder, options=dataclasses.replace(encoder.options, trim=30.0))
    assert find_cache(corpus, trimmed, "mean") is None
    other = cache_path(corpus, trimmed, "mean")
    assert other not in (path, cache_path(corpus, encoder, "mean,std"))
    assert set(open_cache(path).poolings) == {"mean"}


def test_a_file_that_is_nested_too_deeply_or_plans_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    many = "".join(f'{{}}{number} = "sample"\n' for number in range(5000))
    for text in (
        "x = [\n" + "[\n" * 100_000,
        f"[corpora]\n{many.format(*'c' * 5000)}[encoders]\n{many.format(*'e' * 5000)}",
    ):
        write(text, str(path))
        with raises_about(UserError, path):
            read_study(path)


def test_encoders_that_caches_call_the_same_have_caches_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the report would show the results of one of them for both."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder, "checkpoint").mkdir(parents=True)
    text = """
        [corpora]
        c = "sample"
        [encoders]
        first = "a/checkpoint"
        second = "b/checkpoint"
        new = {encoder = "lab/x", revision = "v2"}
        old = {encoder = "lab/x", revision = "v1"}
        exact = "lab/y"
        fast = {encoder = "lab/y", precision = "auto"}
        alone = "lab/z"
        same = {encoder = "lab/z", trim = 30}
    """
    study = read_study(write(text))
    (corpus,) = study.corpora
    paths = [cache_path(corpus, each, "mean") for each in study.encoders]
    assert len(set(paths[:6])) == 6
    assert paths[6] == Path("features/cache/c-lab--z.h5")  # its options are in the file


@pytest.fixture
def results(fitted_once: Path) -> RunResults:
    (run,) = (fitted_once / "artifacts" / "runs").iterdir()
    return read_results(run)


def with_errors(results: RunResults, share: float, seed: int) -> RunResults:
    """The same run with the true labels as predictions, but for a share of errors."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(results.truth)) < share
    predicted = np.where(wrong, rng.permutation(results.truth), results.truth)
    heads = {
        head: dict.fromkeys(layers, predicted) | {NESTED: predicted}
        for head, layers in results.predicted.items()
    }
    return dataclasses.replace(results, predicted=heads)


def synthetic(results: RunResults, n_corpora: int, path: Path) -> tuple[Study, list[StudyRun]]:
    """Runs of three encoders with rising shares of errors on some corpora of other speakers."""
    corpora = "".join(f'c{number} = "sample"\n' for number in range(n_corpora))
    encoders = "".join(f'{name} = "whisper-tiny.en"\n' for name in ("good", "fair", "bad"))
    text = f'heads = ["svm", "lr"]\n[corpora]\n{corpora}[encoders]\n{encoders}'
    study = read_study(write(text, str(path / "study.toml")))
    shares = {"good": 0.05, "fair": 0.4, "bad": 0.8}
    runs = []
    for number, cell in enumerate(study.cells):
        made = with_errors(results, shares[cell.encoder.name], number)
        ids = np.char.add(f"{cell.corpus.name}:", made.clips["speaker"])
        made = dataclasses.replace(made, clips={**made.clips, "speaker_id": ids})
        runs.append(StudyRun(cell, made))
    return study, runs


def test_corpora_are_the_unit_where_there_are_enough_and_speakers_otherwise(
    results: RunResults, tmp_path: Path
) -> None:
    study, runs = synthetic(results, 6, tmp_path)
    report, groups, costs = report_study(study, runs)
    first = groups[0]
    assert (first.head, first.split) == ("svm", "loso")
    assert first.compared is not None and first.compared.rank_test is not None
    assert first.compared.ranks == {"good": 1.0, "fair": 2.0, "bad": 3.0}
    resolved = {(p.better, p.worse) for p in first.compared.pairs if p.is_resolved}
    assert resolved == {("good", "bad")}  # critical difference 1.35
    assert_names(report.facts[0][1], "1 of 3", "Friedman", "6", "good")
    assert "critical-difference" in draw_study("x", groups, costs)

    study, runs = synthetic(results, 2, tmp_path)
    report, groups, costs = report_study(study, runs)
    assert groups[0].compared is not None and groups[0].compared.rank_test is None
    assert groups[0].compared.n_speakers == 10
    assert_names(report.facts[0][1], "Wilcoxon", "10")
    assert "critical-difference" not in draw_study("x", groups, costs)

    same = [
        StudyRun(each.cell, dataclasses.replace(each.results, clips=results.clips))
        for each in runs
        if each.results
    ]
    compared = group_runs(study, same)[0].compared
    assert compared is not None and len(compared.corpora) == 2
    assert compared.n_speakers == 5  # the same people of RAVDESS in both corpora


def test_missing_and_contaminated_results_are_not_compared(
    results: RunResults, tmp_path: Path
) -> None:
    study, runs = synthetic(results, 3, tmp_path)
    cells = {(str(each.cell.corpus.name), each.cell.encoder.name): each for each in runs}
    assert len(cells) == 9

    def changed(each: StudyRun) -> StudyRun:
        where = each.cell.corpus.name, each.cell.encoder.name
        if where == ("c0", "good"):
            return StudyRun(each.cell, None, "no such thing")
        if where == ("c1", "bad"):
            assert each.results
            warnings = ["CONTAMINATED: so"]
            summary = dataclasses.replace(each.results.summary, warnings=warnings)
            return StudyRun(each.cell, dataclasses.replace(each.results, summary=summary))
        return each

    runs = [changed(each) for each in runs]
    compared = group_runs(study, runs)[0].compared
    assert compared is not None
    # Of the largest blocks without these two, that of all encoders has one corpus and three
    # results; those of two encoders have two corpora and four.
    assert len(compared.methods) == 2 and len(compared.corpora) == 2
    report, _, _ = report_study(study, runs)
    (missing,) = [table for table in report.tables if table.name == "missing"]
    assert {each["reason"] for each in missing.records} == {"no such thing"}
    assert any("CONTAMINATED" in warning for warning in report.warnings)
    assert_names(report.warnings[0], 2, 18)


def test_encoders_tested_on_different_clips_bear_a_warning(
    results: RunResults, tmp_path: Path
) -> None:
    study, runs = synthetic(results, 2, tmp_path)
    first = runs[0]
    assert first.results
    summary = dataclasses.replace(first.results.summary, tested="0" * 64, clips=39)
    runs[0] = StudyRun(first.cell, dataclasses.replace(first.results, summary=summary))
    (warning,) = report_study(study, runs)[0].warnings  # none about the other corpus
    assert_names(warning, first.cell.corpus.name, 39, 40)


def test_ranks_are_those_of_friedman_and_nemenyi() -> None:
    # Demšar (2006), table 5: q of the Nemenyi test at 0.05 for two to six methods.
    rng = np.random.default_rng(0)
    for k, q in ((3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850)):
        scores = {str(each): rng.random(8) for each in range(k)}
        test = compare_ranks(scores)
        assert test.critical_difference == pytest.approx(q * np.sqrt(k * (k + 1) / 48), abs=1e-3)
        for pair in test.pairs:
            distance = test.ranks[pair.worse] - test.ranks[pair.better]
            assert (pair.p_corrected < 0.05) == (distance > test.critical_difference)
    # Friedman's statistic by its formula.
    table = {"a": np.array([0.9, 0.8, 0.7, 0.6, 0.5]), "b": np.array([0.8, 0.9, 0.6, 0.5, 0.4])}
    table["c"] = np.array([0.1, 0.2, 0.3, 0.2, 0.1])
    ranks = np.array([1.2, 1.8, 3.0])
    assert list(mean_ranks(table).values()) == pytest.approx(ranks.tolist())
    chi2 = 12 * 5 / (3 * 4) * ((ranks**2).sum() - 3 * 4**2 / 4)
    assert compare_ranks(table).statistic == pytest.approx(4 * chi2 / (5 * 2 - chi2))
    same = {name: np.ones(5) for name in "abc"}
    assert compare_ranks(same).p == 1
    assert not any(pair.is_resolved for pair in compare_ranks(same).pairs)


def test_speakers_are_compared_by_exact_signed_ranks_corrected_by_holm() -> None:
    base = np.linspace(0.3, 0.6, 8)
    better = base + np.linspace(0.01, 0.08, 8)
    scores = {"a": base, "b": better, "c": base.copy()}
    pairs = {frozenset((p.better, p.worse)): p for p in compare_speakers(scores)}
    all_one_way = pairs[frozenset("ab")]
    assert all_one_way.better == "b"
    assert all_one_way.p == pytest.approx(2 / 2**8)
    assert all_one_way.p_corrected == pytest.approx(3 * 2 / 2**8)
    assert all_one_way.is_resolved
    assert pairs[frozenset("ac")].p == 1
    few = compare_speakers({name: values[:4] for name, values in scores.items()})
    assert all(np.isnan(each.p) and not each.is_resolved for each in few)


def test_the_pareto_front_has_what_no_cheaper_encoder_reaches() -> None:
    costs = [
        MethodCost("large", 300, 9, np.nan, 0.7),
        MethodCost("base", 90, 3, np.nan, 0.7),
        MethodCost("tiny", 8, 5, np.nan, 0.5),
        MethodCost("features", 0, 1, np.nan, 0.4),
    ]
    names = [each.method for each in pareto_front(costs, "parameters")]
    assert names == ["features", "tiny", "base"]
    assert [e.method for e in pareto_front(costs, "seconds_per_hour")] == ["features", "base"]
    assert pareto_front(costs, "megabytes_per_hour") == []


def test_a_dry_run_writes_neither_caches_nor_runs(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    write(
        f'[corpora]\nfew = "{few_clips}"\n[encoders]\nsmall = "{small_encoder}"\nno = "no/such"\n'
    )
    done = serpipe("study", "run", "study.toml", "--dry-run", "--format", "json")
    assert done.code == 0, done.err
    small, unknown = json.loads(done.out)["tables"]["plan"]
    assert (small["clips"], small["runs_to_fit"]) == (40, 1)
    assert small["extraction_hours"] > 0 and small["fit_hours"] > 0
    # Four layers of width 32 in float32.
    assert small["disk_megabytes"] == pytest.approx(40 * 4 * 32 * 4 / 1e6)
    assert unknown["extraction_hours"] is None
    assert not Path("features").exists() and not Path("artifacts/runs").exists()
    assert package.estimate_study("study.toml").tables[0].records[0]["clips"] == 40


@pytest.mark.parametrize("before", [(), ("run",)], ids=["", "run"])
def test_a_study_runs_whether_or_not_the_command_run_is_named(
    serpipe: Command, before: tuple[str, ...]
) -> None:
    done = serpipe("study", *before, "--dry-run", "missing.toml")
    assert_refused(done, "missing.toml", "study init")
