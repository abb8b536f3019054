"""A bundle predicts what was fitted, says where it comes from, and runs no code on load."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from serpipe.artifacts.models.bundle import load_bundle, save_bundle
from serpipe.artifacts.onnx_export.heads import head_module
from serpipe.errors import UserError
from serpipe.pipeline.fit import fit_final
from serpipe.pipeline.heads import HEADS, paths
from serpipe.pipeline.layers import weigh
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from .conftest import run_python, write_hashed, write_unhashed
from .messages import raises_about
from .test_fit import CLASSIFIERS, EMOTIONS, GRIDS, clips, fit_reference, loso


def bundle_fields(head: str, **changes: Any) -> dict[str, Any]:
    return {
        "head": head, "parameters": paths(GRIDS[head])[0][0], "encoder": {"width": 20},
        "pooling": "mean",
        "layer": {"name": "3", "layers": ["3"], "how": "single"}, "layer_weights": [],
        "target": "emotion", "changes": [], "labels": EMOTIONS.tolist(), "normalise": "none",
        "converged": True, "result": {},
        "warnings": [], "corpus": "", "licence": "", "citation": "", "content": "",
        "provenance": {},
    } | changes  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_loaded_bundle_predicts_what_was_fitted_and_is_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    X, labels, speakers = clips()
    X = X.astype(np.float32)
    problem = loso(labels, speakers)
    params = bundle_fields(name)["parameters"]
    for number in range(2):
        classifier, weights = fit_final(HEADS[name], params, X, problem)
        assert weights == ()
        save_bundle(tmp_path / str(number), classifier, **bundle_fields(name))
    bundle = load_bundle(tmp_path / "0")
    predicted, probabilities = bundle.predict({"3": X, "4": X * 0})
    plain = fit_reference(name, params, X, labels)
    np.testing.assert_array_equal(predicted, plain.predict(X))
    assert probabilities.shape == (len(X), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    files = [sorted((tmp_path / str(number)).iterdir()) for number in range(2)]
    assert [p.name for p in files[0]] == ["bundle.json", f"head{HEADS[name].suffix}"]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()
    if HEADS[name].suffix == ".skops":  # no time of day in the archive
        dates = {member.date_time for member in zipfile.ZipFile(files[0][1]).infolist()}
        assert dates == {(1980, 1, 1, 0, 0, 0)}


def test_a_bundle_of_weighted_layers_weighs_them(tmp_path: Path) -> None:
    X, labels, speakers = clips()
    layers = np.stack([X, np.roll(X, 1, axis=1), X**2])
    classifier, weights = fit_final(HEADS["lr"], bundle_fields("lr")["parameters"], layers,
                                    loso(labels, speakers))  # fmt: skip
    layer = {"name": "weighted", "layers": ["0", "1", "2"], "how": "weighted"}
    save_bundle(tmp_path, classifier, **bundle_fields("lr", layer=layer, layer_weights=weights))
    predicted, _ = load_bundle(tmp_path).predict(dict(zip("012", layers, strict=True)))
    expected = classifier.predict(weigh(layers, np.array(weights)))
    np.testing.assert_array_equal(predicted, expected)


@pytest.mark.parametrize("name", ["svm", "svm-linear"])
def test_an_svm_of_an_earlier_version_keeps_its_probabilities(name: str, tmp_path: Path) -> None:
    X, labels, speakers = clips()
    head = HEADS[name]({"C": 1.0}).fit(X, labels, speakers)
    values = head.decision_scores(X)
    head.model["calibration"] = regression = LogisticRegression().fit(values, labels)
    save_bundle(tmp_path, head, **bundle_fields(name))
    bundle = load_bundle(tmp_path)
    predicted, probabilities = bundle.predict({"3": X})
    np.testing.assert_array_equal(predicted, head.predict(X))
    np.testing.assert_allclose(probabilities, regression.predict_proba(values))
    exported, _ = head_module(name, bundle.fitted)(torch.from_numpy(X))
    np.testing.assert_allclose(exported, probabilities, atol=1e-6)


def test_a_bundle_says_whether_its_probabilities_are_calibrated(tmp_path: Path) -> None:
    """So does an older bundle without the field; anything but a text is refused."""
    X, labels, speakers = clips()
    for name in CLASSIFIERS:
        classifier, _ = fit_final(
            HEADS[name], bundle_fields(name)["parameters"], X, loso(labels, speakers)
        )
        save_bundle(tmp_path / name, classifier, **bundle_fields(name))
        path = tmp_path / name / "bundle.json"
        content = json.loads(path.read_text())
        assert content["probabilities"] == HEADS[name].probabilities_are
        assert content["probabilities"]
        write_unhashed(path, {k: v for k, v in content.items() if k != "probabilities"})
        assert load_bundle(path.parent).summary.probabilities == content["probabilities"]
        write_hashed(path, content | {"probabilities": ["calibrated"]})
        with raises_about(UserError, path, "probabilities"):
            load_bundle(path.parent)
    assert not any(HEADS[name].probabilities_are for name in set(HEADS) - set(CLASSIFIERS))


def test_a_file_without_a_matching_classifier_is_refused(tmp_path: Path) -> None:
    X, labels, speakers = clips()
    classifier, _ = fit_final(
        HEADS["lr"], bundle_fields("lr")["parameters"], X, loso(labels, speakers)
    )
    scaler = HEADS["lr"]({})
    scaler.model = StandardScaler().fit(X)
    changes: dict[str, Any]
    for wrong, changes, values in (
        (scaler, {}, (tmp_path / "head.skops", "StandardScaler")),
        (classifier, {"labels": ["a", "b"]}, ("lr", "bundle.json")),
        (classifier, {"encoder": {"width": 21}}, (tmp_path / "head.skops", 20, 21)),
    ):
        save_bundle(tmp_path, wrong, **bundle_fields("lr", **changes))
        with raises_about(UserError, *values):
            load_bundle(tmp_path)


class Evil:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.trace), "w")


class EvilState:
    """Leaves a file behind when skops gives it its state."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __getstate__(self) -> dict[str, str]:
        return {"trace": self.trace}

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["trace"]).touch()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_malicious_bundle_runs_no_code(name: str, tmp_path: Path) -> None:
    trace, folder = tmp_path / "was-run", tmp_path / "bundle"
    pickle.loads(pickle.dumps(Evil(trace))).close()
    assert trace.exists()  # so it would be seen
    trace.unlink()
    skops_file = skops.io.dumps(EvilState(str(trace)))
    skops.io.loads(skops_file, trusted=[f"{EvilState.__module__}.EvilState"])
    assert trace.exists()  # as here
    trace.unlink()
    path = folder / f"head{HEADS[name].suffix}"
    for content, values in (
        (pickle.dumps(Evil(trace)), ()),
        (skops_file, ("EvilState",) if path.suffix == ".skops" else ()),
        (b'{"classes": ["a"], "trees": "rubbish"}', ()),
        (b"", ()),
    ):
        X, labels, speakers = clips()
        classifier, _ = fit_final(
            HEADS[name], bundle_fields(name)["parameters"], X, loso(labels, speakers)
        )
        save_bundle(folder, classifier, **bundle_fields(name))
        path.write_bytes(content)
        with raises_about(UserError, path):
            load_bundle(folder)
        with raises_about(UserError, path, *values):  # and one whose checksum was made to fit
            HEADS[name].load(path)
        assert not trace.exists()


