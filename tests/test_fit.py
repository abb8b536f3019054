"""No speaker is heard twice, nothing is learnt outside the fold, and nothing depends on chance."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from serpipe.errors import UserError
from serpipe.pipeline.fit import LayerFit, fit_layers
from serpipe.pipeline.folds import Fold, check_folds, leave_one_speaker_out
from serpipe.pipeline.heads import HEADS, find_heads, read_parameters
from serpipe.pipeline.metrics import score

EMOTIONS = np.array(["angry", "happy", "sad"])


def clips(
    n_speakers: int = 6, per_emotion: int = 4, signal: float = 1.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings in which emotions and speakers are both heard; labels, speakers, content."""
    draw = np.random.default_rng(seed)
    labels = np.tile(np.repeat(EMOTIONS, per_emotion), n_speakers)
    speakers = np.repeat([f"{n:02d}" for n in range(n_speakers)], len(EMOTIONS) * per_emotion)
    X = draw.standard_normal((len(labels), 20)).astype(np.float32)
    X += signal * draw.standard_normal((3, 20))[np.searchsorted(EMOTIONS, labels)]
    X += 2 * draw.standard_normal((n_speakers, 20))[speakers.astype(int)]
    content = np.array([f"{n:064d}" for n in range(len(labels))])
    return X.astype(np.float32), labels, speakers, content


def loso(speakers: np.ndarray, content: np.ndarray, labels: np.ndarray) -> tuple[Fold, ...]:
    return leave_one_speaker_out(speakers, content, labels, content)


def fit(name: str, X: np.ndarray, labels: np.ndarray, folds: object, jobs: int = 1) -> LayerFit:
    head = HEADS[name]
    return next(fit_layers(head, head.defaults, lambda layer: X, ["3"], labels, folds, jobs=jobs))  # type: ignore[arg-type]


def test_leaving_one_speaker_out_leaves_out_all_of_one_speaker() -> None:
    _, labels, speakers, content = clips()
    folds = loso(speakers, content, labels)
    assert [fold.name for fold in folds] == sorted(set(speakers))
    for fold in folds:
        assert set(speakers[fold.test]) == {fold.name}
        assert fold.name not in speakers[fold.train]
        assert len(fold.train) + len(fold.test) == len(labels)


def test_a_speaker_on_both_sides_is_refused() -> None:
    _, labels, speakers, content = clips()
    folds = list(loso(speakers, content, labels))
    first = folds[0]
    folds[0] = Fold(first.name, np.append(first.train, first.test[0]), first.test)
    with pytest.raises(UserError, match="fold 00: the same speaker is on both sides"):
        check_folds(folds, speakers, content, labels, content)


def test_a_recording_under_two_speakers_is_refused() -> None:
    _, labels, speakers, content = clips()
    content[-1] = content[0]
    with pytest.raises(UserError, match=r"the same recording is on both sides \(0+ and 0+\)"):
        loso(speakers, content, labels)


def test_a_clip_that_is_tested_twice_or_never_is_refused() -> None:
    _, labels, speakers, content = clips()
    folds = loso(speakers, content, labels)
    for wrong in (folds[1:], (*folds, folds[0])):
        with pytest.raises(UserError, match="exactly once"):
            check_folds(wrong, speakers, content, labels, content)


def test_one_speaker_is_too_few() -> None:
    with pytest.raises(UserError, match="at least 2"):
        loso(np.array(["01", "01"]), np.array(["a", "b"]), np.array(["sad", "happy"]))


def test_one_label_to_train_on_is_too_few() -> None:
    with pytest.raises(UserError, match="fold 01: its training clips have one label, happy"):
        loso(np.array(["01", "02"]), np.array(["a", "b"]), np.array(["sad", "happy"]))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_hears_emotions_of_unheard_speakers(name: str) -> None:
    X, labels, speakers, content = clips(n_speakers=8, per_emotion=8)
    fitted = fit(name, X, labels, loso(speakers, content, labels))
    assert score(labels, fitted.predicted).uar > 0.6
    assert not fitted.not_converged


@pytest.mark.parametrize("name", HEADS)
def test_labels_that_only_the_speaker_tells_are_not_learnt(name: str) -> None:
    """Each speaker has one label: a split that shares speakers would score near 1."""
    X, _, speakers, content = clips(n_speakers=12, signal=0)
    labels = EMOTIONS[speakers.astype(int) % 3]
    fitted = fit(name, X, labels, loso(speakers, content, labels))
    assert score(labels, fitted.predicted).uar < 0.6
    half = np.arange(len(labels)) % 2 == 0
    shared = (Fold("even", *np.nonzero(~half), *np.nonzero(half)),
              Fold("odd", *np.nonzero(half), *np.nonzero(~half)))  # fmt: skip
    assert score(labels, fit(name, X, labels, shared).predicted).uar > 0.8


@pytest.mark.parametrize("name", HEADS)
def test_the_units_of_the_features_do_not_matter(name: str) -> None:
    X, labels, speakers, content = clips()
    folds = loso(speakers, content, labels)
    scaled = X * np.float32(2) ** (np.arange(X.shape[1]) % 7)  # powers of two: nothing is rounded
    before, after = fit(name, X, labels, folds), fit(name, scaled, labels, folds)
    np.testing.assert_array_equal(before.predicted, after.predicted)


@pytest.mark.parametrize("name", HEADS)
def test_nothing_is_learnt_from_the_test_clips(name: str) -> None:
    """Change one test clip beyond all measure: its speaker's other clips are predicted the same."""
    X, labels, speakers, content = clips()
    folds = loso(speakers, content, labels)
    before = fit(name, X, labels, folds)
    X = X.copy()
    X[folds[2].test[0]] = 1e6
    after = fit(name, X, labels, folds)
    others = folds[2].test[1:]
    np.testing.assert_array_equal(before.scores[others], after.scores[others])


