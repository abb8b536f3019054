"""Enrolment: what clips of a new speaker are worth, and that their labels are not looked at."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from serpipe import api
from serpipe.artifacts.models.bundle import load_bundle, read_bundle_summary, save_bundle
from serpipe.artifacts.models.enrolment import BundleEnrolment, EnrolmentSummary, SpeakerProfile
from serpipe.artifacts.models.saved_model import load_model
from serpipe.artifacts.report.enrolment_table import curve
from serpipe.artifacts.report.figures import draw_figures
from serpipe.artifacts.report.protocol_table import report_protocols
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.run.recorder import Recorder
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.integrity import hash_file
from serpipe.pipeline.calibration import apply_temperature
from serpipe.pipeline.enrolment import (
    SpeakerStatistics,
    centre_speakers,
    check_clip_numbers,
    fit_enrolled,
)
from serpipe.pipeline.enrolment_curve import ANY_LABEL, EnrolmentFit, fit_enrolment, head_options
from serpipe.pipeline.fit import Problem, fit_head
from serpipe.pipeline.folds import make_split
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.heads.fused import log_probabilities
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.measures import LABELS
from serpipe.pipeline.options import Protocol
from serpipe.serving.refused import Refused
from serpipe.serving.speakers import Speakers

from .conftest import Command, write_hashed
from .messages import assert_refused, raises_about
from .server import SmallModel, check_refusal, running
from .test_honesty import write_voices

NAMES = np.array(["angry", "happy", "sad"])
SPEAKERS, CLIPS, WIDTH = 8, 18, 12


def voices(shift: float, mostly: float = 1 / 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings, labels and speakers: a speaker moves all of their clips by a vector.

    A share ``mostly`` of a speaker's clips is of one label.
    """
    draw = np.random.default_rng(1)
    speakers = np.repeat(np.arange(SPEAKERS), CLIPS)
    usual = int(mostly * CLIPS)
    others = np.resize([1, 2], CLIPS - usual)
    codes = np.concatenate(
        [np.concatenate([np.zeros(usual, int), others]) + who for who in range(SPEAKERS)]
    )
    emotions, offsets = draw.normal(size=(3, WIDTH)), draw.normal(size=(SPEAKERS, WIDTH))
    noise = draw.normal(size=(len(speakers), WIDTH))
    X = 1.5 * emotions[codes % 3] + shift * offsets[speakers] + noise
    return X.astype(np.float32), NAMES[codes % 3], np.char.add("p", speakers.astype(str))


def problem_of(labels: np.ndarray, speakers: np.ndarray) -> Problem:
    clips = {
        "speaker": speakers,
        "path": np.arange(len(labels)).astype(str),
        "sha256": np.arange(len(labels)).astype(str),
    }
    return Problem(labels, speakers, make_split("loso", clips, labels).folds)


def enrol(
    X: np.ndarray, problem: Problem, numbers: tuple[int, ...] = (1, 8), **options: Any
) -> EnrolmentFit:
    head, candidates = HEADS["lda"], [Candidate("0", ("0",))]
    fit = fit_head(head, head.grid, candidates, lambda _: X, problem, keep_scores=True)
    specs = head_options(head, fit, problem)
    predicted = fit.nested.predicted
    return fit_enrolment(
        "LDA", specs, predicted, candidates, lambda _: X, problem, numbers, **options
    )


def totals(fit: EnrolmentFit, number: int, drawn_from: str = ANY_LABEL) -> Mapping[str, np.ndarray]:
    chosen = [e for e in fit.counts if e.n_clips == number and e.drawn_from == drawn_from]
    return {
        "enrolled": np.sum([each.enrolled for each in chosen], axis=0),
        "plain": np.sum([each.plain for each in chosen], axis=0),
    }


