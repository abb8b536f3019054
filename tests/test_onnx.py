"""An exported file says in onnxruntime, of samples alone, what serpipe says of the clip."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import serpipe as package
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from serpipe.artifacts.models.bundle import save_bundle
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, Model
from serpipe.artifacts.onnx_export import convert as onnx_convert
from serpipe.artifacts.onnx_export import export as onnx_export
from serpipe.artifacts.onnx_export.export import EXPORTS, TOLERANCE, export_onnx
from serpipe.artifacts.onnx_export.graph import PooledLayers
from serpipe.artifacts.onnx_export.heads import head_module
from serpipe.errors import BadClipError, UserError
from serpipe.features.audio import Waveform, read_waveform
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.encoder import load_encoder
from serpipe.pipeline.finetune.model import build_model, save_model
from serpipe.pipeline.finetune.network_model import NetworkModel, save_network
from serpipe.pipeline.heads import HEADS, paths
from serpipe.pipeline.layers import choose_layers, weigh

from .conftest import ROOT, Command, made_once, run_python
from .messages import assert_refused, raises_about
from .processes import Forked
from .test_fit import EMOTIONS, GRIDS
from .test_fit import clips as made_up_clips

PAGE = ROOT / "docs" / "how-to" / "export-to-onnx.md"
#: Encoder, --layers, --pool, --dtype, head.
CASES = [
    ("wav2vec2-layer-stable", "1", "std", "float16", "lr"),
    ("hubert-group", "mean", "mean,std", "float32", "svr"),
    ("wavlm-group", "concat:0,1", "mean", "float32", "svm"),
    ("data2vec-audio", "weighted", "mean", "float32", "lgbm"),
    ("whisper", "concat:0,final_norm", "mean,std", "float32", "ridge"),
]


@pytest.fixture(scope="module")
def waveforms(sample: Path) -> list[Waveform]:
    """Eighteen real clips of the sample."""
    return [read_waveform(file, 16000)[0] for file in sorted(sample.glob("Actor_0[1-3]/*.flac"))][
        :18
    ]


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that ships, exported."""

    def make(folder: Path) -> None:
        export_onnx(DEFAULT_BUNDLE, folder / "default.onnx")

    return made_once(tmp_path_factory, "onnx", make) / "default.onnx"


