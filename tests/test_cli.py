"""The three commands follow each other; a user's mistake is one clear line and exit code 2."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from serpipe.pipeline.heads import HEADS
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from .conftest import Command, run_python, save_encoder, write_wav


@pytest.fixture
def extracted(serpipe: Command, few_clips: Path, small_encoder: Path) -> Path:
    done = serpipe("extract", "--data", few_clips, "--encoder", small_encoder)
    assert done.code == 0, done.err
    return Path(done.out.strip())


def test_the_three_commands_find_what_the_one_before_wrote(
    serpipe: Command, extracted: Path
) -> None:
    assert extracted.parent == Path("features/cache")
    fitted = serpipe("fit", "--head", "all")
    assert fitted.code == 0, fitted.err
    assert str(extracted) in fitted.err
    run = Path(fitted.out.strip())
    assert run.parent == Path("artifacts/runs")
    for head in HEADS.values():
        assert (run / "predictions" / f"{head.name}.csv").is_file()
        assert len(list((run / "heads" / head.name).glob(f"layer-*{head.suffix}"))) == 4
    told = serpipe("report")
    assert told.code == 0
    assert str(run) in told.err
    for word in ("RAVDESS speech", "40 clips", "5 speakers", "leave one speaker out", "UAR", "F1"):
        assert word in told.out


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
    assert (run / "report" / "layers.md").read_text() == markdown
    assert (run / "report" / "layers.csv").read_text() == printed
    rows = {(row["head"], row["layer"]): row for row in csv.DictReader(io.StringIO(printed))}
    assert len(rows) == 2 * 4
    for head in ("lr", "svm"):
        with (run / "predictions" / f"{head}.csv").open() as file:
            saved = list(csv.DictReader(file))
        assert len(saved) == 33 * 4
        assert all(row["fold"] == row["speaker"] for row in saved)
        for layer in "0123":
            truth = [row["emotion"] for row in saved if row["layer"] == layer]
            said = [row["predicted"] for row in saved if row["layer"] == layer]
            row = rows[head, layer]
            assert float(row["uar"]) == pytest.approx(balanced_accuracy_score(truth, said))
            assert float(row["accuracy"]) == pytest.approx(accuracy_score(truth, said))
            f1 = f1_score(truth, said, average="macro", zero_division=0)
            assert float(row["macro_f1"]) == pytest.approx(f1)
            assert (row["clips"], row["speakers"]) == ("33", "5")
    for layer in "0123":
        numbers = [
            f"{100 * float(rows[head, layer][metric]):.1f}"
            for head in ("lr", "svm")
            for metric in ("uar", "accuracy", "macro_f1")
        ]
        assert re.search(rf"^ *{layer} +{' +'.join(numbers)} *$", terminal, re.MULTILINE)
        cells = re.search(rf"^\| {layer} \| (.*) \|$", markdown, re.MULTILINE)
        assert cells
        assert cells[1].replace("*", "").split(" | ") == numbers


def test_the_same_command_gives_the_same_bytes(serpipe: Command, extracted: Path) -> None:
    def contents(run: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(run)): path.read_bytes()
            for path in sorted(run.rglob("*"))
            if path.is_file() and path.name != "run.json"  # which holds the command, with its --out
        }

    serpipe("fit", "--head", "all", "--out", "a")
    serpipe("fit", "--head", "all", "--out", "b", "--jobs", "1")
    assert contents(Path("a")) == contents(Path("b"))
    first = serpipe("fit", "--head", "lr").out
    json_before = (Path(first.strip()) / "run.json").read_bytes()
    assert serpipe("fit", "--head", "lr").out == first
    assert (Path(first.strip()) / "run.json").read_bytes() == json_before
    assert serpipe("fit", "--head", "lr", "--param", "C=0.1").out != first


def test_pooling_is_chosen_at_extraction_and_may_be_narrowed(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    assert serpipe("extract", "--data", few_clips, "--encoder", small_encoder,
                   "--pool", "mean,std").code == 0  # fmt: skip
    both = serpipe("fit")
    assert both.code == 0
    assert "mean,std pooling" in serpipe("report").out
    assert serpipe("fit", "--pool", "mean").out != both.out
    wrong = serpipe("fit", "--pool", "max")
    assert wrong.code == 2
    assert "mean,std" in wrong.err


def one_clear_line(err: str, *words: object) -> None:
    """The last line of standard error is the error, and has all the words."""
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("serpipe: ")]
    assert errors, err
    for word in words:
        assert str(word) in "\n".join(errors)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("not decodable", ["cannot be decoded"]),
        ("empty", ["is an empty file"]),
        ("silent", ["is silent"]),
        ("too short", ["is too short (18.8 ms)", "at least 25 ms"]),
        ("git-lfs pointer", ["git lfs pull"]),
        ("named outside the scheme", ["outside the scheme", "03-01-06-01-02-01-12.wav"]),
        ("twice", ["stands twice", "remove one copy"]),
    ],
)
def test_a_bad_clip_is_one_line_and_exit_code_2(
    serpipe: Command, few_clips: Path, small_encoder: Path, kind: str, words: list[str]
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
    assert stopped.code == 2
    one_clear_line(stopped.err, clip, "expected", *words)
    by_name = kind in ("named outside the scheme", "twice")
    others = "40 others are named well" if by_name else "40 can"
    one_clear_line(stopped.err, f"1 clip(s) cannot be used, {others}", "--skip-bad")
    assert stopped.out == ""
    went_on = serpipe(*arguments, "--skip-bad")
    assert went_on.code == 0
    assert f"skipped  {clip}" in went_on.err
    assert "40 clips computed" in went_on.err


def test_many_bad_clips_are_ten_lines_and_a_count(serpipe: Command, tmp_path: Path) -> None:
    for number in range(25):
        write_wav(tmp_path / "data" / f"clip {number}.wav", [0.1] * 400)  # type: ignore[arg-type]
    stopped = serpipe("extract", "--data", tmp_path / "data")
    assert stopped.code == 2
    assert stopped.err.count("outside the scheme") == 10
    assert "... and 15 more" in stopped.err
    assert "25 clip(s) cannot be used" in stopped.err


def test_other_mistakes_are_one_line_and_exit_code_2(
    serpipe: Command, few_clips: Path, small_encoder: Path, tmp_path: Path, extracted: Path
) -> None:
    (tmp_path / "empty").mkdir()
    other = save_encoder(tmp_path / "other", "wav2vec2-group", hidden_size=16)
    rubbish = tmp_path / "rubbish.h5"
    rubbish.write_text("not HDF5")
    extract = ("extract", "--data", few_clips, "--encoder")
    mistakes: list[tuple[tuple[object, ...], list[object]]] = [
        (("extract", "--data", tmp_path / "nowhere"), ["nowhere", "--data sample"]),
        (("extract", "--data", tmp_path / "empty"), ["empty: no clips (.wav/.flac)"]),
        ((*extract, tmp_path / "empty"), ["no config.json"]),
        ((*extract, other, "--out", extracted), [extracted, "encoder is", "--overwrite"]),
        ((*extract, small_encoder, "--pool", "max"), ["--pool max", "mean,std"]),
        ((*extract, small_encoder, "--devices", "tpu"), ["--devices tpu", "cpu"]),
        ((*extract, small_encoder, "--devices", "cuda:9"), ["--devices cuda:9", "cpu"]),
        ((*extract, small_encoder, "--precision", "int4"), ["--precision int4", "bf16"]),
        ((*extract, small_encoder, "--dtype", "int8"), ["--dtype int8", "float16"]),
        ((*extract, small_encoder, "--out", tmp_path), [tmp_path, "is a folder"]),
        (
            (*extract, small_encoder, "--out", rubbish / "c.h5"),
            [rubbish, "cannot be made a folder"],
        ),
        (("fit", "--out", rubbish), [rubbish, "cannot be made a folder"]),
        (("fit", "--param", "C=-1"), ["--param C=-1", "from 1e-08"]),
        (("cache", "info", rubbish), ["rubbish.h5: not a whole cache"]),
        (("fit", "--head", "knn"), ["'knn'", "lr, svm, lgbm or all"]),
        (("fit", "--cache", tmp_path / "none.h5"), ["none.h5: no such file"]),
        (("fit", "--cache", rubbish), ["rubbish.h5: not a whole cache"]),
        (("fit", "--param", "lr.D=1"), ["--param lr.D=1", "lr.C"]),
        (("report", tmp_path / "empty"), ["no run.json"]),
    ]
    for arguments, words in mistakes:
        stopped = serpipe(*arguments)
        assert stopped.code == 2, (arguments, stopped.err)
        one_clear_line(stopped.err, *words)


def test_fit_and_report_without_anything_before_say_what_to_run(serpipe: Command) -> None:
    for command, words in (("fit", "run `serpipe extract`"), ("report", "run `serpipe fit`")):
        stopped = serpipe(command)
        assert stopped.code == 2
        one_clear_line(stopped.err, words)


def test_a_stop_by_the_user_is_said_and_keeps_what_is_there(
    serpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serpipe import corpora

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(corpora, "scan", stop)
    stopped = serpipe("extract")
    assert stopped.code == 130
    one_clear_line(stopped.err, "run the same command again")


def test_the_heads_in_the_help_are_the_heads_there_are(serpipe: Command) -> None:
    assert "|".join([*HEADS, "all"]) in serpipe("fit", "--help").out


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
    told = serpipe("cache", "info", extracted)
    assert told.code == 0
    for word in ("RAVDESS speech", "40, ", "5 speakers", "happy 5", "weights_sha256", "float32"):
        assert word in told.out
    assert "all checksums right" in serpipe("cache", "verify", extracted).out
    with h5py.File(extracted, "r+") as file:
        file["clips/emotion"][3] = "happy" if file["clips/emotion"][3] != b"happy" else "sad"
    damaged = serpipe("cache", "verify", extracted)
    assert damaged.code == 2
    one_clear_line(damaged.err, extracted, "checksum", "the table has been changed")


def test_a_cache_from_elsewhere_cannot_write_outside_the_run(
    serpipe: Command, extracted: Path, tmp_path: Path
) -> None:
    with h5py.File(extracted, "r+") as file:
        key = json.loads(file.attrs["key"])
        key["layers"][1] = "x/../../../../../gotcha"
        file.attrs["key"] = json.dumps(key)
    stopped = serpipe("fit")
    assert stopped.code == 2
    one_clear_line(stopped.err, "layers are not 0, 1, 2")
    assert not list(tmp_path.rglob("*gotcha*"))


def test_a_run_with_missing_predictions_is_refused(serpipe: Command, extracted: Path) -> None:
    run = Path(serpipe("fit").out.strip())
    path = run / "predictions" / "lr.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    stopped = serpipe("report")
    assert stopped.code == 2
    one_clear_line(stopped.err, "lr.csv", "157 predictions")


def test_a_run_that_was_stopped_says_that_it_is_not_whole(
    serpipe: Command, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serpipe.artifacts import record
    from serpipe.artifacts.run import save_predictions

    saved: list[int] = []

    def stops(*args: object) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(1)
        save_predictions(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(record, "save_predictions", stops)
        assert serpipe("fit", "--head", "lr,svm").code == 130
    assert "NOT WHOLE: svm not fitted yet" in serpipe("report").out
    assert serpipe("fit", "--head", "lr,svm").code == 0
    assert "NOT WHOLE" not in serpipe("report").out
    saved.clear()
    with monkeypatch.context() as patch:  # again, and stopped: what was whole stays so
        patch.setattr(record, "save_predictions", stops)
        assert serpipe("fit", "--head", "lr,svm").code == 130
    assert "NOT WHOLE" not in serpipe("report").out


def test_a_run_is_not_written_over_something_else(
    serpipe: Command, extracted: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    stopped = serpipe("fit", "--out", tmp_path / "thesis")
    assert stopped.code == 2
    one_clear_line(stopped.err, "thesis: holds other things")
    assert serpipe("fit", "--out", "run").code == 0
    assert serpipe("fit", "--out", "run").code == 0
    other = serpipe("fit", "--out", "run", "--param", "C=1")
    assert other.code == 2
    one_clear_line(other.err, "run: holds another run")


def test_a_second_ctrl_c_changes_nothing(
    few_clips: Path, small_encoder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "serpipe", "extract", "--data", str(few_clips)]
    process = subprocess.Popen(
        [*command, "--encoder", str(small_encoder), "--out", "c.h5"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "revision" in line:  # the encoder is loaded, the work begins
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "run the same command again to go on" in rest
    assert "Traceback" not in rest


def test_only_bad_clips_are_listed_even_if_they_may_be_skipped(
    serpipe: Command, tmp_path: Path
) -> None:
    write_wav(tmp_path / "data" / "x.wav", [0.1] * 400)  # type: ignore[arg-type]
    stopped = serpipe("extract", "--data", tmp_path / "data", "--skip-bad")
    assert stopped.code == 2
    one_clear_line(stopped.err, "x.wav", "outside the scheme")


def test_results_go_to_stdout_and_all_else_to_stderr(serpipe: Command, extracted: Path) -> None:
    fitted = serpipe("fit")
    assert fitted.out.count("\n") == 1
    assert Path(fitted.out.strip()).is_dir()
    assert "\x1b" not in serpipe("report").out  # no colours where there is no terminal
