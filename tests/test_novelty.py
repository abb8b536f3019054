"""Recordings unlike all training clips are flagged, and few clips of new speakers are."""

import json
from pathlib import Path

import numpy as np
import pytest
from serpipe.artifacts.models.bundle import NOVELTY_FILE, load_bundle, save_bundle
from serpipe.artifacts.models.find import DEFAULT_BUNDLE
from serpipe.errors import UserError
from serpipe.pipeline.fit import fit_final
from serpipe.pipeline.heads import HEADS, sklearn_file
from serpipe.pipeline.novelty import NoveltyDetector, fit_novelty_detector

from .conftest import Command, write_wav
from .messages import raises_about
from .server import SmallModel, recognize, running, wav
from .test_bundle import bundle_fields
from .test_fit import clips, loso

RATE = 16000


def speech_like(n_speakers: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings with a few strong directions, and a shift for each speaker."""
    draw = np.random.default_rng(seed)
    speakers = np.repeat([f"{n:03d}" for n in range(n_speakers)], 20)
    basis = np.random.default_rng(99).standard_normal((5, 80))
    X = draw.standard_normal((len(speakers), 5)) @ basis + 0.3 * draw.standard_normal((1, 80))
    X = X + 0.3 * draw.standard_normal((n_speakers, 80))[speakers.astype(int)]
    return (X + 0.2 * draw.standard_normal(X.shape)).astype(np.float32), speakers


def test_about_one_clip_of_new_speakers_in_a_hundred_is_flagged() -> None:
    X, speakers = speech_like(80)
    known = speakers < "030"
    detector = fit_novelty_detector(X[known], speakers[known])
    assert detector is not None
    assert (detector.distances(X[~known]) > 1).mean() < 0.05
    assert (detector.distances(X + 3) > 1).all()
    assert (detector.distances(X[:, ::-1]) > 1).all()


def test_the_threshold_is_from_speakers_who_are_left_out() -> None:
    X, speakers = speech_like(12)
    apart = fit_novelty_detector(X, speakers)
    shared = fit_novelty_detector(X, np.arange(len(X)).astype(str))
    assert apart is not None and shared is not None
    assert apart.threshold > shared.threshold


def test_there_is_no_detector_without_speakers_to_leave_out_or_without_variation() -> None:
    X, speakers = speech_like(4)
    assert fit_novelty_detector(X, np.full(len(X), "1")) is None
    assert fit_novelty_detector(X * 0, speakers) is None


def test_the_features_of_a_fusion_before_its_layer_do_not_matter() -> None:
    X, speakers = speech_like(6)
    alone, joined = (fit_novelty_detector(X, speakers, start) for start in (0, 7))
    assert alone is not None and joined is not None
    wide = np.concatenate([X[:, :7] * 100, X, X], axis=1)
    np.testing.assert_array_equal(joined.distances(wide), alone.distances(X))


def test_a_saved_detector_is_the_same_bytes_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    X, speakers = speech_like(6)
    for number in range(2):
        detector = fit_novelty_detector(X, speakers)
        assert detector is not None
        detector.save(tmp_path / str(number))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    loaded, made = NoveltyDetector.load(tmp_path / "0"), fit_novelty_detector(X, speakers)
    assert made is not None
    np.testing.assert_array_equal(loaded.distances(X), made.distances(X))
    content = {"mean": X[0], "directions": X[:2], "variances": X[0, :2] ** 2}
    numbers = {"other_variance": 1.0, "threshold": 1.0}
    damaged: list[object] = [
        [],
        content,
        content | numbers | {"threshold": np.nan},
        content | numbers | {"mean": X[0, 1:]},
    ]
    for wrong in damaged:
        sklearn_file.save(wrong, tmp_path / "wrong")
        with raises_about(UserError, tmp_path / "wrong"):
            NoveltyDetector.load(tmp_path / "wrong")


def test_a_bundle_carries_its_detector_and_refuses_one_that_is_not_its_own(tmp_path: Path) -> None:
    X, labels, speakers = clips(n_speakers=10)
    fitted, _ = fit_final(HEADS["lda"], {}, X, loso(labels, speakers))
    detector = fit_novelty_detector(X, speakers)
    save_bundle(tmp_path / "new", fitted, novelty=detector, **bundle_fields("lda"))
    save_bundle(tmp_path / "old", fitted, **bundle_fields("lda"))
    assert (load_bundle(tmp_path / "new").distances({"3": X + 100}) > 1).all()
    assert np.isnan(load_bundle(tmp_path / "old").distances({"3": X})).all()
    content = (tmp_path / "new" / NOVELTY_FILE).read_bytes()
    (tmp_path / "old" / NOVELTY_FILE).write_bytes(content)
    with raises_about(UserError, NOVELTY_FILE):
        load_bundle(tmp_path / "old")
    (tmp_path / "new" / NOVELTY_FILE).write_bytes(content[:-1])
    with raises_about(UserError, NOVELTY_FILE):
        load_bundle(tmp_path / "new")


def noise_and_music() -> dict[str, np.ndarray]:
    time, draw = np.arange(3 * RATE) / RATE, np.random.default_rng(0)
    chord = sum(np.sin(2 * np.pi * f * time) for f in (220.0, 277.2, 329.6, 440.0))
    return {
        "white": 0.1 * draw.standard_normal(len(time)),
        "tone": 0.3 * np.sin(2 * np.pi * 700 * time),
        "chord": 0.1 * chord * np.exp(-(time % 0.5) * 4),
    }


def test_predict_flags_noise_and_music_and_abstains_on_request(
    sample: Path, tmp_path: Path, serpipe: Command
) -> None:
    files = [sample / "Actor_07" / "03-01-05-01-01-02-07.flac"]
    if not files[0].exists():
        files = [sorted((sample / "Actor_07").glob("*.flac"))[0]]
    files += [
        write_wav(tmp_path / f"{name}.wav", samples.astype(np.float32))
        for name, samples in noise_and_music().items()
    ]
    for options, labelled in (((), 4), (("--abstain",), 1)):
        done = serpipe("predict", *files, "--format", "jsonl", "--device", "cpu", *options)
        assert done.code == 0, done.err
        speech, *others = [json.loads(line) for line in done.out.splitlines()]
        assert speech["unlike_training"] is False and speech["distance"] < 1
        assert all(each["unlike_training"] and each["distance"] > 1 for each in others)
        assert sum(bool(each["label"]) for each in (speech, *others)) == labelled
        assert all(len(each["scores"]) == 8 for each in others)
    table = serpipe("predict", *files, "--device", "cpu", "--abstain")
    assert table.out.count("UNLIKE TRAINING") == table.out.count("(no answer)") == 3


@pytest.mark.parametrize("abstain", [False, True])
def test_the_server_flags_and_abstains_too(abstain: bool) -> None:
    noise = wav(noise_and_music()["white"].astype(np.float32))
    with running(SmallModel(DEFAULT_BUNDLE), abstain=abstain) as client:
        answer = recognize(client, noise, "noise.wav").json()
        assert answer["unlike_training"] is True and answer["distance"] > 1
        assert (answer["label"] == "") == abstain