def make_bundle(
    folder: Path, encoder: Path, waveforms: list[Waveform], case: tuple[str, ...], **changes: Any
) -> Path:
    """Fit a head on clips with made-up labels or ratings."""
    _, layers, pool, dtype, name = case
    loaded = load_encoder(str(encoder), poolings=pool.split(","))
    (candidate,) = choose_layers(layers, loaded.identity.layers)
    places = [loaded.identity.layers.index(layer) for layer in candidate.layers]
    pooled = [loaded.embed([waveform]) for waveform in waveforms]
    X = candidate.join([
        np.concatenate([np.concatenate([one[p][at] for p in pool.split(",")], 1) for one in pooled])
        .astype(dtype).astype(np.float32)
        for at in places
    ])  # fmt: skip
    weights = [0.3, 0.7] if candidate.how == "weighted" else []
    X = weigh(X, np.array(weights)) if weights else X
    head, draw = HEADS[name], np.random.default_rng(0)
    is_rating = head.task == "regression"
    y: Any = draw.standard_normal(len(X)) if is_rating else np.resize(EMOTIONS, len(X))
    params = paths(GRIDS.get(name, head.grid))[0][0]
    speakers = np.repeat(["a", "b", "c"], len(X) // 3)
    key = asdict(loaded.identity) | {"dtype": dtype} | changes
    save_bundle(
        folder, head(params).fit(X, y, speakers), head=name, parameters=params, encoder=key,
        pooling=pool, layer={"name": layers, "layers": candidate.layers, "how": candidate.how},
        layer_weights=weights, target="mood", changes=[],
        labels=[] if is_rating else EMOTIONS.tolist(), normalise="none", converged=True, result={},
        warnings=["MADE UP"], corpus="", licence="none", citation="", content="", provenance={},
    )  # fmt: skip
    return folder


def make_joined_bundle(
    folder: Path, encoders: list[Path], waveforms: list[Waveform], used: list[tuple[int, str]]
) -> Path:
    """Fit a head on clips with made-up labels and the layers ``used`` of several encoders."""
    loaded = [load_encoder(str(each), poolings=["mean"]) for each in encoders]
    pooled = [[each.embed([waveform])["mean"] for waveform in waveforms] for each in loaded]
    X = np.concatenate(
        [
            np.concatenate([states[loaded[n].identity.layers.index(layer)] for states in pooled[n]])
            for n, layer in used
        ],
        axis=1,
    )
    y, speakers = np.resize(EMOTIONS, len(X)), np.repeat(["a", "b", "c"], len(X) // 3)
    keys = [asdict(each.identity) | {"dtype": "float32"} for each in loaded]
    names = [f"e{n}:{layer}" for n, each in enumerate(loaded) for layer in each.identity.layers]
    key = {**keys[0], "revision": "several", "layers": names, "joined": keys}
    layers = [f"e{n}:{layer}" for n, layer in used]
    how = "concat" if len(used) > 1 else "single"
    save_bundle(
        folder, HEADS["lda"]({}).fit(X, y, speakers), head="lda", parameters={}, encoder=key,
        pooling="mean", layer={"name": "joined", "layers": layers, "how": how}, layer_weights=[],
        target="mood", changes=[], labels=EMOTIONS.tolist(), normalise="none", converged=True,
        result={}, warnings=[], corpus="", licence="none", citation="", content="", provenance={},
    )  # fmt: skip
    return folder


def run(path: Path, samples: np.ndarray) -> list[np.ndarray]:
    """Run a file on samples of shape (n_clips, n_samples)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    said: list[np.ndarray] = session.run(None, {"audio": samples})
    return said


def has_no_score(path: Path, clip: Waveform) -> bool:
    """Whether scores are NaN, without a label; or an operator refuses the length."""
    try:
        scores, *chosen = run(path, clip[None])
    except (errors.Fail, errors.InvalidArgument):
        return True
    return bool(np.isnan(scores).all()) and all(index == [-1] for index in chosen)


def check_same(path: Path, model: Model, clips: list[Waveform]) -> float:
    """Compare with what serpipe says; return the largest difference."""
    largest = 0.0
    for clip in clips:
        (expected,) = model.predict_batch([clip], ["clip"])
        assert not isinstance(expected, BadClipError)
        scores, *chosen = run(path, clip[None])
        assert scores.shape == (1, len(expected.scores))
        largest = max(largest, np.abs(scores[0] - list(expected.scores.values())).max())
        if model.labels:
            assert model.labels[int(chosen[0][0])] == expected.label
    assert largest <= TOLERANCE
    return largest


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_as_a_module_says_what_it_says_itself(
    name: str, n_labels: int, tmp_path: Path
) -> None:
    X, labels, speakers = made_up_clips(n_speakers=10, signal=0.5)
    use = np.isin(labels, EMOTIONS[:n_labels])
    X, labels, speakers = X[use], labels[use], speakers[use]
    head, known = HEADS[name], speakers < "06"
    is_rating = head.task == "regression"
    y = X[:, 0] ** 2 + 3 * X[:, 1] if is_rating else labels
    params = paths(GRIDS.get(name, head.grid))[0][-1]
    head(params).fit(X[known], y[known], speakers[known]).save(tmp_path / "head")
    fitted = head.load(tmp_path / "head")
    predicted, probabilities = fitted.predict(X), fitted.predict_proba(X)
    scores, chosen = head_module(name, fitted)(torch.from_numpy(X))
    if is_rating:
        np.testing.assert_allclose(scores[:, 0], predicted, atol=1e-5)
        assert chosen is None
        return
    np.testing.assert_allclose(scores, probabilities, atol=1e-6)
    np.testing.assert_array_equal(np.unique(labels)[chosen], predicted)
    if not name.startswith("svm"):  # which decides ties of its votes in another way
        np.testing.assert_array_equal(probabilities.argmax(axis=1), chosen)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_bundle_scores_the_same_at_any_length(
    case: tuple[str, ...],
    tmp_path: Path,
    waveforms: list[Waveform],
    traceable_encoder: Callable[[str], Path],
) -> None:
    encoder = traceable_encoder(case[0])
    changes = {"max_seconds": 8.0} if case[0].startswith("wavlm") else {}
    bundle = make_bundle(tmp_path / "bundle", encoder, waveforms, case, **changes)
    done = export_onnx(bundle, tmp_path / "model.onnx", encoder=encoder)
    assert done.difference <= TOLERANCE
    model = package.load(bundle, encoder=encoder)
    shortest, longest = (json.loads(done.metadata[f"{end}imum_samples"]) for end in ("min", "max"))
    every = np.concatenate(waveforms)
    assert longest == (480000 if case[0] == "whisper" else 128000 if changes else None)
    lengths = (shortest + 12000, 47_777, longest or 200_001)
    clips = [every[5000 : 5000 + n] for n in lengths]
    check_same(done.path, model, [*clips, waveforms[7]])
    several = np.stack([every[30_000 * n :][:47_777] for n in range(3)])
    together = run(done.path, several)
    for row, clip in enumerate(several):
        for whole, alone in zip(together, run(done.path, clip[None]), strict=True):
            np.testing.assert_allclose(whole[row], alone[0], rtol=0, atol=TOLERANCE)
    # What serpipe refuses has no score.
    for refused in (clips[1] * 0, clips[1] * np.nan, np.resize(every, (longest or -1) + 1)):
        if len(refused):
            assert has_no_score(done.path, refused)
    assert has_no_score(done.path, every[5000 : 5000 + shortest - 1])
    for place, wrong in ((1, np.nan), (20_000, np.inf)):
        broken = clips[1].copy()
        broken[place] = wrong
        assert has_no_score(done.path, broken)


def test_a_bundle_of_several_encoders_is_one_graph(
    tmp_path: Path, waveforms: list[Waveform], traceable_encoder: Callable[[str], Path]
) -> None:
    encoders = [traceable_encoder("wav2vec2-group"), traceable_encoder("whisper")]
    given = ",".join(map(str, encoders))
    both = [(0, "0"), (0, "1"), (1, "1")]
    bundle = make_joined_bundle(tmp_path / "both", encoders, waveforms, both)
    done = export_onnx(bundle, tmp_path / "both.onnx", encoder=given)
    clips = [waveforms[0], waveforms[1][:20_001], np.concatenate(waveforms[2:4])]
    check_same(done.path, package.load(bundle, encoder=given), clips)


def test_a_graph_has_only_the_encoders_that_the_head_reads(
    tmp_path: Path, waveforms: list[Waveform], traceable_encoder: Callable[[str], Path]
) -> None:
    encoders = [traceable_encoder("wav2vec2-group"), traceable_encoder("whisper")]
    given = ",".join(map(str, encoders))
    bundle = make_joined_bundle(tmp_path / "one", encoders, waveforms, [(1, "1")])
    graph = onnx_export._bundle_graph(bundle, given, None)
    assert graph.longest == load_checkpoint(str(encoders[1]), None).front_end.maximum_samples
    assert isinstance(graph.embed, PooledLayers) and graph.embed.has_window
    alternating = [(0, "0"), (1, "1"), (0, "1")]
    bundle = make_joined_bundle(tmp_path / "alternating", encoders, waveforms, alternating)
    with pytest.raises(UserError):
        onnx_export._bundle_graph(bundle, given, None)


def test_what_ships_scores_the_same_on_clips_of_many_speakers(shipped: Path, sample: Path) -> None:
    model = package.load(DEFAULT_BUNDLE)
    clips = [model.read(sorted(one.glob("*.flac"))[n % 8]) for n, one in
             enumerate(sorted(sample.glob("Actor_*"))[::6])]  # fmt: skip
    assert len(clips) == 4
    assert check_same(shipped, model, clips) < 1e-5


def test_what_ships_scores_the_same_on_the_real_corpus(shipped: Path, shared: Path) -> None:
    model = package.load(DEFAULT_BUNDLE)
    files = sorted((shared / "data" / "ravdess").glob("Actor_*/*.flac"))[100::360]
    assert len(files) == 4
    check_same(shipped, model, [model.read(file) for file in files])


def test_the_file_tells_all_that_is_not_in_it_and_nothing_of_this_machine(shipped: Path) -> None:
    model = onnx.load(shipped)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    bundle = json.loads((DEFAULT_BUNDLE / "bundle.json").read_text())
    assert json.loads(metadata["labels"]) == bundle["labels"]
    assert json.loads(metadata["warnings"]) == bundle["warnings"]
    for name, value in {"sampling_rate": "16000", "minimum_samples": "400", "trim": "none",
                        "maximum_samples": "480000", "channels": "mean",
                        "licence": "CC BY-NC-SA 4.0"}.items():  # fmt: skip
        assert metadata[name] == value
    assert "UAR 63.0" in metadata["score"]
    assert json.loads(metadata["provenance"])["command"] == "serpipe fit --head lr"
    content = shipped.read_bytes()
    for place in (str(ROOT), str(Path.home()), torch.__file__, str(shipped.parent)):
        assert place.encode() not in content
    # Of four blocks, those above layer 2 are not there; the other two are of head and temperature.
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 4


def test_the_command_gives_the_same_bytes_and_the_page_s_example_the_same_label(
    shipped: Path, sample: Path, tmp_path: Path
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    assert Forked("serpipe", "export", cwd=tmp_path, out=out, err=err).wait() == 0, err.read_text()
    (path,) = (tmp_path / EXPORTS).iterdir()  # nothing unfinished is left
    assert out.read_text().strip() == str(path.relative_to(tmp_path))
    assert "WARNING: A TOY" in err.read_text()
    digests = {hashlib.sha256(one.read_bytes()).hexdigest() for one in (path, shipped)}
    assert len(digests) == 1
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "serpipe" not in re.sub(r"#.*", "", example)
    path.rename(tmp_path / "model.onnx")
    clip = sample / "Actor_05" / "03-01-05-01-01-01-05.flac"
    clip = clip if clip.exists() else sorted((sample / "Actor_05").iterdir())[0]
    (tmp_path / "clip.wav").symlink_to(clip)
    said = run_python("-c", example, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    expected = package.load(DEFAULT_BUNDLE).predict(clip)
    assert said.stdout.splitlines()[0] == expected.label
    assert f"{max(expected.scores.values()):.3f}" in said.stdout


def test_a_fine_tuned_directory_scores_the_same(
    tmp_path: Path, waveforms: list[Waveform], traceable_encoder: Callable[[str], Path]
) -> None:
    checkpoint = load_checkpoint(str(traceable_encoder("wav2vec2-group")), None)
    model = build_model(checkpoint, ("angry", "calm", "happy"), train_front_end=True, seed=0)
    save_model(model, checkpoint.front_end, tmp_path / "model")
    done = export_onnx(tmp_path / "model", tmp_path / "m.onnx")
    check_same(done.path, package.load(tmp_path / "model"), [waveforms[0], waveforms[1][:20_001]])


def test_a_file_that_says_otherwise_is_not_put_in_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waveforms: list[Waveform],
    traceable_encoder: Callable[[str], Path],
) -> None:
    encoder = traceable_encoder("wav2vec2-group")
    bundle = make_bundle(tmp_path / "bundle", encoder, waveforms, ("", "0", *CASES[0][2:]))
    path = tmp_path / "exports" / "model.onnx"
    path.parent.mkdir()
    path.write_text("older")
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with raises_about(UserError, bundle, "-1"):
        export_onnx(bundle, path, encoder=encoder)
    monkeypatch.setattr(onnx_convert, "MAX_BYTES", 1000)
    with raises_about(UserError, "2 GiB"):
        export_onnx(bundle, path, encoder=encoder)
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]
    assert path.read_text() == "older"


def test_what_a_graph_cannot_do_is_one_line(
    tmp_path: Path, serpipe: Command, waveforms: list[Waveform], small_encoder: Path
) -> None:
    case = CASES[0]
    trimmed = make_bundle(tmp_path / "t", small_encoder, waveforms, case, trim_decibels=30.0)
    half = make_bundle(tmp_path / "h", small_encoder, waveforms, case, precision="bf16")
    save_network(NetworkModel("cnn", EMOTIONS.tolist(), seed=0), tmp_path / "network", {})
    for arguments, values in (
        ((trimmed, "--encoder", small_encoder), (trimmed, "30.0 dB")),
        ((half, "--encoder", small_encoder), (half, "bf16", "float32")),
        ((tmp_path / "network",), (tmp_path / "network",)),
        ((DEFAULT_BUNDLE, "--out", "model.bin"), ("--out model.bin",)),
        ((DEFAULT_BUNDLE, "--opset", 9), ("--opset 9",)),
        ((DEFAULT_BUNDLE, "--to", "tflite"), ("--to tflite", "onnx")),
    ):
        assert_refused(serpipe("export", *arguments), *values)
        assert not list(Path().rglob("*.onnx*"))


def test_without_the_extra_it_is_one_line(
    serpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = serpipe("export", DEFAULT_BUNDLE)
    assert_refused(done, "'serpipe[onnx]'")