def test_statistics_recover_the_variances_of_simulated_speakers() -> None:
    draw = np.random.default_rng(0)
    clips_of = draw.integers(2, 12, 400)
    speakers = np.repeat(np.arange(400), clips_of)
    offsets = draw.normal(size=(400, 2)) * np.sqrt([4, 0])
    X = 5 + offsets[speakers] + draw.normal(size=(len(speakers), 2)) * np.sqrt([9, 1])
    statistics = SpeakerStatistics.of(X.astype(np.float32), speakers.astype(str))
    assert statistics.within == pytest.approx([9, 1], rel=0.1)
    assert statistics.between == pytest.approx([4, 0], abs=0.7)
    # The posterior mean of one clip, and of many, of a new speaker who is 10 away.
    one = statistics.shift(np.full((1, 2), 15, np.float32), 1.0)
    many = statistics.shift(np.full((1000, 2), 15, np.float32), 1.0)
    assert one[0] == pytest.approx(10 * 4 / 13, rel=0.2)
    assert many[0] == pytest.approx(10, rel=0.05)
    assert abs(one[1]) < 0.6


def test_constant_features_are_not_shifted() -> None:
    X = np.zeros((6, 2), np.float32)
    statistics = SpeakerStatistics.of(X, np.repeat(["a", "b"], 3))
    assert statistics.shift(X[:2] + 1, 1.0).tolist() == [0, 0]


def test_centred_speakers_share_a_mean_and_keep_their_differences() -> None:
    X, _, speakers = voices(3.0)
    mean = np.arange(WIDTH, dtype=np.float64)
    centred = centre_speakers(X, speakers, mean)
    for speaker in np.unique(speakers):
        own = speakers == speaker
        assert centred[own].mean(axis=0) == pytest.approx(mean, abs=1e-4)
        assert np.diff(centred[own], axis=0) == pytest.approx(np.diff(X[own], axis=0), abs=1e-4)


def test_enrolment_gains_where_speakers_differ_and_without_clips_nothing_changes() -> None:
    X, labels, speakers = voices(3.0)
    problem = problem_of(labels, speakers)
    fit = enrol(X, problem)
    with_8 = totals(fit, 8)
    assert LABELS.first(with_8["enrolled"]) > LABELS.first(with_8["plain"]) + 0.1
    # At 0 every clip is scored once, by the head of the run.
    plain = fit_head(HEADS["lda"], {}, [Candidate("0", ("0",))], lambda _: X, problem)
    expected = LABELS.count(labels, plain.nested.predicted, problem.names)
    assert (totals(fit, 0)["enrolled"] == expected).all()
    # Enrolled clips are not scored: of 20 draws from each of the speakers.
    assert with_8["enrolled"].sum() == 20 * SPEAKERS * (CLIPS - 8) == with_8["plain"].sum()
    assert all(choice.fewest in (1, 8) for choice in fit.choices)


def test_the_head_without_enrolment_is_used_where_training_speakers_do_not_gain() -> None:
    X, labels, speakers = voices(0.0, mostly=0.9)  # their means tell labels, not voices
    fit = enrol(X, problem_of(labels, speakers))
    assert not any(choice.is_used(1) for choice in fit.choices)
    one = totals(fit, 1)
    assert (one["enrolled"] == one["plain"]).all()


def test_labels_of_the_test_speaker_are_not_looked_at() -> None:
    X, labels, speakers = voices(3.0)
    shuffled = labels.copy()
    own = speakers == "p0"
    shuffled[own] = np.roll(labels[own], 1)
    runs = [enrol(X, problem_of(each, speakers)) for each in (labels, shuffled)]
    assert runs[0].choices[0].fold == "p0"
    assert runs[0].choices[0] == runs[1].choices[0]
    predicted = [
        {
            each.n_clips: each.enrolled.sum(axis=0).tolist()
            for each in run.counts
            if each.speaker == "p0" and each.drawn_from == ANY_LABEL
        }
        for run in runs
    ]
    assert predicted[0] == predicted[1]


