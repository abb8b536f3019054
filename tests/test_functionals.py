"""Acoustic functionals of openSMILE are cached, fitted, fused and predicted with as an encoder."""

from pathlib import Path

import numpy as np
import pytest
from serpipe.artifacts.models.saved_model import load_model
from serpipe.features.audio import read_waveform
from serpipe.features.cache import open_cache
from serpipe.features.encoder import load_encoder
from serpipe.features.names import FUNCTIONALS

from .conftest import Command, run_python

opensmile = pytest.importorskip("opensmile", reason="opensmile is not installed")

EGEMAPS = "opensmile:eGeMAPSv02"


def test_each_feature_set_gives_what_opensmile_gives_in_any_batch(sample: Path) -> None:
    clips = sorted(sample.rglob("*.flac"))[:3]
    waveforms = [read_waveform(clip, 16000)[0] for clip in clips]
    waveforms[0] = waveforms[0][:1000]  # the shortest that is accepted
    for feature_set, width in (("eGeMAPSv02", 88), ("ComParE_2016", 6373)):
        encoder = load_encoder(f"opensmile:{feature_set}")
        smile = opensmile.Smile(
            opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals
        )
        expected = [smile.process_signal(each, 16000).to_numpy("float32") for each in waveforms]
        assert encoder.identity.layers == (FUNCTIONALS,)
        assert encoder.identity.width == width
        together = encoder.embed(waveforms)["mean"]
        np.testing.assert_array_equal(together, np.nan_to_num(np.stack(expected, axis=1)))
        alone = [encoder.embed([each])["mean"] for each in waveforms]
        np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))


def test_functionals_are_fused_with_an_encoder_of_other_poolings_and_predict(
    few_clips: Path, small_encoder: Path, serpipe: Command
) -> None:
    extracted = [
        serpipe("extract", "--data", few_clips, "--encoder", encoder, *pooling)
        for encoder, pooling in ((EGEMAPS, ()), (small_encoder, ("--pool", "mean,std")))
    ]
    caches = [Path(done.out.strip()) for done in extracted]
    assert ":" not in caches[0].name
    done = serpipe(
        "fit", "--cache", caches[0], "--cache", caches[1], "--head", "lda,fuse",
        "--split", "kfold:3",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    clip = sorted(few_clips.rglob("*.flac"))[0]
    for head in ("lda", "fuse"):
        model = load_model(run / "bundles" / head, encoder=f"{EGEMAPS},{small_encoder}")
        assert model.predict(clip).label in model.labels
    width = open_cache(caches[1]).key["width"]
    wide = serpipe("fit", "--cache", caches[0], "--cache", caches[1], "--pool", "std")
    assert wide.code == 2
    assert str(caches[0]) in wide.err
    assert width != open_cache(caches[0]).key["width"]


@pytest.mark.parametrize(
    "options",
    [
        ("--encoder", "opensmile:GeMAPS"),
        ("--encoder", EGEMAPS, "--pool", "mean,std"),
        ("--encoder", EGEMAPS, "--max-seconds", 10),
        ("--encoder", EGEMAPS, "--compile"),
    ],
    ids=str,
)
def test_what_a_feature_set_cannot_do_is_refused(
    options: tuple[object, ...], few_clips: Path, serpipe: Command
) -> None:
    done = serpipe("extract", "--data", few_clips, *options)
    assert done.code == 2
    assert str(options[-1]).removeprefix("--") in done.err


def test_functionals_are_not_trained_end_to_end(few_clips: Path, serpipe: Command) -> None:
    done = serpipe("finetune", "--data", few_clips, "--encoder", EGEMAPS)
    assert done.code == 2
    assert EGEMAPS in done.err


def test_where_opensmile_is_missing_its_licence_is_stated(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opensmile'] = None\n"
        "from serpipe.errors import UserError\n"
        "from serpipe.features.encoder import load_encoder\n"
        "try:\n    load_encoder('opensmile:eGeMAPSv02')\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert "serpipe[opensmile]" in done.stdout
    assert "research" in done.stdout
