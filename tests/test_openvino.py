"""An encoder that OpenVINO runs gives the embeddings of torch, within the error that it records."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serpipe.errors import UserError
from serpipe.features import openvino_pooler
from serpipe.features.cache import difference, open_cache
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.families import family_of
from serpipe.features.openvino_pooler import check_engine
from serpipe.features.other_caches import caches_beside

from .conftest import Command
from .messages import assert_names, assert_refused, raises_about
from .test_encoder import noise, relative_error

pytest.importorskip("openvino")
Make = Callable[[str], Path]
ONE_FRAME = 400


@pytest.mark.parametrize("family", ["wav2vec2-group", "whisper"])
def test_layers_in_float32_are_those_of_torch_for_clips_of_any_length(
    traceable_encoder: Make, family: str
) -> None:
    folder = str(traceable_encoder(family))
    exact = load_encoder(folder, poolings=("mean", "std"))
    other = load_encoder(folder, poolings=("mean", "std"), engine="openvino")
    assert other.identity == exact.identity
    assert float(other.engine["engine_error"]) < 1e-5
    for n_samples in (ONE_FRAME, 25_000, 130_001):
        clip = noise(n_samples)
        ours, theirs = (encoder.embed([clip]) for encoder in (other, exact))
        assert relative_error(ours["mean"], theirs["mean"]) < 1e-5
        np.testing.assert_allclose(ours["std"], theirs["std"], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def small_bf16(traceable_encoder: Make) -> Encoder:
    return load_encoder(
        str(traceable_encoder("wav2vec2-group")), engine="openvino", precision="bf16"
    )


def test_the_recorded_error_is_that_of_bf16(small_bf16: Encoder, traceable_encoder: Make) -> None:
    exact = load_encoder(str(traceable_encoder("wav2vec2-group")))
    recorded = float(small_bf16.engine["engine_error"])
    measured = relative_error(
        *(each.embed([noise(25_000)])["mean"] for each in (small_bf16, exact))
    )
    assert 0 < measured < 3 * recorded < 0.1


def test_clips_that_are_computed_together_have_the_numbers_of_each_alone(
    small_bf16: Encoder,
) -> None:
    clips = [noise(9_000 + 1_000 * number, number) for number in range(6)]
    alone = [small_bf16.embed([clip])["mean"] for clip in clips]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda clip: small_bf16.embed([clip])["mean"], clips))
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_cache_records_the_engine_which_another_does_not_continue_and_predictions_name(
    serpipe: Command, few_clips: Path, traceable_encoder: Make
) -> None:
    encoder = traceable_encoder("wav2vec2-group")
    command = ("extract", "--data", few_clips, "--encoder", encoder, "--out", "c.h5")
    done = serpipe(*command, "--engine", "openvino", "--devices", "cpu")
    assert done.code == 0, done.err
    key = open_cache(Path("c.h5")).key
    assert str(key["engine"]).startswith("openvino 20")
    assert 0 < key["engine_error"] < 1e-5
    assert_refused(serpipe(*command), "c.h5", "engine", "--overwrite")
    # The error is measured, and does not decide whether embeddings can be used.
    other = {**key, "engine_error": 2 * key["engine_error"]}
    assert difference(key, other) is None
    assert [cache.path for cache in caches_beside(Path("other.h5"), other)] == [Path("c.h5")]
    # A head that is fitted on them predicts with torch, and says so.
    fit = ("fit", "--cache", "c.h5", "--split", "kfold:2", "--head", "lr", "--layers", "1")
    fitted = serpipe(*fit, "--grid", "lr.C=1")
    assert fitted.code == 0, fitted.err
    bundle = Path(fitted.out.split()[-1]) / "bundles" / "lr"
    clip = next(few_clips.rglob("*.flac"))
    predicted = serpipe("predict", clip, "--model", bundle, "--encoder", encoder)
    assert predicted.code == 0, predicted.err
    assert_names(predicted.err, "CONFIGURATION", key["engine"], "torch")


def test_a_graph_with_wrong_numbers_is_refused_without_warnings_of_libraries(
    traceable_encoder: Make, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setitem(openvino_pooler.LARGEST_ERRORS, "float32", 1e-9)
    with raises_about(UserError, "--engine openvino", "wav2vec2-group", "--engine torch"):
        load_encoder(str(traceable_encoder("wav2vec2-group")), engine="openvino")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("model_type", "device", "precision", "compiled", "value"),
    [
        ("sew", "cpu", "float32", False, "--engine torch"),
        ("wav2vec2", "cuda:0", "float32", False, "--devices cpu"),
        ("wav2vec2", "cpu", "fp16", False, "--precision"),
        ("wav2vec2", "cpu", "float32", True, "--compile"),
    ],
)
def test_what_openvino_cannot_run_is_refused(
    model_type: str, device: str, precision: str, compiled: bool, value: str
) -> None:
    with raises_about(UserError, "--engine openvino", value):
        check_engine("name", family_of(model_type), device, precision, compiled=compiled)