def test_draws_from_one_label_enrol_only_its_clips() -> None:
    X, labels, speakers = voices(3.0)
    fit = enrol(X, problem_of(labels, speakers), numbers=(4, 8))
    angry = totals(fit, 4, "angry")["plain"].sum(axis=1)
    # 5 draws of 4 of the 6 angry clips of each speaker leave 2, and all of the other labels.
    assert angry.tolist() == [5 * 2 * SPEAKERS, 5 * 6 * SPEAKERS, 5 * 6 * SPEAKERS]
    # Nobody has more than 8 angry clips.
    assert not [e for e in fit.counts if e.n_clips == 8 and e.drawn_from != ANY_LABEL]


def test_the_result_depends_on_the_seed_and_not_on_the_number_of_processes() -> None:
    X, labels, speakers = voices(1.0)
    problem = problem_of(labels, speakers)
    first, again = (totals(enrol(X, problem, jobs=jobs), 1)["enrolled"] for jobs in (1, 2))
    assert (first == again).all()
    other = totals(enrol(X, replace(problem, seed=1)), 1)["enrolled"]
    assert (first != other).any()


def test_numbers_of_clips_are_sorted_and_others_are_refused() -> None:
    assert check_clip_numbers("--enrol", (8, 0, 4, 8)) == (0, 4, 8)
    assert check_clip_numbers("--enrol", ()) == ()
    for wrong in (0, -1, 9999):
        with pytest.raises(UserError):
            check_clip_numbers("--enrol", (wrong,))


def write_speakers(path: Path, shift: float = 3.0, embeddings: np.ndarray | None = None) -> Path:
    X, labels, speakers = voices(shift)
    return write_voices(
        path, list(range(len(X))), width=WIDTH, speaker=speakers, emotion=labels,
        embeddings=X if embeddings is None else embeddings,
        room=np.tile(["a", "b", "c"], len(X))[: len(X)],
    )  # fmt: skip


def layers_of_two_encoders() -> dict[str, np.ndarray]:
    """Return two layers: of the second, only the spread of the features depends on the label."""
    X, labels, speakers = voices(3.0)
    draw = np.random.default_rng(2)
    spread = np.array([0.3, 1, 3])[np.searchsorted(NAMES, labels)]
    offsets = draw.normal(size=(SPEAKERS, WIDTH))[np.unique(speakers, return_inverse=True)[1]]
    other = offsets + spread[:, None] * draw.normal(size=X.shape)
    return {"none-1:0": X, "none-2:0": other.astype(np.float32)}