@pytest.mark.parametrize("name", HEADS)
def test_results_do_not_depend_on_jobs_or_run(name: str) -> None:
    X, labels, speakers, content = clips()
    folds = loso(speakers, content, labels)
    first = fit(name, X, labels, folds)
    for jobs in (1, 2):
        again = fit(name, X, labels, folds, jobs=jobs)
        np.testing.assert_array_equal(first.predicted, again.predicted)
        np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_predicts_the_same_and_is_the_same_bytes(name: str, tmp_path: Path) -> None:
    X, labels, speakers, content = clips()
    head = HEADS[name]
    folds = loso(speakers, content, labels)
    classifier = fit(name, X, labels, folds).classifier
    paths = [tmp_path / f"{number}{head.suffix}" for number in range(2)]
    for path in paths:
        head.save(classifier, path)
    loaded = head.load(paths[0])
    np.testing.assert_array_equal(loaded.predict(X), classifier.predict(X))
    np.testing.assert_allclose(head.scores(loaded, X), head.scores(classifier, X), rtol=1e-12)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if head.suffix == ".skops":  # no time of day in the archive
        dates = {member.date_time for member in zipfile.ZipFile(paths[0]).infolist()}
        assert dates == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("name", HEADS)
def test_two_emotions_are_enough(name: str, tmp_path: Path) -> None:
    X, labels, speakers, content = clips()
    two = labels != "sad"
    X, labels, speakers, content = X[two], labels[two], speakers[two], content[two]
    fitted = fit(name, X, labels, loso(speakers, content, labels))
    assert fitted.scores.shape == (len(labels), 2)
    assert score(labels, fitted.predicted).uar > 0.6
    path = tmp_path / f"two{HEADS[name].suffix}"
    HEADS[name].save(fitted.classifier, path)
    loaded = HEADS[name].load(path)
    np.testing.assert_array_equal(loaded.predict(X), fitted.classifier.predict(X))


def test_an_emotion_of_one_speaker_has_no_score_where_it_was_not_heard() -> None:
    X, labels, speakers, content = clips()
    labels = np.where((speakers == "00") & (labels == "sad"), "calm", labels)
    fitted = fit("lr", X, labels, loso(speakers, content, labels))
    assert np.isnan(fitted.scores[speakers == "00", 1]).all()  # calm, between angry and happy
    assert np.isfinite(fitted.scores[speakers != "00"]).all()


def test_fits_that_do_not_converge_are_named() -> None:
    X, labels, speakers, content = clips()
    folds = loso(speakers, content, labels)
    hasty = {"C": 1.0, "max_iter": 1}
    fitted = next(fit_layers(HEADS["lr"], hasty, lambda layer: X, ["0"], labels, folds))
    assert fitted.not_converged == tuple(fold.name for fold in folds)


class Evil:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.trace), "w")


def test_a_malicious_head_runs_no_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "head.skops", tmp_path / "was-run"
    pickle.loads(pickle.dumps(Evil(trace))).close()
    assert trace.exists()  # so it would be seen
    trace.unlink()
    path.write_bytes(pickle.dumps(Evil(trace)))
    for name in HEADS:
        with pytest.raises(UserError):
            HEADS[name].load(path)
    schema = {
        "__class__": "open", "__module__": "builtins", "__loader__": "FunctionNode", "__id__": 1,
        "content": {"module_path": "builtins", "function": "open"}, "protocol": 2,
        "_skops_version": "0.12",
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    with pytest.raises(UserError, match="do not use this file"):
        HEADS["svm"].load(path)
    path.write_text('{"classes": ["a"], "trees": "rubbish"}')
    with pytest.raises(UserError, match="cannot be read"):
        HEADS["lgbm"].load(path)
    assert not trace.exists()


def test_scores_by_hand() -> None:
    truth = np.array(["a"] * 6 + ["b"] * 2 + ["c"] * 2)
    said = np.array(["a"] * 6 + ["b", "a"] + ["a", "a"])
    scores = score(truth, said)
    assert scores.uar == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores.accuracy == pytest.approx(0.7)
    assert scores.macro_f1 == pytest.approx((2 * (6 / 9) / (1 + 6 / 9) + 2 / 3 + 0) / 3)


def test_heads_and_parameters_are_read() -> None:
    assert [head.name for head in find_heads("all")] == ["lr", "svm", "lgbm"]
    assert [head.name for head in find_heads("svm,lr")] == ["lr", "svm"]
    with pytest.raises(UserError, match="'knn' is no head; expected lr, svm, lgbm or all"):
        find_heads("lr,knn")
    heads = find_heads("lr,svm")
    assert read_parameters(heads, ["lr.C=1e-3"])["lr"]["C"] == 0.001
    assert read_parameters(find_heads("svm"), ["C=3"]) == {"svm": {"C": 3.0}}
    assert read_parameters(heads, [])["svm"] == HEADS["svm"].defaults
    for wrong in ("C=1", "lr.gamma=1", "lgbm.max_bin=3"):
        with pytest.raises(UserError, match=r"one of lr\.C, lr\.max_iter, svm\.C"):
            read_parameters(heads, [wrong])
    for wrong in ("lr.C=much", "lr.C", "lr.C=-1", "lr.C=nan", "lr.C=inf", "svm.C=0"):
        with pytest.raises(UserError, match=r"expected \w+\.C to be a number from 1e-08 to 1e\+08"):
            read_parameters(heads, [wrong])
    with pytest.raises(UserError, match="to be a whole number from 1 to"):
        read_parameters(heads, ["lr.max_iter=10.5"])