def test_a_bundle_with_a_path_or_an_unknown_head_is_refused(tmp_path: Path) -> None:
    X, labels, speakers = clips()
    classifier, _ = fit_final(
        HEADS["lr"], bundle_fields("lr")["parameters"], X, loso(labels, speakers)
    )
    save_bundle(tmp_path / "b", classifier, **bundle_fields("lr"))
    path = tmp_path / "b" / "bundle.json"
    whole = json.loads(path.read_text())
    for changes, values in (
        ({"head": "../../evil"}, ("'../../evil'",)),
        ({"serpipe_bundle": 9}, (9, 2)),
        ({"fooling": "mean"}, ("fooling",)),
    ):
        write_hashed(path, whole | changes)
        with raises_about(UserError, path, *values):
            load_bundle(tmp_path / "b")
    with raises_about(UserError, tmp_path / "nowhere"):
        load_bundle(tmp_path / "nowhere")


def test_a_head_is_saved_and_loaded_without_waiting_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom sklearn.linear_model import Ridge\n"
        "from serpipe.pipeline.heads.sklearn_file import load, save\n"
        "save(Ridge(alpha=7), Path('head.skops'))\n"
        "assert load(Path('head.skops')).alpha == 7\n"
        "hidden = {'torch', 'dask', 'sklearn.externals.array_api_compat.torch'}\n"
        "assert not hidden & set(sys.modules)\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