@pytest.fixture(scope="module")
def enrolled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on two caches with enrolment of two heads, the best of them and a fusion."""
    folder = tmp_path_factory.mktemp("enrolled")
    caches = [
        write_speakers(folder / f"{number}.h5", embeddings=X)
        for number, X in enumerate(layers_of_two_encoders().values())
    ]
    return api.fit(
        caches,
        head="lda,svm,best,fuse",
        grid=["C=1"],
        protocol=Protocol(split="kfold:4", enrol=(0, 1, 8, 17, 18)),
        out=folder / "run",
        jobs=1,
    ).run


def test_a_run_records_the_curve_of_each_head(enrolled_run: Path) -> None:
    results = read_results(enrolled_run)
    assert set(results.enrolment) == {"lda", "svm", "best", "fuse"}
    assert results.summary.warnings == []  # honest for deployment: not marked
    for head in results.enrolment:
        points = {point.n_clips: point for point in curve(results, head)}
        assert list(points) == [0, 1, 8, 17]  # nobody has more than 18 clips
        assert points[0].enrolled == results.scores(head)
        assert points[0].compared is None
        assert points[8].enrolled["uar"].low < points[8].enrolled["uar"].value
        gain = points[8].enrolled["uar"].value - points[8].plain["uar"].value
        assert points[8].compared and points[8].compared.difference.value == pytest.approx(gain)
        assert gain > 0.1
        assert points[8].by_label == {}
        assert set(points[1].by_label) == set(NAMES.tolist())
    report = report_run(results)
    tables = {table.name: table for table in report.tables}
    record = tables["enrolment-lda"].json_records[2]
    assert (record["enrolled_clips"], record["scored_speakers"]) == (8, SPEAKERS)
    assert "enrolment" in draw_figures(results, report)


def test_enrolment_of_the_best_head_is_that_of_the_head_chosen_in_each_fold(
    enrolled_run: Path,
) -> None:
    results = read_results(enrolled_run)
    head_of_fold = {c["fold"]: c["head"] for c in results.summary.heads["best"].choices}
    clips = zip(results.clips["speaker"].tolist(), results.clips["fold"].tolist(), strict=True)
    fold_of_speaker = dict(clips)
    assert len(results.enrolment["best"]) == len(results.enrolment["lda"])
    for number, each in enumerate(results.enrolment["best"]):
        expected = results.enrolment[head_of_fold[fold_of_speaker[each.speaker]]][number]
        assert (each.n_clips, each.drawn_from, each.speaker) == (
            expected.n_clips, expected.drawn_from, expected.speaker,
        )  # fmt: skip
        assert (each.enrolled == expected.enrolled).all()
        assert (each.plain == expected.plain).all()


def test_the_table_of_protocols_has_a_row_for_enrolment(enrolled_run: Path) -> None:
    results = read_results(enrolled_run)
    tables = {table.name: table for table in report_protocols([results]).tables}
    (record,) = (r for r in tables["matrix-lda"].json_records if "8 unlabelled" in r["protocol"])
    points = {point.n_clips: point for point in curve(results, "lda")}
    compared = points[8].compared
    assert compared
    assert record["uar"] == points[8].enrolled["uar"].value
    assert record["difference"] == compared.difference.value


def test_a_changed_file_of_enrolment_is_refused(enrolled_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(enrolled_run, tmp_path / "run")
    file = run / "enrolment" / "lda.csv"
    file.write_text(file.read_text().replace("yes", "no", 1))
    with raises_about(UserError, file):
        read_results(run)


def test_options_that_are_not_used_are_not_recorded(tmp_path: Path) -> None:
    assert "enrol" not in Protocol().as_dict()
    assert Protocol(enrol=(4,)).as_dict()["enrol"] == (4,)
    run = api.fit(write_speakers(tmp_path / "c.h5"), head="lda", out=tmp_path / "run", jobs=1).run
    summary = json.loads((run / "run.json").read_text())
    assert "enrolment" not in summary["heads"]["lda"]


@pytest.mark.parametrize(
    "options",
    [
        ("--split", "random:3"),
        ("--hold-out", "room"),
        ("--normalise", "speaker"),
        ("--layers", "weighted"),
        ("--stream-past", "0"),
        ("--enrol", "18"),
        ("--enrol", "0"),
    ],
)
def test_what_enrolment_cannot_be_measured_for_is_refused_before_any_work(
    serpipe: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    cache = write_speakers(tmp_path / "c.h5")
    head = () if "--head" in options else ("--head", "lda")
    enrol = () if "--enrol" in options else ("--enrol", "4")
    refused = serpipe("fit", "--cache", cache, *head, *enrol, *options)
    assert_refused(refused, "--enrol")
    assert not (tmp_path / "artifacts").exists()


def test_the_bundle_of_a_run_is_adapted_as_the_tested_heads_were(enrolled_run: Path) -> None:
    layers, (_, labels, speakers) = layers_of_two_encoders(), voices(3.0)
    bundle = load_bundle(enrolled_run / "bundles" / "lda")
    assert bundle.enrolment
    final = read_results(enrolled_run).summary.heads["lda"].enrolment["final"]  # type: ignore[index]
    assert bundle.enrolment.summary.fewest == final["fewest"] > 0
    X, head = layers[final["layer"]], HEADS["lda"]({})
    statistics = fit_enrolled(head, X, Problem(labels, speakers, ()), np.arange(len(X)))
    profile = bundle.enrolment.profile({final["layer"]: X[:9]})
    assert profile.is_adapted
    assert (profile.shift == statistics.shift(X[:9], final["strength"])).all()
    adapted = bundle.predict({final["layer"]: X[9:18]}, profile)
    own, temperature = head.predict_proba(X[9:18] - profile.shift), final["temperatures"][1]
    assert temperature != bundle.summary.temperature
    assert adapted[1] == pytest.approx(apply_temperature(own, temperature, "probability"))


def test_a_fusion_is_adapted_by_the_shift_of_each_layer_and_keeps_its_weights(
    enrolled_run: Path,
) -> None:
    layers, (_, labels, speakers) = layers_of_two_encoders(), voices(3.0)
    bundle = load_bundle(enrolled_run / "bundles" / "fuse")
    assert bundle.enrolment
    summary = read_results(enrolled_run).summary.heads["fuse"]
    final, members = summary.enrolment["final"], summary.final["members"]  # type: ignore[index]
    assert {each["layer"] for each in members} == set(layers)
    assert {each["head"] for each in members} == {"lda", "svm"}
    fused = np.zeros((9, len(NAMES)))
    for member in members:
        X = layers[member["layer"]]
        mean = X.mean(axis=0, dtype=np.float64)
        head = HEADS[member["head"]]({"C": 1.0} if member["head"] == "svm" else {})
        head.fit(centre_speakers(X, speakers, mean), labels, speakers)
        shift = SpeakerStatistics.of(X, speakers).shift(X[:9], final["strength"])
        scores = head.decision_scores(X[9:18] - shift)
        fused += member["weight"] * log_probabilities(HEADS[member["head"]], scores)
    profile = bundle.enrolment.profile({layer: X[:9] for layer, X in layers.items()})
    assert profile.is_adapted
    clips = {layer: X[9:18] for layer, X in layers.items()}
    predicted, probabilities = bundle.predict(clips, profile)
    expected = apply_temperature(softmax(fused, axis=1), final["temperatures"][1], "probability")
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert predicted.tolist() == NAMES[expected.argmax(axis=1)].tolist()


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("name", ["svm", "svm-linear"])
def test_an_svm_for_many_clips_predicts_what_the_svm_predicts(name: str, n_labels: int) -> None:
    X, labels, speakers = voices(1.0)
    used = np.isin(labels, NAMES[:n_labels])
    X, labels, speakers = X[used], labels[used], speakers[used]
    usual = HEADS[name]({"C": 1.0}).fit(X[::2], labels[::2], speakers[::2])
    quick = HEADS[name].for_many_clips({"C": 1.0}).fit(X[::2], labels[::2], speakers[::2])
    predicted, scores = quick.predict_and_score(X)
    assert predicted.tolist() == usual.predict(X).tolist()
    np.testing.assert_allclose(scores, usual.decision_scores(X), atol=1e-3)


def test_copies_of_enrolled_clips_are_not_scored() -> None:
    X, labels, speakers = voices(3.0)
    recordings = np.char.add(speakers, (np.arange(len(X)) % (CLIPS // 2)).astype(str))
    problem = replace(problem_of(labels, speakers), recordings=recordings)
    fit = enrol(X, problem, numbers=(1, CLIPS - 1))
    one = totals(fit, 1)
    assert one["enrolled"].sum() == one["plain"].sum() == 20 * SPEAKERS * (CLIPS - 2)
    # Of 17 enrolled clips, one is a copy of the last.
    assert {each.n_clips for each in fit.counts} == {0, 1}


def test_a_resumed_run_measures_the_same_enrolment_of_combined_heads(
    enrolled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = [
        write_speakers(tmp_path / f"{number}.h5", embeddings=X)
        for number, X in enumerate(layers_of_two_encoders().values())
    ]

    def fit() -> Path:
        return api.fit(
            caches, head="lda,svm,best,fuse", grid=["C=1"],
            protocol=Protocol(split="kfold:4", enrol=(0, 1, 8, 17, 18)),
            out=tmp_path / "run", jobs=1,
        ).run  # fmt: skip

    save_head = Recorder.save_head

    def stop_before_best(recorder: Recorder, name: str, *arguments: Any, **options: Any) -> None:
        if name == "best":
            raise KeyboardInterrupt
        save_head(recorder, name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "save_head", stop_before_best)
        with pytest.raises(KeyboardInterrupt):
            fit()
    run = fit()
    for name in ("best", "fuse"):
        resumed = run / "enrolment" / f"{name}.csv"
        assert resumed.read_bytes() == (enrolled_run / "enrolment" / resumed.name).read_bytes()


@pytest.fixture
def adaptable(fitted_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a bundle that is adapted from two clips on, and the working directory of its run."""
    work = shutil.copytree(fitted_once, tmp_path / "fitted", symlinks=True)
    (source,) = work.glob("artifacts/runs/*/bundles/lr")
    (file,) = work.glob("features/cache/*.h5")
    cache, old = open_cache(file), load_bundle(source)
    layer, params = str(cache.layers[1]), old.summary.parameters
    X, speakers = cache.embeddings(layer), cache.clips["speaker"]
    fitted, problem = HEADS["lr"](params), Problem(cache.clips["emotion"], speakers, ())
    statistics = fit_enrolled(fitted, X, problem, np.arange(len(X)))
    layers = {"name": layer, "layers": [layer], "how": "single"}
    enrolment = BundleEnrolment(EnrolmentSummary(params, layers, 2.0, 2), fitted, statistics)
    fields = {**vars(old.summary)}
    for name in ("head_sha256", "probabilities", "files", "enrolment"):
        fields.pop(name)
    bundle = tmp_path / "bundle"
    save_bundle(bundle, old.fitted, training=old.training, enrolment=enrolment, **fields)
    return bundle, work


