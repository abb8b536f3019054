"""Nothing of a run, a bundle or a model is read if it was damaged or changed since it was written.

The schema of each file refuses values of other types even where the hashes were made to fit.
"""

import copy
import csv
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from serpipe.artifacts.models.bundle import load_bundle
from serpipe.artifacts.report.card import card
from serpipe.artifacts.report.report import markdown, report_run
from serpipe.artifacts.report.table import Table, as_markdown
from serpipe.artifacts.run import record_fit, recorder
from serpipe.artifacts.run.fold_results import fold_writer, read_fold_results
from serpipe.artifacts.run.results import read_results
from serpipe.artifacts.run.summary import check_run, read_summary
from serpipe.errors import UserError
from serpipe.features.checkpoint import load_checkpoint
from serpipe.integrity import (
    check_model_files,
    hash_file,
    parse_json,
    read_sealed_json,
    write_model_hashes,
    write_sealed_json,
)
from serpipe.pipeline.folds import Fold
from serpipe.pipeline.heads import sklearn_file
from serpipe.pipeline.heads.sklearn_file import MAX_HEAD_BYTES
from serpipe.pipeline.search import FoldResult
from serpipe.schema import from_json

from .conftest import Command, write_hashed, write_unhashed
from .messages import assert_refused, raises_about

#: One value of each JSON type, and some that no field holds.
OTHER_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**18,
    1e300,
    "x",
    "\0",
    [],
    [None],
    [[["a"]]],
    {},
    {"a": [1]},
)


#: Tables of a run of one head that its fit writes.
LISTED = ("clips.csv", "search/lr.csv", "predictions/lr.csv")


@pytest.fixture
def run(fitted_once: Path, tmp_path: Path) -> Path:
    """A run of two heads."""
    (made,) = (fitted_once / "artifacts" / "runs").iterdir()
    return shutil.copytree(made, tmp_path / "runs" / made.name)


@pytest.fixture
def bundle(run: Path) -> Path:
    """A bundle that was taken out of its run."""
    return shutil.copytree(run / "bundles" / "lr", run.parent.parent / "bundle")


def flip_bits(path: Path, rng: random.Random, count: int) -> Iterator[None]:
    """Yield after each of some single-bit changes of a file, which is then as it was."""
    whole = path.read_bytes()
    for _ in range(count):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        yield
    path.write_bytes(whole)


def read_all(run: Path) -> None:
    results = read_results(run)
    for head in results.heads:
        load_bundle(run / "bundles" / head)


@pytest.mark.parametrize(
    "name",
    ["run.json", "clips.csv", "nuisance.csv", "predictions/lr.csv", "bundles/lr/bundle.json",
     "bundles/lr/head.skops", "bundles/lr/training_record.json"],
)  # fmt: skip
def test_each_flipped_bit_of_a_file_of_a_run_is_found(name: str, run: Path) -> None:
    read_all(run)
    for _ in flip_bits(run / name, random.Random(0), 40):
        with raises_about(UserError, Path(name).name):
            read_all(run)
    read_all(run)
    (run / name).unlink()
    with pytest.raises(UserError):
        read_all(run)


def test_every_file_of_a_run_has_a_hash_but_what_a_report_writes(
    run: Path, serpipe: Command
) -> None:
    assert serpipe("report", run).code == 0
    listed = set(read_summary(run).files or {}) | {"run.json"}
    for made in (run / "bundles").iterdir():
        files = json.loads((made / "bundle.json").read_text())["files"]
        listed |= {f"bundles/{made.name}/{name}" for name in files}
    there = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    unlisted = {name for name in there - listed if not name.startswith("report/")}
    assert unlisted == {"bundles/lr/README.md", "bundles/svm/README.md"}


def test_predictions_that_were_set_to_the_truth_are_refused(run: Path, serpipe: Command) -> None:
    path = run / "predictions" / "lr.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"predicted": row["truth"]} for row in rows)
    result = serpipe("report", run)
    assert (result.code, result.out) == (2, "")
    assert str(path) in result.err


