"""Caches of several encoders are joined by the content of their clips."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from serpipe.artifacts.models.bundle import load_bundle, save_bundle
from serpipe.artifacts.models.enrolment import BundleEnrolment, EnrolmentSummary
from serpipe.artifacts.run.results import read_results
from serpipe.artifacts.run.summary import HeadSummary
from serpipe.errors import UserError
from serpipe.features.cache import Cache, open_cache
from serpipe.features.joined_cache import join_caches
from serpipe.pipeline.enrolment import HeadSpec, MemberSpec, fit_enrolled
from serpipe.pipeline.fit import Problem

from .conftest import Command, save_encoder
from .messages import raises_about


@pytest.fixture(scope="module")
def cache(extracted_once: Path) -> Cache:
    (path,) = (extracted_once / "features" / "cache").glob("*.h5")
    return open_cache(path)


def other(cache: Cache, rows: np.ndarray, **columns: np.ndarray) -> Cache:
    """The same cache with its clips in another order, as if another encoder had made it."""
    clips = {name: column[rows] for name, column in cache.clips.items()} | columns
    return replace(
        cache, clips=clips, row_map=cache.row_map[rows], key={**cache.key, "encoder": "lab/other"}
    )


def test_clips_are_matched_by_content_whatever_their_order(cache: Cache) -> None:
    rows = np.random.default_rng(0).permutation(len(cache))[:30]
    joined, note = join_caches([cache, other(cache, rows)])
    assert len(joined) == 30 and f"{len(cache) - 30} clips" in note
    assert joined.clips["path"].tolist() == cache.clips["path"][np.sort(rows)].tolist()
    assert len(joined.layers) == 2 * len(cache.layers) == len(set(joined.layers))
    for layer in cache.layers:
        expected = cache.embeddings(layer)[np.sort(rows)]
        for name in joined.layers:
            if name.rpartition(":")[2] == layer:
                assert np.array_equal(joined.embeddings(name), expected)
                some = joined.read_rows("mean", name, np.array([4, 2]))
                assert np.array_equal(some, expected[[4, 2]])


def test_equal_recordings_are_matched_one_to_one(cache: Cache) -> None:
    sha256 = cache.clips["sha256"].copy()
    sha256[1] = sha256[0]
    twice = replace(cache, clips={**cache.clips, "sha256": sha256})
    joined, note = join_caches([twice, other(twice, np.arange(len(cache))[::-1])])
    assert len(joined) == len(cache) and not note
    name = joined.layers[-1]
    assert np.array_equal(joined.embeddings(name), cache.embeddings(name.rpartition(":")[2]))


def test_caches_that_disagree_or_have_nothing_in_common_are_refused(cache: Cache) -> None:
    everyone = np.arange(len(cache))
    speaker = cache.clips["speaker"].copy()
    speaker[3] = "99"
    with raises_about(UserError, cache.path, "99"):
        join_caches([cache, other(cache, everyone, speaker=speaker)])
    with raises_about(UserError, "--cache", cache.path):
        join_caches([cache, other(cache, everyone, sha256=np.roll(cache.clips["path"], 1))])


def with_enrolment(bundle: Path, cache: Cache, head: HeadSummary, folder: Path) -> Path:
    """Save a fusion of LDA with enrolment from two clips on, whether or not that pays."""
    old = load_bundle(bundle)
    members = [
        MemberSpec("lda", each["layer"], {}, each["weight"]) for each in head.final["members"]
    ]
    order = list(old.candidate.layers)
    spec = HeadSpec(tuple(sorted(members, key=lambda m: order.index(m.layer))), is_fusion=True)
    layers = {layer: cache.embeddings(layer) for layer in order}
    rows = np.arange(len(cache))
    problem = Problem(cache.clips["emotion"], cache.clips["speaker"], ())
    fitted = spec.head({layer: X.shape[1] for layer, X in layers.items()}, 0)
    statistics = fit_enrolled(fitted, spec.join(layers, rows), problem, rows)
    summary = EnrolmentSummary({}, asdict(old.candidate), 2.0, 2, (2,), (1.5,))
    fields = {**vars(old.summary)}
    for name in ("head_sha256", "probabilities", "files", "enrolment"):
        fields.pop(name)
    enrolment = BundleEnrolment(summary, fitted, statistics)
    save_bundle(folder, old.fitted, training=old.training, enrolment=enrolment, **fields)
    return folder


def test_a_run_on_two_caches_fuses_the_layers_of_both(
    serpipe: Command, extracted_once: Path, few_clips: Path, sample: Path,
    small_encoder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    wide_encoder = save_encoder(
        tmp_path / "wide", "wav2vec2-group", hidden_size=40, num_hidden_layers=2
    )
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    (path,) = Path("features/cache").glob("*.h5")
    wide = serpipe("extract", "--data", few_clips, "--encoder", wide_encoder, "--out", "other.h5")
    assert wide.code == 0, wide.err
    both = ("--cache", path, "--cache", "other.h5", "--split", "kfold:3", "--jobs", 1)
    done = serpipe("fit", *both, "--head", "lda,fuse", "--enrol", "0,2,4")
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    results = read_results(run)
    assert set(results.enrolment) == {"lda", "fuse"}
    assert len(results.summary.layers) == len(open_cache(path).layers) + 3
    bundle = run / "bundles" / "fuse"
    clip = sample / "Actor_01" / "03-01-05-01-01-02-01.flac"
    said = serpipe("predict", clip, "--model", bundle, "--format", "json",
                   "--encoder", f"{small_encoder},{wide_encoder}")  # fmt: skip
    assert said.code == 0, said.err
    (prediction,) = json.loads(said.out)["predictions"]
    joined, _ = join_caches([open_cache(path), open_cache(Path("other.h5"))])
    (row,) = np.flatnonzero(np.char.endswith(joined.clips["path"], clip.name))
    expected = load_bundle(bundle).predict(
        {layer: joined.embeddings(layer)[[row]] for layer in joined.layers}
    )
    assert list(prediction["scores"].values()) == expected[1][0].tolist()
    adaptable = with_enrolment(bundle, joined, results.summary.heads["fuse"], tmp_path / "adapted")
    speaker = sample / "Actor_01"
    said = serpipe("predict", clip, "--model", adaptable, "--format", "json", "--enrol", speaker,
                   "--encoder", f"{small_encoder},{wide_encoder}")  # fmt: skip
    assert said.code == 0, said.err
    (prediction,) = json.loads(said.out)["predictions"]
    loaded = load_bundle(adaptable)
    assert loaded.enrolment
    own = joined.clips["speaker"] == joined.clips["speaker"][row]
    assert np.count_nonzero(own) == len(list(speaker.glob("*.flac")))
    layers = {layer: joined.embeddings(layer) for layer in joined.layers}
    profile = loaded.enrolment.profile({layer: X[own] for layer, X in layers.items()})
    expected = loaded.predict({layer: X[[row]] for layer, X in layers.items()}, profile)
    np.testing.assert_allclose(list(prediction["scores"].values()), expected[1][0], atol=1e-6)
    assert serpipe("predict", clip, "--model", bundle, "--encoder", small_encoder).code == 2
    assert serpipe("predict", clip, "--model", bundle,
                   "--encoder", f"{wide_encoder},{small_encoder}").code == 2  # fmt: skip
    alone = serpipe("fit", "--cache", path, "--split", "kfold:3", "--head", "lda", "--jobs", 1)
    predicted = read_results(Path(alone.out.strip())).predicted["lda"]
    for name, of_layer in predicted.items():
        if name != "nested":
            joined_name = f"{small_encoder.name}:{name}"
            assert results.predicted["lda"][joined_name].tolist() == of_layer.tolist()
    assert json.loads((run / "run.json").read_text())["encoder"]["joined"]
    assert serpipe("fit", *both, "--layers", 2).code == 2