def test_a_model_is_adapted_to_the_clips_of_a_folder(
    adaptable: tuple[Path, Path], small_encoder: Path, sample: Path
) -> None:
    folder, work = adaptable
    (file,) = work.glob("features/cache/*.h5")
    cache, bundle = open_cache(file), load_bundle(folder)
    model = load_model(folder, encoder=small_encoder)
    names = {path.name: path for path in sample.rglob("*.flac")}
    enrolled = np.flatnonzero(cache.clips["speaker"] == cache.clips["speaker"][0])[:3]
    paths = [names[Path(str(cache.clips["path"][row])).name] for row in enrolled]
    profile = model.enrol(paths)
    layers = {layer: cache.embeddings(layer) for layer in cache.layers}
    expected = bundle.enrolment.profile(  # type: ignore[union-attr]
        {layer: X[enrolled] for layer, X in layers.items()}
    )
    assert (profile.shift == expected.shift).all()  # as the embeddings of the cache, to the bit
    assert (profile.n_clips, profile.is_adapted) == (3, True)
    scores = list(model.adapted(profile).predict(paths[0]).scores.values())
    one = {layer: X[enrolled[:1]] for layer, X in layers.items()}
    assert scores == bundle.predict(one, profile)[1][0].tolist()
    assert scores != list(model.predict(paths[0]).scores.values())
    # One clip is too few: the head without enrolment predicts.
    few = model.enrol([model.read(paths[0])])
    assert not few.is_adapted
    assert model.adapted(few).predict(paths[0]).scores == model.predict(paths[0]).scores