def test_a_changed_layer_or_label_of_a_bundle_is_refused(bundle: Path) -> None:
    path = bundle / "bundle.json"
    whole = json.loads(path.read_text())
    swapped = whole | {"layer": {"name": "1", "layers": ["1"], "how": "single"}}
    renamed = whole | {"labels": whole["labels"][::-1]}
    for changed in (swapped, renamed):
        path.write_text(json.dumps(changed, indent=1))
        with raises_about(UserError, path):
            load_bundle(bundle)
    for missing in ("sha256", "files"):
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != missing}, indent=1))
        with pytest.raises(UserError):
            load_bundle(bundle)


def test_a_bundle_of_another_run_is_not_taken_for_that_of_the_run(
    run: Path, serpipe: Command
) -> None:
    """It is whole, but the scores of the run are not its scores."""
    bundle = run / "bundles" / "lr"
    content = json.loads((bundle / "bundle.json").read_text())
    write_hashed(bundle / "bundle.json", content | {"target": "sex"})
    for command in (("report", run), ("predict", "--mic", "1", "--model", run), ("export", run)):
        done = serpipe(*command)
        assert_refused(done, "bundles/lr/bundle.json")
    alone = shutil.copytree(bundle, run.parent / "alone")
    assert load_bundle(alone).summary.target == "sex"


@pytest.mark.parametrize("changed", ["labels", "layer"])
def test_a_bundle_whose_labels_or_layers_cannot_be_is_refused(
    changed: str, bundle: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(bundle, tmp_path / "alone")
    path = alone / "bundle.json"
    content = json.loads(path.read_text())
    values = {
        "labels": content["labels"][:1] * len(content["labels"]),
        "layer": {"name": "99", "layers": ["99"], "how": "single"},
    }
    write_hashed(path, content | {changed: values[changed]})
    with raises_about(UserError, path):
        load_bundle(alone)


def test_a_head_that_unpacks_to_more_than_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.skops"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("schema.json", "w", force_zip64=True) as member,
    ):
        for _ in range((MAX_HEAD_BYTES >> 24) + 1):
            member.write(b" " * (1 << 24))
    with raises_about(UserError, path):
        sklearn_file.load(path)


def test_a_training_record_cannot_be_removed_or_added_unnoticed(bundle: Path) -> None:
    record = bundle / "training_record.json"
    content = record.read_bytes()
    record.unlink()
    with raises_about(UserError, record):
        load_bundle(bundle)
    record.write_bytes(content)
    path = bundle / "bundle.json"
    whole = json.loads(path.read_text())
    del whole["files"]["training_record.json"]
    write_hashed(path, whole)
    with raises_about(UserError, record):
        load_bundle(bundle)


def test_a_damaged_run_is_not_continued(run: Path, extracted_once: Path, serpipe: Command) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    command = ("fit", "--head", "lr", "--layers", "2", "--grid", "lr.C=1")
    fitted = Path(serpipe(*command).out.strip())
    before = (fitted / "run.json").read_bytes()
    assert serpipe(*command).code == 0
    assert (fitted / "run.json").read_bytes() == before
    search = fitted / "search" / "lr.csv"  # which nothing but this reads
    for _ in flip_bits(search, random.Random(1), 1):
        result = serpipe(*command)
        assert result.code == 2
        assert str(search) in result.err
    assert serpipe(*command).code == 0


