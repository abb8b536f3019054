"""Perturbed copies are trained on with their clips, and tested in the same folds."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import h5py
import numpy as np
import pytest
from serpipe.artifacts.models.bundle import read_bundle_summary
from serpipe.artifacts.report.perturbed_table import perturbed_table
from serpipe.artifacts.run.results import RunResults, read_results
from serpipe.artifacts.run.summary import update_hashes
from serpipe.corpora.data import gather
from serpipe.features.cache import open_cache
from serpipe.features.decoding import DecodingOptions, decode_clip
from serpipe.features.encoder import load_encoder
from serpipe.features.perturbation import Perturbation
from serpipe.features.perturbed_cache import open_perturbed, perturbed_path
from serpipe.pipeline.fit import Problem, fit_final
from serpipe.pipeline.folds import Fold
from serpipe.pipeline.heads import Head
from serpipe.pipeline.heads.head import HeldOutResult, Parameter
from serpipe.pipeline.heads.lda import LDA
from serpipe.pipeline.search import search_fold

from .conftest import Command, call_in, copy_clips, made_once, write_hashed
from .messages import assert_refused
from .test_evaluate import make_classifier as make_classifier  # a fixture
from .test_evaluate import standard as standard

NESTED = "nested"
CACHE = Path("features/cache/ravdess-wav2vec2-group.h5")


@pytest.fixture(scope="module")
def tested_once(
    tmp_path_factory: pytest.TempPathFactory, extracted_once: Path, small_encoder: Path
) -> Path:
    """A working directory with copies, a run of four heads, and its predictions for the copies."""

    def make(folder: Path) -> None:
        shutil.copytree(extracted_once, folder / "work")
        clips = extracted_once.parent / "ravdess"
        data = ("--data", clips, "--encoder", small_encoder)
        call_in(folder / "work", "extract", *data, "--augment", "noise:10", "--augment", "gain:0")
        options = ("--head", "lda,svm,best,fuse", "--grid", "svm.C=1,10", "--layers", "1,2")
        call_in(folder / "work", "fit", *options)
        perturb = ("--perturb", "gain:0", "--perturb", "noise:10")
        call_in(folder / "work", "robustness", *data, *perturb)

    return made_once(tmp_path_factory, "perturbed", make) / "work"


@pytest.fixture
def work(tested_once: Path, serpipe: Command) -> Path:
    """The same in the current working directory, to be changed."""
    shutil.copytree(tested_once, Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


def only_run(work: Path) -> RunResults:
    (run,) = (work / "artifacts" / "runs").iterdir()
    return read_results(run)


class Recording(Head):
    """A head whose fits record the rows that they see; a row of X is (clip, copy, speaker)."""

    name, title, parameters = "recording", "recording", {"C": Parameter((1.0, 2.0), 0, 10)}
    seen: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []

    def fit(self, X: Any, y: np.ndarray, speakers: np.ndarray) -> Self:
        self.seen.append((X, X[:0]))
        return self

    @classmethod
    def path_fitter(cls, X: Any, y: np.ndarray, speakers: np.ndarray, seed: int) -> Any:
        assert np.array_equal(speakers, X[:, 2].astype(int).astype(str))
        assert np.array_equal(y, np.where(X[:, 0] % 2 == 0, "a", "b"))

        def fit_path(train: Any, X_test: Any, path: Any) -> Iterator[HeldOutResult]:
            cls.seen.append((X[train], X_test))
            for _ in path:
                predicted = np.full(len(X_test), "a")
                yield HeldOutResult(predicted, np.tile([0.6, 0.4], (len(X_test), 1)), True)

        return fit_path


@pytest.mark.parametrize("validation", [False, True])
def test_copies_are_trained_on_with_their_clips_and_are_never_tested(validation: bool) -> None:
    n, copies = 24, 2
    clip, speaker = np.arange(n), np.arange(n) // 4
    X = np.stack([np.tile(clip, 3), np.repeat(np.arange(3), n), np.tile(speaker, 3)], axis=1)
    X = X.astype(np.float32)
    labels, speakers = np.where(clip % 2 == 0, "a", "b"), speaker.astype(str)
    chosen_by = np.arange(4, 8) if validation else None
    fold = Fold("0", np.arange(4, n), np.arange(4), chosen_by)
    Recording.seen = []
    result = search_fold(
        Recording, Recording.grid, X, labels, speakers, fold,
        choose=True, seed=0, keep_scores=True,
    )  # fmt: skip
    assert result.inner_scores.shape == (len(fold.train), 2)
    assert len(Recording.seen) == (2 if validation else 6)
    for trained, tested in Recording.seen:
        assert (tested[:, 1] == 0).all()
        assert not set(trained[:, 2]) & set(tested[:, 2])
        seen = {(int(clip), int(copy)) for clip, copy, _ in trained.tolist()}
        assert len(seen) == len(trained)
        assert seen == {(clip, copy) for clip, _ in seen for copy in range(copies + 1)}
    Recording.seen = []
    fit_final(Recording, {"C": 1.0}, X, Problem(labels, speakers, (fold,)))
    ((trained, _),) = Recording.seen
    assert len(trained) == len(fold.train) * (copies + 1) and (trained[:, 2] != 0).all()


def test_a_cached_copy_is_the_embedding_of_the_perturbed_clip(
    tested_once: Path, small_encoder: Path
) -> None:
    noise = Perturbation("noise", 10.0)
    cache = open_cache(tested_once / CACHE)
    perturbed = open_perturbed(cache, noise)
    assert perturbed.cache.key["perturbation"] == "noise:10"
    assert np.array_equal(perturbed.cache.clips["path"][perturbed.rows], cache.clips["path"])
    encoder = load_encoder(str(small_encoder))
    clip = gather([str(tested_once.parents[1] / "shared-extracted/ravdess")]).clips[7]
    waveform, _ = decode_clip(clip.file, None, DecodingOptions(perturbation=noise))
    row = cache.clips["name"].tolist().index(clip.name)
    expected = encoder.embed([waveform])["mean"][2, 0]
    np.testing.assert_array_equal(perturbed.cache.embeddings("2")[perturbed.rows[row]], expected)
    unperturbed = open_perturbed(cache, Perturbation("gain", 0.0)).cache
    np.testing.assert_array_equal(unperturbed.embeddings("2"), cache.embeddings("2"))


def test_a_perturbation_that_changes_nothing_costs_nothing(tested_once: Path) -> None:
    results = only_run(tested_once)
    assert set(results.perturbed) == {"lda", "svm", "best", "fuse"}
    for head, by_perturbation in results.perturbed.items():
        np.testing.assert_array_equal(by_perturbation["gain:0"], results.predicted[head][NESTED])
        assert (by_perturbation["noise:10"] != results.predicted[head][NESTED]).any(), head


def test_perturbed_clips_are_predicted_by_the_head_of_their_own_fold(tested_once: Path) -> None:
    results, cache = only_run(tested_once), open_cache(tested_once / CACHE)
    copies = open_perturbed(cache, Perturbation("noise", 10.0))
    labels, speakers = cache.clips["emotion"], cache.clips["speaker"]
    for choice in results.summary.heads["lda"].choices:
        test = speakers == choice["fold"]
        X = cache.embeddings(choice["layer"])
        head = LDA({}).fit(X[~test], labels[~test], speakers[~test])
        noisy = copies.cache.embeddings(choice["layer"])[copies.rows][test]
        of_fold = results.clips["fold"] == choice["fold"]
        recorded = results.perturbed["lda"]["noise:10"][of_fold]
        np.testing.assert_array_equal(recorded, head.predict(noisy))


def test_the_report_shows_what_perturbations_cost(work: Path, serpipe: Command) -> None:
    results = only_run(work)
    assert serpipe("report").code == 0
    report = results.run / "report"
    tables = json.loads((report / "results.json").read_text())["tables"]
    none, gain, noise = tables["perturbed-lda"]
    predicted, truth = results.perturbed["lda"]["noise:10"], results.truth
    recalls = [np.mean(predicted[truth == label] == label) for label in np.unique(truth)]
    assert [none["perturbation"], gain["difference"], gain["changed"]] == ["none", 0, 0]
    assert noise["uar"] == pytest.approx(np.mean(recalls))
    assert noise["difference"] == pytest.approx(noise["uar"] - none["uar"])
    assert noise["changed"] == np.mean(predicted != results.predicted["lda"][NESTED])
    assert {"uar_sex_female", "uar_sex_male", "uar_intensity_strong"} <= set(noise)
    assert "noise:10" in (report / "index.html").read_text()
    by_seconds = results.grouped_by(["seconds"])
    table = perturbed_table(by_seconds, "lda")
    assert sum(name.startswith("uar_seconds_") for name in table.records[0]) == 4  # quarters
    predictions = results.run / "perturbed" / "lda.csv"
    predictions.write_text(predictions.read_text().replace("noise:10", "\x1b[2J"))
    update_hashes(results.run)
    assert_refused(serpipe("report"), "perturbed/lda.csv")
    shutil.rmtree(results.run / "perturbed")
    content = json.loads((results.run / "run.json").read_text())
    assert any(name.startswith("perturbed/") for name in content["files"])
    assert_refused(serpipe("report"), "perturbed/lda.csv")


def test_only_new_perturbations_are_computed(
    work: Path, serpipe: Command, small_encoder: Path
) -> None:
    before = only_run(work)
    data = ("--data", work.parent / "ravdess", "--encoder", small_encoder)
    copy_clips(Path(__file__).parents[1] / "corpora/sample", work.parent / "ravdess")
    nowhere = ("robustness", before.run, *data[:2], "--encoder", "nowhere")
    assert serpipe(*nowhere, "--perturb", "gain:0").code == 0  # needs no encoder: all are there
    other = perturbed_path(CACHE, Perturbation("noise", 5.0))
    shutil.copy(perturbed_path(CACHE, Perturbation("noise", 10.0)), other)
    done = serpipe("robustness", before.run, *data, "--perturb", "gain:0", "--perturb", "shorter:1",
                   "--perturb", "noise:5", "--format", "json")  # fmt: skip
    assert done.code == 0, done.err
    assert open_cache(other).key["perturbation"] == "noise:5"  # copies of another kind are replaced
    records = json.loads(done.out)["perturbed-svm"]
    tested = ["none", "gain:0", "noise:10", "shorter:1", "noise:5"]
    assert [each["perturbation"] for each in records] == tested
    after = only_run(work)
    np.testing.assert_array_equal(after.perturbed["fuse"]["noise:10"],
                                  before.perturbed["fuse"]["noise:10"])  # fmt: skip
    fit = ("fit", "--head", "lda,svm,best,fuse", "--grid", "svm.C=1,10", "--layers", "1,2")
    assert serpipe(*fit).code == 0  # the run is still complete, and keeps what was measured
    assert only_run(work).perturbed.keys() == after.perturbed.keys()
    content = json.loads((after.run / "run.json").read_text())
    content["provenance"]["versions"]["scikit-learn"] = "0.1"
    write_hashed(after.run / "run.json", content)
    assert serpipe(*fit).code == 0  # fitted again: the predictions were of other heads
    assert not only_run(work).perturbed


def test_augmented_heads_are_tested_on_the_clips_alone(work: Path, serpipe: Command) -> None:
    plain = only_run(work)
    done = serpipe("fit", "--head", "lda", "--layers", "1,2", "--augment", "noise:10", "--out", "n")
    assert done.code == 0, done.err
    augmented = read_results(Path("n"))
    assert augmented.summary.protocol["augment"] == ["noise:10"]
    assert plain.summary.tested == augmented.summary.tested
    assert augmented.summary.folds == plain.summary.folds
    assert (augmented.predicted["lda"][NESTED] != plain.predicted["lda"][NESTED]).any()
    bundle = read_bundle_summary(Path("n/bundles/lda"))
    assert "noise:10" in bundle.trained_on
    assert not read_bundle_summary(plain.run / "bundles/lda").trained_on
    records = json.loads(serpipe("report", "n", "--format", "json").out)["tables"]["nested"]
    assert [each["trained_on"] for each in records] == [bundle.trained_on]
    assert bundle.trained_on in serpipe("report", "n").out
    assert bundle.trained_on in (Path("n/bundles/lda/README.md")).read_text()
    compared = serpipe("report", plain.run, "n")
    assert compared.code == 0 and "noise:10" in compared.out


def test_the_copies_are_not_the_newest_cache(work: Path) -> None:
    from serpipe.artifacts.run.latest import latest_cache

    assert latest_cache() == CACHE
    assert perturbed_path(CACHE, Perturbation("noise", 10.0)).exists()


def test_what_does_not_belong_together_is_refused(
    work: Path,
    serpipe: Command,
    small_encoder: Path,
    family_encoder: Any,
    few_clips: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, clips = only_run(work).run, few_clips
    data, noise = ("--data", clips), ("--perturb", "noise:5")
    encoder = ("--encoder", small_encoder)
    assert_refused(serpipe("fit", "--augment", "noise:3"), "noise-3.h5", "--augment noise:3")
    assert_refused(serpipe("fit", "--augment", "noise:10", "--enrol", "4"), "--enrol", "--augment")
    assert serpipe("robustness", run, *data, *encoder).code == 2  # nothing to test
    other = ("--encoder", family_encoder("hubert-group"))
    assert_refused(serpipe("robustness", run, *data, *other, *noise), "hubert-group", CACHE.name)
    next(clips.rglob("*.flac")).unlink()
    assert_refused(serpipe("robustness", run, *data, *encoder, *noise), CACHE.name, "--data")
    copies = perturbed_path(CACHE, Perturbation("noise", 10.0))
    with h5py.File(copies, "r+") as file:
        file["embeddings/mean/1"][0] += 1
    damaged = serpipe("fit", "--head", "lda", "--layers", "1", "--augment", "noise:10")
    assert_refused(damaged, copies.name)
    monkeypatch.setattr("serpipe.features.perturbed_cache.REVISION", 0)
    assert_refused(serpipe("fit", "--augment", "gain:0"), "gain-0.h5", "--augment gain:0")
    CACHE.unlink()
    assert_refused(serpipe("robustness", run, *data, *encoder, *noise), run.name, "--cache")


def test_a_trained_model_is_scored_on_perturbed_clips(
    standard: Path, few_clips: Path, serpipe: Command
) -> None:
    command = ("evaluate", "--model", standard, "--data", few_clips, "--device", "cpu")
    first = serpipe(*command, "--perturb", "gain:0")
    second = serpipe(*command, "--perturb", "gain:0", "--perturb", "shorter:0.5")
    assert first.code == second.code == 0, first.err + second.err
    assert second.err.count("scoring") == 1  # only what is new
    (run,) = Path("artifacts/runs").iterdir()
    results = read_results(run)
    perturbed, plain = results.perturbed["pretrained"], results.predicted["pretrained"][NESTED]
    np.testing.assert_array_equal(perturbed["gain:0"], plain)
    assert (perturbed["shorter:0.5"] != plain).any()
    assert "shorter:0.5" in serpipe("report").out
    refused = serpipe("robustness", run, "--data", few_clips, "--perturb", "gain:0")
    assert_refused(refused, run.name, "evaluate --perturb")
