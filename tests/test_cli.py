"""The three commands follow each other; a user's mistake is one clear line and exit code 2."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import h5py
import pytest
from serpipe.features.cache import open_cache
from serpipe.pipeline.heads import HEADS, find_heads
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from .conftest import (
    Command,
    call_in,
    made_once,
    run_python,
    save_encoder,
    write_hashed,
    write_unhashed,
    write_wav,
)
from .messages import assert_names, assert_refused
from .processes import Forked


@pytest.fixture
def extracted(serpipe: Command, extracted_once: Path) -> Path:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    (cache,) = Path("features/cache").glob("*.h5")
    return cache


#: Every head, with few trees.
FIT_ALL = ("fit", "--head", "all", "--layers", "1-2", "--grid", "lgbm.n_estimators=10,20")


@pytest.fixture(scope="session")
def fitted_all_once(tmp_path_factory: pytest.TempPathFactory, extracted_once: Path) -> Path:
    """A working directory with a run of every head: fitted once, to be copied."""

    def make(folder: Path) -> None:
        shutil.copytree(extracted_once, folder / "work")
        call_in(folder / "work", *FIT_ALL)

    return made_once(tmp_path_factory, "fitted-all", make) / "work"


def test_the_three_commands_find_what_the_one_before_wrote(
    serpipe: Command, fitted_all_once: Path
) -> None:
    shutil.copytree(fitted_all_once, ".", dirs_exist_ok=True)
    (extracted,) = Path("features/cache").glob("*.h5")
    fitted = serpipe(*FIT_ALL)  # that run again: it reports what is there
    assert fitted.code == 0, fitted.err
    assert str(extracted) in fitted.err
    run = Path(fitted.out.strip())
    assert run.parent == Path("artifacts/runs")
    for head in find_heads("all"):
        assert (run / "predictions" / f"{head.name}.csv").is_file()
        assert (run / "search" / f"{head.name}.csv").is_file()
        assert (run / "bundles" / head.name / f"head{head.suffix}").is_file()
        assert re.search(rf"^{head.name} +UAR \d", fitted.err, re.MULTILINE)
    assert not (run / "parts").exists()
    reported = serpipe("report")
    assert reported.code == 0
    assert str(run) in reported.err
    for word in ("RAVDESS speech", "40 clips", "5 speakers", "leave one speaker out", "UAR", "F1",
                 "Nested result [95 % interval]", "descriptive", "lr - svm-linear"):  # fmt: skip
        assert word in reported.out


def test_the_tables_are_the_scores_of_the_saved_predictions(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    for clip in sorted(few_clips.rglob("03-01-0[56]-*"))[:7]:
        clip.unlink()  # emotions of unequal size: UAR and accuracy differ
    assert serpipe("extract", "--data", few_clips, "--encoder", small_encoder).code == 0
    run = Path(serpipe("fit", "--head", "lr,svm").out.strip())
    terminal = serpipe("report").out
    markdown = serpipe("report", run, "--format", "markdown").out
    printed = serpipe("report", run, "--format", "csv").out
    assert (run / "report" / "report.md").read_text() == markdown
    assert (run / "report" / "nested.csv").read_text() == printed
    layers = (run / "report" / "layers.csv").read_text()
    rows = {(r["head"], r["layer"]): r for r in csv.DictReader(io.StringIO(layers))}
    assert len(rows) == 2 * 4
    assert {row["result"] for row in rows.values()} == {"descriptive"}
    rows |= {(r["head"], "nested"): r for r in csv.DictReader(io.StringIO(printed))}
    for head in ("lr", "svm"):
        with (run / "predictions" / f"{head}.csv").open() as file:
            saved = list(csv.DictReader(file))
        assert len(saved) == 33 * 5
        assert all(row["fold"] == row["speaker"] for row in saved)
        for layer in ("nested", *"0123"):
            truth = [row["truth"] for row in saved if row["layer"] == layer]
            said = [row["predicted"] for row in saved if row["layer"] == layer]
            row = rows[head, layer]
            assert float(row["uar"]) == pytest.approx(balanced_accuracy_score(truth, said))
            assert float(row["accuracy"]) == pytest.approx(accuracy_score(truth, said))
            f1 = f1_score(truth, said, average="macro", zero_division=0)
            assert float(row["macro_f1"]) == pytest.approx(f1)
            low, accuracy, high = (row[f"accuracy{end}"] for end in ("_low", "", "_high"))
            assert float(low) < float(accuracy) < float(high)
            assert row["uar_low"] == ""  # too few speakers hold two of the labels
            assert (row["clips"], row["speakers"]) == ("33", "5")
            assert row["warning"].startswith("SER018")

    def shown(head: str, layer: str, metric: str) -> str:
        row = rows[head, layer]
        value = 100 * float(row[metric])
        if not row[f"{metric}_low"]:
            return f"{value:.1f}"
        low, high = (100 * float(row[f"{metric}{end}"]) for end in ("_low", "_high"))
        return f"{value:.1f} [{low:.1f}-{high:.1f}]"

    lines = {layer: [shown(head, layer, "uar") for head in ("lr", "svm")] for layer in "0123"}
    lines |= {
        name: [shown(head, "nested", metric) for head in ("lr", "svm")]
        for name, metric in (("UAR", "uar"), ("accuracy", "accuracy"), ("macro-F1", "macro_f1"))
    }
    for name, cells in lines.items():
        wanted = " +(?:≈ )?".join(re.escape(cell) for cell in cells)
        assert re.search(rf"^ *{name} +(?:≈ )?{wanted} *$", terminal, re.MULTILINE)
        written = re.search(rf"^\| {name} \| (.*) \|$", markdown, re.MULTILINE)
        assert written
        assert re.sub("[*]|≈ ", "", written[1]).split(" | ") == cells


def test_recalls_confusions_and_groups_add_up(serpipe: Command, extracted: Path) -> None:
    run = Path(serpipe("fit", "--head", "lr").out.strip())
    assert serpipe("report").code == 0

    def read(name: str) -> list[dict[str, str]]:
        with (run / "report" / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    with (run / "predictions" / "lr.csv").open() as file:
        nested = [row for row in csv.DictReader(file) if row["layer"] == "nested"]
    pairs = Counter((row["truth"], row["predicted"]) for row in nested)
    confusion = {(r["truth"], r["predicted"]): int(r["n"]) for r in read("confusion")}
    assert {pair: n for pair, n in confusion.items() if n} == pairs
    for row in read("classes"):
        clips = sum(n for (truth, _), n in pairs.items() if truth == row["label"])
        assert int(row["n"]) == clips
        assert row["clips"] == "40"
        assert float(row["recall"]) == pytest.approx(pairs[row["label"], row["label"]] / clips)
    groups = read("groups")
    assert {(r["column"], r["group"]) for r in groups} == {
        ("sex", "female"), ("sex", "male"), ("intensity", "normal"), ("intensity", "strong"),
    }  # fmt: skip
    with (run / "clips.csv").open() as file:
        sex = {row["path"]: row["sex"] for row in csv.DictReader(file)}
    women = [row for row in nested if sex[row["path"]] == "female"]
    uar = balanced_accuracy_score([r["truth"] for r in women], [r["predicted"] for r in women])
    (row,) = (r for r in groups if r["group"] == "female")
    assert float(row["uar"]) == pytest.approx(uar)
    assert len(read("speakers")) == 5


def test_the_same_command_gives_the_same_bytes(
    serpipe: Command, extracted: Path, fitted_all_once: Path
) -> None:
    def contents(run: Path) -> dict[str, bytes]:
        return {
            # Two files hold the command, with its --out and --jobs, and hashes over it.
            str(path.relative_to(run)): re.sub(
                rb'"(command": "serpipe fit .*|(sha256|bundles/.*)": ".*)"', b"", path.read_bytes()
            )
            for path in sorted(run.rglob("*"))
            if path.is_file()
        }

    (first_run,) = (fitted_all_once / "artifacts" / "runs").iterdir()
    assert serpipe(*FIT_ALL, "--out", "again", "--jobs", "2").code == 0
    assert len(contents(first_run)) == 3 + 5 * 6
    assert contents(first_run) == contents(Path("again"))
    quick = ("fit", "--head", "lr", "--layers", "2")
    first = serpipe(*quick).out
    json_before = (Path(first.strip()) / "run.json").read_bytes()
    assert serpipe(*quick).out == first
    assert (Path(first.strip()) / "run.json").read_bytes() == json_before
    for other in (("--grid", "C=0.1"), ("--seed", 1), ("--layers", "1-2"), ("--split", "kfold:3"),
                  ("--normalise", "speaker"), ("--map", "calm=neutral")):  # fmt: skip
        assert serpipe(*quick, *other).out != first


def test_pooling_is_chosen_at_extraction_and_may_be_narrowed(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    assert serpipe("extract", "--data", few_clips, "--encoder", small_encoder,
                   "--pool", "mean,std").code == 0  # fmt: skip
    both = serpipe("fit", "--head", "lr", "--layers", "2")
    assert both.code == 0
    assert_names(serpipe("report").out, "mean,std")
    assert serpipe("fit", "--head", "lr", "--layers", "2", "--pool", "mean").out != both.out
    assert_refused(serpipe("fit", "--pool", "max"), "--pool", "max", "mean,std")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("not decodable", ["WAV", "FLAC"]),
        ("empty", []),
        ("silent", ["-80 dB"]),
        ("too short", ["18.8 ms", "25 ms"]),
        ("git-lfs pointer", ["git lfs pull"]),
        ("named outside the scheme", ["03-01-06-01-02-01-12.wav"]),
        ("twice", []),
    ],
)
def test_a_bad_clip_is_one_line_and_exit_code_2(
    serpipe: Command, few_clips: Path, small_encoder: Path, kind: str, values: list[str]
) -> None:
    clip = few_clips / "Actor_09" / "03-01-06-01-02-01-09.wav"
    clip.parent.mkdir()
    if kind == "not decodable":
        clip.write_bytes(b"\0" * 5000)
    elif kind == "empty":
        clip.write_bytes(b"")
    elif kind == "silent":
        write_wav(clip, [0.0] * 16000)  # type: ignore[arg-type]
    elif kind == "too short":
        write_wav(clip, [0.1] * 300)  # type: ignore[arg-type]
    elif kind == "git-lfs pointer":
        clip.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "named outside the scheme":
        clip = write_wav(clip.with_name("angry man.wav"), [0.1] * 16000)  # type: ignore[arg-type]
    elif kind == "twice":
        original = next((few_clips / "Actor_01").iterdir())
        clip = few_clips / "copies" / original.name
        clip.parent.mkdir()
        clip.write_bytes(original.read_bytes())
    arguments = ("extract", "--data", few_clips, "--encoder", small_encoder)
    stopped = serpipe(*arguments)
    assert_refused(stopped, clip, *values)
    assert_names(stopped.err.splitlines()[-1], 1, 40, "--skip-bad")
    assert stopped.out == ""
    went_on = serpipe(*arguments, "--skip-bad")
    assert went_on.code == 0
    assert f"skipped  {clip}" in went_on.err
    assert len(open_cache(Path(went_on.out.strip()))) == 40


def test_many_bad_clips_are_ten_lines_and_a_count(serpipe: Command, tmp_path: Path) -> None:
    for number in range(25):
        write_wav(tmp_path / "data" / f"clip {number}.wav", [0.1] * 400)  # type: ignore[arg-type]
    unknown = serpipe("extract", "--data", tmp_path / "data")
    assert_refused(unknown, tmp_path / "data", 25, "TESS", "--manifest")
    stopped = serpipe("extract", "--data", f"ravdess={tmp_path / 'data'}")
    assert_refused(stopped, "--skip-bad")
    errors = [line for line in stopped.err.splitlines() if line.startswith("serpipe: ")]
    assert len([line for line in errors if ".wav: " in line]) == 10
    assert_names(errors[-2], 15)
    assert_names(errors[-1], 25)


def test_other_mistakes_are_one_line_and_exit_code_2(
    serpipe: Command, few_clips: Path, small_encoder: Path, tmp_path: Path, extracted: Path
) -> None:
    (tmp_path / "empty").mkdir()
    other = save_encoder(tmp_path / "other", "wav2vec2-group", hidden_size=16)
    rubbish = tmp_path / "rubbish.h5"
    rubbish.write_text("not HDF5")
    extract = ("extract", "--data", few_clips, "--encoder")
    mistakes: list[tuple[tuple[object, ...], list[object]]] = [
        (("extract", "--data", tmp_path / "nowhere"), [tmp_path / "nowhere", "--data sample"]),
        (("extract", "--data", tmp_path / "empty"), [tmp_path / "empty", "--data"]),
        ((*extract, tmp_path / "empty"), [tmp_path / "empty", "config.json"]),
        ((*extract, other, "--out", extracted), [extracted, "encoder", other.name, "--overwrite"]),
        ((*extract, small_encoder, "--pool", "max"), ["--pool max", "mean,std"]),
        ((*extract, small_encoder, "--devices", "tpu"), ["--devices tpu", "cpu"]),
        ((*extract, small_encoder, "--devices", "cuda:9"), ["--devices cuda:9", "cpu"]),
        ((*extract, small_encoder, "--precision", "int4"), ["--precision int4", "bf16"]),
        ((*extract, small_encoder, "--dtype", "int8"), ["--dtype int8", "float16"]),
        ((*extract, small_encoder, "--out", tmp_path), [tmp_path, tmp_path / "cache.h5"]),
        (
            (*extract, small_encoder, "--out", rubbish / "c.h5"),
            [rubbish, "--out"],
        ),
        (("fit", "--out", rubbish), [rubbish, "--out"]),
        (("fit", "--grid", "C=-1"), ["--grid C=-1", "svm.C", "1e-08"]),
        (("fit", "--split", "lopo"), ["--split lopo", "loso|kfold:N"]),
        (("fit", "--split", "emobox"), ["--split emobox", "speaker 06", "--split loso"]),
        (("fit", "--layers", "7"), ["--layers 7", "0, 1, 2, 3"]),
        (("fit", "--target", "speaker"), ["--target speaker", "emotion, intensity"]),
        (("fit", "--target", "sex", "--permute-labels"), ["--permute-labels", "sex"]),
        (("fit", "--map", "calm"), ["--map calm", "LABEL=LABEL"]),
        (("fit", "--map", "calm=sad", "--map", "calm=happy"), ["--map calm=happy", "sad"]),
        (("fit", "--pool", "mean,mean"), ["--pool mean,mean", "mean,std"]),
        (("fit", "--keep", "calm,bored"), ["--keep calm,bored", "'bored'"]),
        (("fit", "--normalise", "corpus"), ["--normalise corpus", "none", "speaker"]),
        (("cache", "info", rubbish), [rubbish, "serpipe extract"]),
        (("fit", "--head", "knn"), ["--head knn", "svm-linear", "lgbm"]),
        (("fit", "--cache", tmp_path / "none.h5"), [tmp_path / "none.h5"]),
        (("fit", "--cache", rubbish), [rubbish, "serpipe extract"]),
        (("fit", "--grid", "svm.D=1"), ["--grid svm.D=1", "svm.C"]),
        (("report", tmp_path / "empty"), [tmp_path / "empty", "run.json"]),
    ]
    for arguments, values in mistakes:
        assert_refused(serpipe(*arguments), *values)


def test_fit_and_report_without_anything_before_say_what_to_run(serpipe: Command) -> None:
    for command, before in (("fit", "serpipe extract"), ("report", "serpipe fit")):
        assert_refused(serpipe(command), before)


def test_a_stop_by_the_user_is_said_and_keeps_what_is_there(
    serpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serpipe.corpora import data

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "scan", stop)
    stopped = serpipe("extract")
    assert_refused(stopped, code=130)


def test_the_heads_in_the_help_are_the_heads_there_are(serpipe: Command) -> None:
    output = serpipe("fit", "--help").out
    for name in (*HEADS, "all"):
        assert re.search(rf"\b{name}\b", output)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("extract", "--help"), ("fit", "-h")]
)
def test_help_waits_for_no_heavy_import(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom serpipe.cli import main\nsys.argv = ['serpipe', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'lightgbm', 'h5py', 'numpy', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = run_python("-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    assert "serpipe" in done.stdout


def test_a_cache_says_what_is_in_it_and_whether_it_is_whole(
    serpipe: Command, extracted: Path
) -> None:
    described = serpipe("cache", "info", extracted)
    assert described.code == 0
    for word in ("RAVDESS speech", "40, ", "5 speakers", "happy 5", "weights_sha256", "float32"):
        assert word in described.out
    printed = json.loads(serpipe("cache", "info", extracted, "--format", "json").out)
    assert printed["clips"].startswith("40, ")
    assert all(f"{name:<16} {value}" in described.out for name, value in printed.items())
    assert serpipe("cache", "verify", extracted).code == 0
    with h5py.File(extracted, "r+") as file:
        file["clips/emotion"][3] = "happy" if file["clips/emotion"][3] != b"happy" else "sad"
    assert_refused(serpipe("cache", "verify", extracted), extracted, "clips", "checksum")


def test_a_cache_from_elsewhere_cannot_write_outside_the_run(
    serpipe: Command, extracted: Path, tmp_path: Path
) -> None:
    with h5py.File(extracted, "r+") as file:
        key = json.loads(file.attrs["key"])
        key["layers"][1] = "x/../../../../../gotcha"
        file.attrs["key"] = json.dumps(key)
    assert_refused(serpipe("fit"), extracted, "layers")
    assert not list(tmp_path.rglob("*gotcha*"))


def test_a_run_with_missing_predictions_is_refused(serpipe: Command, extracted: Path) -> None:
    run = Path(serpipe("fit", "--head", "lr").out.strip())
    path = run / "predictions" / "lr.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    assert_refused(serpipe("report"), path)
    write_unhashed(run / "run.json", json.loads((run / "run.json").read_text()))
    assert_refused(serpipe("report"), path, 197)
    whole = serpipe("fit", "--head", "lr", "--out", "whole").out.strip()
    path = Path(whole) / "predictions" / "lr.csv"
    write_unhashed(Path(whole) / "run.json", json.loads((Path(whole) / "run.json").read_text()))
    header, *rows = path.read_text().splitlines(keepends=True)
    first = rows[0].split(",")
    for changed in (
        [header, *sorted(rows)],
        [header, rows[1], rows[0], *rows[2:]],
        [header, rows[0].replace(f",{first[5]},", ",bored,"), *rows[1:]],
    ):
        path.write_text("".join(changed))
        assert_refused(serpipe("report", whole), path)


def test_a_run_that_was_stopped_says_that_it_is_not_whole(
    serpipe: Command, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serpipe.artifacts.run import recorder
    from serpipe.artifacts.run.csv_files import save_predictions

    command = ("fit", "--head", "lr,svm", "--layers", "2", "--grid", "svm.C=1,10")
    saved: list[int] = []

    def stops(*args: object) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(1)
        save_predictions(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_predictions", stops)
        assert serpipe(*command).code == 130
    assert re.search(r"NOT WHOLE: svm\b", serpipe("report").out)
    assert serpipe(*command).code == 0
    assert "NOT WHOLE" not in serpipe("report").out
    with monkeypatch.context() as patch:  # again: what is whole is not fitted again
        patch.setattr(recorder, "save_predictions", stops)
        assert serpipe(*command).code == 0


def test_a_run_is_not_written_over_something_else(
    serpipe: Command, extracted: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    assert_refused(serpipe("fit", "--out", tmp_path / "thesis"), tmp_path / "thesis", "--out")
    assert serpipe("fit", "--head", "lr", "--out", "run").code == 0
    assert serpipe("fit", "--head", "lr", "--out", "run").code == 0
    other = serpipe("fit", "--head", "lr", "--out", "run", "--grid", "C=1")
    assert_refused(other, "run:", "--out")


def test_a_second_ctrl_c_changes_nothing(
    few_clips: Path, small_encoder: Path, tmp_path: Path
) -> None:
    options = ("--data", few_clips, "--encoder", small_encoder, "--out", "c.h5", "--jobs", 2)
    os.mkfifo(tmp_path / "err")
    process = Forked("serpipe", "extract", *options, cwd=tmp_path, err=tmp_path / "err")
    with (tmp_path / "err").open() as err:
        for line in err:
            if "revision" in line:  # the encoder is loaded, the work begins
                break
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = err.read()
    assert process.wait() == 130
    assert rest.splitlines()[-1].startswith("serpipe: ")
    assert "Traceback" not in rest


def test_only_bad_clips_are_listed_even_if_they_may_be_skipped(
    serpipe: Command, tmp_path: Path
) -> None:
    write_wav(tmp_path / "data" / "x.wav", [0.1] * 400)  # type: ignore[arg-type]
    stopped = serpipe("extract", "--data", f"ravdess={tmp_path / 'data'}", "--skip-bad")
    assert_refused(stopped, tmp_path / "data" / "x.wav")


def test_results_go_to_stdout_and_all_else_to_stderr(serpipe: Command, extracted: Path) -> None:
    fitted = serpipe("fit", "--head", "lr")
    assert fitted.out.count("\n") == 1
    assert Path(fitted.out.strip()).is_dir()
    assert "\x1b" not in serpipe("report").out  # no colours where there is no terminal


def test_an_inflated_number_is_said_to_be_one_wherever_it_appears(
    serpipe: Command, extracted: Path
) -> None:
    honest = Path(serpipe("fit", "--head", "lr", "--layers", "1-2").out.strip())
    inflated = {}
    for option, word in (
        (("--split", "random:4"), "INFLATED"),
        (("--normalise", "speaker"), "TRANSDUCTIVE"),
        (("--permute-labels",), "PERMUTED LABELS"),
    ):
        fitted = serpipe("fit", "--head", "lr", "--layers", "1-2", *option)
        assert f"WARNING: {word}" in fitted.err
        inflated[word] = Path(fitted.out.strip())
        is_marked_alone(inflated[word], word, serpipe("report").out)
    output = serpipe("report", honest).out
    assert not any(word in output for word in inflated)
    together = serpipe("report", honest, *inflated.values()).out
    checks = together[together.index("Checks") :]
    for number, word in ((2, "INFLATED"), (3, "TRANSDUCTIVE")):
        assert f"run {number}: {word}" in together and f"run {number}: " in checks
        assert re.search(rf"^ 1 lr - {number} lr \({word}\) +[+-]\d", together, re.MULTILINE)
    assert "1 lr - 4" not in together  # not tested against true ones


def is_marked_alone(run: Path, word: str, report: str) -> None:
    """All that is left of a run has the word, and so has its report."""
    assert word in json.loads((run / "run.json").read_text())["warnings"][0]
    assert report.index(word) < report.index("Nested result")
    assert f"**{word}" in (run / "report" / "report.md").read_text()
    assert len(list((run / "report").glob("*.csv"))) >= 5
    for path in (run / "report").glob("*.csv"):
        with path.open() as file:
            assert all(word in row["warning"] for row in csv.DictReader(file)), path
    assert len(list((run / "report").glob("*.tex"))) >= 5
    for path in (run / "report").glob("*.tex"):
        assert word in re.sub("%.*", "", path.read_text()), path  # in the table, not in a comment
    bundle = run / "bundles" / "lr" / "bundle.json"
    if word == "PERMUTED LABELS":
        assert not bundle.exists()  # a head that learnt nothing is not for predicting
    else:
        assert word in json.loads(bundle.read_text())["warnings"][0]


def test_layers_may_be_chosen_joined_or_weighted(serpipe: Command, extracted: Path) -> None:
    for layers, names in (
        ("all", ["0", "1", "2", "3"]), ("3", ["3"]), ("1-2", ["1", "2"]), ("mean", ["mean"]),
        ("concat:1,3", ["concat-1-3"]), ("weighted", ["weighted"]),
    ):  # fmt: skip
        run = Path(serpipe("fit", "--head", "lr", "--layers", layers).out.strip())
        assert json.loads((run / "run.json").read_text())["layers"] == names
        bundle = json.loads((run / "bundles" / "lr" / "bundle.json").read_text())
        assert bundle["layer"]["name"] in names
        assert len(bundle["layer_weights"]) == (4 if layers == "weighted" else 0)
        if layers in ("concat:1,3", "weighted"):  # other tests report of plain layers
            assert serpipe("report").code == 0
    with (run / "search" / "lr.csv").open() as file:
        weights = [row["layer_weights"].split() for row in csv.DictReader(file) if row["note"]]
    assert all(len(each) == 4 for each in weights if each)
    against = serpipe(
        "report", serpipe("fit", "--head", "lr").out.strip(), "--compare-layers", "lr"
    )
    assert against.out.count("nested - ") == 4
    assert serpipe("report", "--compare-layers", "svm").code == 2


def test_any_column_may_be_the_target_and_labels_merged_or_dropped(
    serpipe: Command, extracted: Path
) -> None:
    run = Path(serpipe("fit", "--head", "lr", "--target", "intensity", "--layers", "2").out.strip())
    assert json.loads((run / "run.json").read_text())["labels"] == ["normal", "strong"]
    output = serpipe("report").out
    assert "intensity, 2 labels" in output
    assert "intensity normal" not in output  # a group by what is predicted says nothing
    options = ("--map", "calm=neutral", "--keep", "neutral,sad", "--layers", "2")
    run = Path(serpipe("fit", "--head", "lr", *options).out.strip())
    summary = json.loads((run / "run.json").read_text())
    assert (summary["clips"], summary["labels"]) == (15, ["neutral", "sad"])
    merged, *_ = summary["changes"]
    assert_names(merged, "calm", "neutral")
    assert merged in serpipe("report").out
    with (run / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["emotion"] for row in rows if row["label"] == "neutral"} == {"calm", "neutral"}


def test_folds_come_from_a_file(serpipe: Command, extracted: Path, tmp_path: Path) -> None:
    with h5py.File(extracted) as file:
        speakers = sorted(set(file["clips/speaker"].asstr()[:]))
    path = tmp_path / "folds.csv"
    path.write_text("speaker,fold\n" + "".join(f"{s},{n % 2}\n" for n, s in enumerate(speakers)))
    run = Path(
        serpipe("fit", "--head", "lr", "--split", f"file:{path}", "--layers", "2").out.strip()
    )
    assert_names(serpipe("report").out, "2 folds", "folds.csv")
    with (run / "clips.csv").open() as file:
        fold = {row["speaker"]: row["fold"] for row in csv.DictReader(file)}
    assert fold == {s: str(n % 2) for n, s in enumerate(speakers)}


def test_few_speakers_are_told_one_by_one_instead_of_an_interval(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    for folder in sorted(few_clips.iterdir())[:2]:
        shutil.rmtree(folder)
    serpipe("extract", "--data", few_clips, "--encoder", small_encoder)
    assert serpipe("fit", "--head", "lr,svm", "--layers", "2-3").code == 0
    output = serpipe("report").out
    assert "SER004" in output
    assert not re.search(r"\d \[", output)
    tables = json.loads(serpipe("report", "--format", "json").out)["tables"]
    assert len(tables["few-speakers"]) == 3 * 2  # a row for each speaker and head


def test_a_killed_fit_goes_on_where_it_stopped_and_ends_the_same(
    serpipe: Command, extracted: Path, tmp_path: Path
) -> None:
    """SIGKILL as soon as some folds are done; the second run computes the others alone."""
    command = ["fit", "--head", "lr,svm", "--grid", "svm.C=1,10", "--jobs", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert serpipe(*command, "--out", whole).code == 0
    process = Forked("serpipe", *command, "--out", killed)
    parts = killed / "parts" / "lr"
    while process.poll() is None and len(list(parts.glob("*.json"))) < 5:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert 5 <= len(done) < 4 * 6
    next(iter(done)).write_text("{")  # damaged: as if it were not there
    assert serpipe(*command, "--out", killed).code == 0
    for path in sorted(whole.rglob("*")):
        if path.is_file() and path.name not in ("run.json", "bundle.json"):  # they hold --out
            assert (killed / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    assert not (killed / "parts").exists()


def test_embeddings_that_changed_under_the_same_key_are_another_run(
    serpipe: Command, extracted: Path
) -> None:
    first = serpipe("fit", "--head", "lr").out
    with h5py.File(extracted, "r+") as file:
        dataset = file["embeddings/mean/2"]
        dataset[:] = dataset[:] * 1.5
        dataset.attrs["sha256"] = hashlib.sha256(dataset[:].tobytes()).hexdigest()
    assert serpipe("fit", "--head", "lr").out != first


def test_a_run_that_is_asked_for_again_is_the_newest(serpipe: Command, extracted: Path) -> None:
    first = serpipe("fit", "--head", "lr", "--layers", "1").out.strip()
    other = serpipe("fit", "--head", "lr", "--layers", "2").out.strip()
    newest = ("report", "--compare-layers", "lr")  # which draws nothing
    assert other in serpipe(*newest).err
    assert serpipe("fit", "--head", "lr", "--layers", "1").out.strip() == first
    assert first in serpipe(*newest).err


def test_folds_done_by_other_versions_are_not_mixed_in(serpipe: Command, extracted: Path) -> None:
    run = Path(serpipe("fit", "--head", "lr", "--layers", "1").out.strip())
    predictions = (run / "predictions" / "lr.csv").read_bytes()
    summary = json.loads((run / "run.json").read_text())
    summary["provenance"]["versions"]["scipy"] = "0.1"
    write_hashed(run / "run.json", summary)
    (run / "predictions" / "lr.csv").write_text("of another version")
    assert serpipe("fit", "--head", "lr", "--layers", "1").code == 0
    assert (run / "predictions" / "lr.csv").read_bytes() == predictions