def test_a_file_that_was_written_just_before_a_kill_is_listed_by_the_next_run(
    extracted_once: Path, serpipe: Command
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    command = ("fit", "--head", "lr", "--layers", "2", "--grid", "lr.C=1")
    fitted = Path(serpipe(*command).out.strip())
    content = json.loads((fitted / "run.json").read_text())
    del content["files"]["nuisance.csv"]  # as if killed between the two
    write_hashed(fitted / "run.json", content)
    assert serpipe(*command).code == 0
    assert "nuisance.csv" in (read_summary(fitted).files or {})
    assert serpipe("report", fitted).code == 0


def test_each_flipped_bit_of_a_part_of_a_fit_is_a_fold_to_do_again(tmp_path: Path) -> None:
    labels, fold = np.array(["a", "b"]), Fold("f", np.arange(4), np.arange(4, 6))
    result = FoldResult((0.5, 0.25), 0, 0, np.array(["a", "b"]), np.eye(2), converged=True)
    fold_writer(tmp_path, "lr", ["2"], ["f"], labels.tolist())("2", "f", result)
    assert read_fold_results(tmp_path, "lr", ["2"], [fold], labels, 2).keys() == {("2", "f")}
    (part,) = tmp_path.rglob("*.json")
    for _ in flip_bits(part, random.Random(4), 60):
        assert not read_fold_results(tmp_path, "lr", ["2"], [fold], labels, 2)


def test_runs_and_bundles_of_before_there_were_hashes_still_open(run: Path) -> None:
    read_all(run)
    for path in (run / "run.json", run / "bundles" / "lr" / "bundle.json"):
        write_unhashed(path, json.loads(path.read_text()))
    read_all(run)
    assert read_summary(run).files is None


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where each value in some JSON lies, but for long lists their first entries only."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, each in entries:
        yield (*at, key)
        if isinstance(each, dict | list):
            yield from paths_in(each, (*at, key))


def changed_at(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


def values_of_other_types(path: Path, count: int) -> Iterator[tuple[Any, ...]]:
    """Yield after each of some changes of a file whose hash was made to fit."""
    whole = json.loads(path.read_text())
    attempts = [(at, value) for at in paths_in(whole) for value in OTHER_VALUES]
    for at, value in random.Random(2).sample(attempts, count):
        write_hashed(path, changed_at(whole, at, value))
        yield (*at, value)


def test_no_value_of_another_type_in_bundle_json_ends_in_a_traceback(
    run: Path, bundle: Path
) -> None:
    results, refused = read_results(run), 0
    for number, _ in enumerate(values_of_other_types(bundle / "bundle.json", 150)):
        try:
            summary = load_bundle(bundle).summary
            if number % 20 == 0:
                card(results, "lr", summary)
        except UserError:
            refused += 1
    assert refused > 50


def test_no_value_of_another_type_in_run_json_ends_in_a_traceback(run: Path) -> None:
    refused = 0
    for number, _ in enumerate(values_of_other_types(run / "run.json", 200)):
        try:
            results = read_results(run)
            if number % 20 == 0:
                markdown(report_run(results))
        except UserError:
            refused += 1
    assert refused > 50


def test_no_file_outside_a_run_is_read_for_its_hash(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    outside = run.parent / "outside.json"
    outside.write_text("{}")
    write_hashed(run / "run.json", content | {"files": {"../outside.json": hash_file(outside)}})
    with raises_about(UserError, "../outside.json"):
        check_run(run, read_summary(run))


def test_a_run_of_other_versions_that_is_fitted_anew_survives_a_kill_at_any_moment(
    extracted_once: Path, serpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    command = ("fit", "--head", "lr", "--layers", "2", "--grid", "C=1")
    fitted = Path(serpipe(*command).out.strip())
    expected = {fitted / name: (fitted / name).read_bytes() for name in LISTED}

    def as_of_another_version() -> None:
        content = json.loads((fitted / "run.json").read_text())
        content["provenance"]["versions"]["numpy"] = "0.1"
        for path in expected:
            path.write_bytes(path.read_bytes().replace(b"0.", b"0.1"))
        content["files"] = {name: hash_file(fitted / name) for name in content["files"]}
        write_hashed(fitted / "run.json", content)

    steps = {
        "save_bundle": record_fit, "save_clips": recorder, "save_search": recorder,
        "save_predictions": recorder,
    }  # fmt: skip
    for step, module in steps.items():
        as_of_another_version()
        with monkeypatch.context() as patch:
            done = getattr(module, step)

            def stop(*values: Any, done: Callable[..., Any] = done, **more: Any) -> None:
                done(*values, **more)
                raise KeyboardInterrupt

            patch.setattr(module, step, stop)
            assert serpipe(*command).code != 0
        assert serpipe(*command).code == 0, step
        assert {path: path.read_bytes() for path in expected} == expected, step


def test_what_a_user_adds_or_removes_does_not_stop_a_run(
    extracted_once: Path, serpipe: Command
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    command = ("fit", "--head", "lr", "--layers", "2", "--grid", "C=1")
    fitted = Path(serpipe(*command).out.strip())
    notes = fitted / "predictions" / "notes.csv"
    notes.write_text("mine")
    shutil.rmtree(fitted / "bundles")  # to save room
    assert serpipe(*command).code == 0
    notes.unlink()
    assert serpipe(*command).code == 0
    assert serpipe("report", fitted).code == 0


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "C:\\x", ".", ".."])
def test_the_name_of_a_head_is_never_a_path(name: str, run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    write_hashed(run / "run.json", content | {"heads": {name: content["heads"]["lr"]}})
    with raises_about(UserError, run / "run.json"):
        read_results(run)


def test_a_changed_file_of_a_trained_model_is_found(small_encoder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small_encoder, tmp_path / "model")
    write_model_hashes(model)
    load_checkpoint(str(model), None)
    for path in sorted(model.iterdir()):
        for _ in flip_bits(path, random.Random(3), 5):
            with pytest.raises(UserError):
                load_checkpoint(str(model), None)
    check_model_files(model)
    hashes = model / "files.json"
    content, _ = read_sealed_json(hashes)
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for name in ("../outside.json", str(outside), "a/../../outside.json"):  # with its right hash
        write_sealed_json(hashes, content | {"files": {name: hash_file(outside)}})
        with raises_about(UserError, name):
            check_model_files(model)
    for files in ([7], None, "x", {"config.json": "0" * 64}):
        write_sealed_json(hashes, content | {"files": files})
        with pytest.raises(UserError):
            check_model_files(model)
    hashes.write_text('{"dataset": "abc"}')  # somebody else's
    load_checkpoint(str(model), None)
    hashes.unlink()  # by somebody who changed the model on purpose
    load_checkpoint(str(model), None)


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "9" * 5000, "[" * 100_000, '"\\ud800',
     b"\xff", str(2**63)],
)  # fmt: skip
def test_json_that_python_alone_reads_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_schema_takes_no_value_for_one_of_another_type() -> None:
    from serpipe.artifacts.run.encoder_key import EncoderKey

    assert from_json(EncoderKey, {"width": 3, "max_seconds": 2}).max_seconds == 2
    wrong: tuple[Callable[[Any], dict[str, Any]], ...] = (
        lambda value: {"width": value},
        lambda value: {"layers": value},
    )
    for value in ("3", True, 3.0, None, {"a": 1}, "ab", [1]):
        for make in wrong:
            with pytest.raises(ValueError):
                from_json(EncoderKey, make(value))


NAMES = (
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "[a](javascript:alert(1))",
    "![a](http://tracker.example/x.png)", "`` `<b>x</b>", "\\` <i>y</i> `", "a | b", "*bold*",
    "_x_", "<http://a.example>", "[a][b]", "a\n\n# heading\n\n- item", "`<u>`", "\\<b>",
    "&lt;b&gt;",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup_in_markdown(name: str, run: Path) -> None:
    """Rendered, a table and a report show a name as it is, and nothing else."""
    render = MarkdownIt("commonmark", {"html": True}).enable("table")
    plain = " ".join(name.split())
    html = render.render(as_markdown(Table("t", "t", ("name", "n"), ((name, "1"),))))
    inside = html.partition("<td>")[2].partition("</td>")[0]
    for tag in ("<img", "<script", "<a ", "<b>", "<i>", "<u>", "<h1", "<li", "<em", "<strong"):
        assert tag not in inside, inside
    if "`" not in name and "&" not in name:
        shown = inside.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
        assert shown == plain
    content = json.loads((run / "run.json").read_text())
    changes = {"corpus": name, "warnings": [f"INFLATED: {name}"], "changes": [name]}
    write_hashed(run / "run.json", content | changes)
    results = read_results(run)
    texts = [markdown(report_run(results))]
    if name == NAMES[0]:
        summary = load_bundle(run / "bundles" / "lr").summary
        texts.append(card(results, "lr", summary).partition("\n---\n")[2])
    for text in texts:
        html = render.render(text)
        for tag in ("<img", "<script", "<a ", "<b>", "<i>", "<u>", "<h1>heading", "<em>"):
            assert tag not in html