def test_predict_enrols_a_folder_and_refuses_bundles_without_enrolment(
    adaptable: tuple[Path, Path], small_encoder: Path, sample: Path, serpipe: Command
) -> None:
    folder, work = adaptable
    speakers = sorted(path for path in sample.iterdir() if path.is_dir())
    clip = min(speakers[0].glob("*.flac"))
    options = ("--encoder", small_encoder, "--format", "jsonl")
    plain = serpipe("predict", clip, "--model", folder, *options)
    adapted = serpipe("predict", clip, "--model", folder, "--enrol", speakers[0], *options)
    assert plain.code == adapted.code == 0
    assert json.loads(plain.out)["scores"] != json.loads(adapted.out)["scores"]
    (without,) = work.glob("artifacts/runs/*/bundles/lr")
    refused = serpipe("predict", clip, "--model", without, "--enrol", speakers[0], *options)
    assert_refused(refused, without, "serpipe fit --enrol")
    assert not refused.out
    missing = serpipe("predict", clip, "--model", folder, "--enrol", "nowhere", *options)
    assert missing.code == 2


def test_a_bundle_without_enrolment_does_not_mention_it(fitted_once: Path) -> None:
    (bundle,) = fitted_once.glob("artifacts/runs/*/bundles/lr")
    assert "enrolment" not in json.loads((bundle / "bundle.json").read_text())


def test_a_damaged_file_of_enrolment_is_refused(adaptable: tuple[Path, Path]) -> None:
    folder, _ = adaptable
    file, about = folder / "enrolment.npy", json.loads((folder / "bundle.json").read_text())
    good = np.load(file)
    for bad in (
        good[:2],
        good.astype(np.float32),
        -good,
        np.full_like(good, np.nan),
        good[:, :3],
        np.array([{}], dtype=object),
    ):
        np.save(file, bad, allow_pickle=True)
        with pytest.raises(UserError):
            load_bundle(folder)  # its hash is another
        about["files"][file.name] = hash_file(file)
        write_hashed(folder / "bundle.json", about)
        with pytest.raises(UserError):
            load_bundle(folder)
    np.save(file, good)
    about["files"][file.name] = hash_file(file)
    write_hashed(folder / "bundle.json", about)
    assert load_bundle(folder).enrolment
    (folder / "enrolled_head.skops").unlink()
    with pytest.raises(UserError):
        load_bundle(folder)
    about["enrolment"]["layer"]["layers"] = ["99"]
    write_hashed(folder / "bundle.json", about)
    with pytest.raises(UserError):
        read_bundle_summary(folder)


def test_the_server_adapts_to_speakers_until_they_are_deleted(
    adaptable: tuple[Path, Path], small_encoder: Path, sample: Path
) -> None:
    small = SmallModel(adaptable[0], small_encoder)
    model = small.real
    clips = sorted((sample / "Actor_01").glob("*.flac"))[:4]
    files = [("audio", (clip.name, clip.read_bytes())) for clip in clips]
    with running(small) as client:
        made = client.post("/speakers", files=files[1:])
        assert made.status_code == 200
        assert (made.json()["clips"], made.json()["adapted"], made.json()["fewest"]) == (3, True, 2)
        speaker = made.json()["speaker"]
        other = client.post("/speakers", files=files[1:]).json()["speaker"]
        assert len(speaker) >= 32 and speaker != other
        expected = model.adapted(model.enrol(clips[1:])).predict(clips[0]).scores
        answer = client.post("/recognize", params={"speaker": speaker}, files=files[:1]).json()
        assert answer["scores"] == expected
        assert client.post("/recognize", files=files[:1]).json()["scores"] != expected
        assert client.delete(f"/speakers/{speaker}").json() == {"deleted": True}
        check_refusal(client.delete(f"/speakers/{speaker}"), 404)
        gone = client.post("/recognize", params={"speaker": speaker}, files=files[:1])
        check_refusal(gone, 404)
        assert speaker not in client.get("/metrics").text  # nor anywhere else
        one = client.post("/speakers", files=files[:1]).json()
        assert one["adapted"] is False  # too few
        plain = client.post("/recognize", params={"speaker": one["speaker"]}, files=files[:1])
        assert plain.json()["scores"] == model.predict(clips[0]).scores


def test_the_server_refuses_clips_past_its_limits_and_strangers(
    adaptable: tuple[Path, Path], small_encoder: Path, sample: Path
) -> None:
    folder, work = adaptable
    model = SmallModel(folder, small_encoder)
    clip = min((sample / "Actor_01").glob("*.flac")).read_bytes()
    limits: dict[str, Any] = {"max_seconds": 8.0, "max_megabytes": 1, "enrolled_clips": 5}
    with running(model, None, token="t" * 16, **limits) as client:
        two = [("audio", ("a.flac", clip))] * 2
        for path in ("/speakers", "/recognize"):
            check_refusal(client.post(path, files=two[:1]), 401)
        check_refusal(client.delete("/speakers/x"), 401)
        client.headers["Authorization"] = f"Bearer {'t' * 16}"
        assert client.post("/speakers", files=two).status_code == 200
        long = [*two, ("audio", ("b.flac", clip))]
        check_refusal(client.post("/speakers", files=long), 422)  # each is below 8 s
        large = [*two, ("audio", ("d.wav", bytes(1 << 20)))]
        check_refusal(client.post("/speakers", files=large), 413)
        damaged = [("audio", ("c.wav", b"RIFF"))]
        check_refusal(client.post("/speakers", files=damaged * 6), 400)
        check_refusal(client.post("/speakers", files=damaged), 422)
        check_refusal(client.post("/speakers", files={"sound": clip}), 422)
        check_refusal(client.post("/speakers", content=clip), 415)
        check_refusal(client.delete("/speakers/x"), 404)
    (without,) = work.glob("artifacts/runs/*/bundles/lr")
    with running(SmallModel(without, small_encoder)) as client:
        check_refusal(client.post("/speakers", files=two), 422)
        check_refusal(client.post("/recognize", params={"speaker": "x"}, files=two[:1]), 404)


def test_profiles_are_bounded_in_number_and_time() -> None:
    clock = [0.0]
    speakers = Speakers(most=2, seconds=10, now=lambda: clock[0])
    profiles = [SpeakerProfile(n, True, np.zeros(1, np.float32)) for n in range(3)]
    first, second = speakers.add(profiles[0]), speakers.add(profiles[1])
    assert speakers.use(first) is profiles[0]
    third = speakers.add(profiles[2])  # replaces the one that was not used for longest
    with pytest.raises(Refused):
        speakers.use(second)
    clock[0] = 9
    assert speakers.use(first) is profiles[0]
    clock[0] = 12
    with pytest.raises(Refused):
        speakers.use(third)
    assert speakers.use(first) is profiles[0]
    speakers.remove(first)
    assert len(speakers) == 0


def test_the_table_of_protocols_shows_a_number_of_clips_that_was_scored(
    serpipe: Command, tmp_path: Path
) -> None:
    X, labels, speakers = voices(3.0)
    few = np.concatenate([np.flatnonzero(speakers == each)[::3] for each in np.unique(speakers)])
    cache = write_voices(
        tmp_path / "c.h5", list(range(len(few))), width=WIDTH, speaker=speakers[few],
        emotion=labels[few], embeddings=X[few],
    )  # fmt: skip
    done = serpipe("fit", "--cache", cache, "--head", "lda", "--enrol", "4,8", "--jobs", 1)
    assert done.code == 0, done.err
    assert np.unique(speakers[few], return_counts=True)[1].max() < 8
    shown = serpipe("report", "--matrix", "--format", "json")
    assert shown.code == 0, shown.err
    (records,) = json.loads(shown.out)["tables"].values()
    assert [each["protocol"] for each in records if "4 unlabelled" in each["protocol"]]
