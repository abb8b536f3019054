"""Labels of several raters: majorities, training on all of them, agreement and scores."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
from serpipe.artifacts.leaderboard import entry_of
from serpipe.artifacts.report.probabilities import read_probabilities, read_tied_probabilities
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.run.results import read_results
from serpipe.artifacts.run.ties_file import read_ties
from serpipe.corpora.manifest import read_manifest
from serpipe.corpora.rater_rows import decode_counts, encode_counts
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.heads.lda import LDA
from serpipe.pipeline.options import Protocol, TargetOptions
from serpipe.pipeline.plan import Plan, cross_corpus_protocols, make_plan, plan_evaluation
from serpipe.pipeline.rater_scores import score_shares
from serpipe.pipeline.ratings import read_ratings_or_votes
from serpipe.pipeline.target import columns_to_predict
from serpipe.pipeline.votes import SHARE, Votes, alpha_of, shares_of
from sklearn.metrics import f1_score, recall_score

from .conftest import Command, copy_clips
from .messages import raises_about

FIT = ("fit", "--ratings", "votes.csv", "--layers", "1", "--split", "kfold:5")


def write_votes(rows: list[tuple[str, str, str]]) -> Path:
    with Path("votes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "rater", "perceived"])
        writer.writerows(rows)
    return Path("votes.csv")


@pytest.fixture
def cache(serpipe: Command, extracted_once: Path) -> Path:
    """A cache of forty clips, and votes: two raters hear anger or calm, a third something else."""
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    (path,) = Path("features/cache").glob("*.h5")
    clips = open_cache(path).clips
    rows = []
    for number, (name, emotion) in enumerate(zip(clips["name"], clips["emotion"], strict=True)):
        loud = "angry" if emotion in ("angry", "fearful", "happy", "surprised") else "calm"
        other = "calm" if loud == "angry" else "angry"
        rows += [(name, "A", loud), (name, "B", loud if number % 8 else other)]
        rows += [(name, "C", other)] if number % 3 == 1 and number % 8 else []
    write_votes(rows)
    return path


def plan_of(cache: Path, **options: object) -> tuple[Plan, Votes]:
    votes = read_ratings_or_votes(Path("votes.csv"), "")
    assert isinstance(votes, Votes)
    protocol = Protocol(split="kfold:5", **options)  # type: ignore[arg-type]
    return make_plan(open_cache(cache), protocol, votes), votes


def test_clips_without_a_majority_are_left_out_or_trained_on_and_never_lost(cache: Path) -> None:
    majority, votes = plan_of(cache)
    assert len(majority.problem.labels) == 35
    assert any("5 clips without a majority" in each for each in majority.target.changes)
    every, _ = plan_of(cache, labels="all")
    assert len(every.problem.labels) == sum(map(len, votes.counts.values()))
    assert any("5 clips without a majority" in each for each in every.target.changes)
    tested = every.problem.tested
    assert set(every.clips["name"].tolist()) == set(votes.counts)
    assert sorted(every.clips["name"][tested].tolist()) == sorted(majority.clips["name"].tolist())
    truth = dict(zip(majority.clips["name"], majority.problem.labels, strict=True))
    again = zip(every.clips["name"][tested], every.problem.labels[tested], strict=True)
    assert dict(again) == truth


@pytest.mark.parametrize("labels", ["soft", "all"])
def test_clips_have_a_row_for_each_label_in_the_folds_of_their_speaker(
    cache: Path, labels: str
) -> None:
    plan, votes = plan_of(cache, labels=labels)
    weights = plan.problem.weights
    assert weights is not None
    assert weights.sum() == pytest.approx(len(votes.counts))
    n_votes = sum(sum(each.values()) for each in votes.counts.values())
    for fold in plan.problem.folds:
        names, speakers = plan.clips["name"], plan.clips["speaker"]
        assert not set(speakers[fold.train]) & set(speakers[fold.test])
        trained: dict[str, dict[str, float]] = {}
        for row in fold.train.tolist():
            of_clip = trained.setdefault(names[row], {})
            assert plan.problem.labels[row] not in of_clip
            of_clip[plan.problem.labels[row]] = weights[row]
        for name, of_clip in trained.items():
            given = votes.counts[name]
            total = sum(given.values()) if labels == "soft" else n_votes / len(votes.counts)
            assert of_clip == pytest.approx({label: n / total for label, n in given.items()})
    once = [np.concatenate([fold.train, fold.test]) for fold in plan.problem.folds_of_clips]
    assert all(len(np.unique(plan.clips["name"][rows])) == len(rows) for rows in once)


def test_votes_are_merged_before_the_majority_is_taken(cache: Path) -> None:
    names = open_cache(cache).clips["name"].tolist()
    votes = []
    for number, name in enumerate(names):
        mixed = ["happy", "joyful", "sad", "sad", "joyful"]
        mixed = mixed if number % 2 else ["sad"] if number % 4 else ["joyful"]
        votes += [(name, f"r{k}", label) for k, label in enumerate(mixed)]
    write_votes(votes)
    apart, _ = plan_of(cache)
    assert (set(apart.problem.names), len(apart.problem.labels)) == ({"joyful", "sad"}, 20)
    merged, _ = plan_of(cache, merge={"joyful": "happy"})
    assert (set(merged.problem.names), len(merged.problem.labels)) == ({"happy", "sad"}, 40)
    kept, _ = plan_of(cache, keep=["sad", "joyful"], labels="all")
    assert set(kept.problem.names) == {"joyful", "sad"}
    with raises_about(UserError, "--map", "bored", "happy, joyful, sad"):
        plan_of(cache, merge={"bored": "sad"})


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_votes_without_a_majority_for_any_clip_are_refused(cache: Path, labels: str) -> None:
    with raises_about(UserError, "votes.csv", "--keep bored"):
        plan_of(cache, labels=labels, keep=["bored"])
    names = open_cache(cache).clips["name"].tolist()
    write_votes([(name, *vote) for name in names for vote in (("A", "angry"), ("B", "calm"))])
    with raises_about(UserError, "votes.csv"):
        plan_of(cache, labels=labels)


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_pairs_of_corpora_predict_the_majorities_that_both_have(cache: Path, labels: str) -> None:
    opened = open_cache(cache)
    corpus = np.where(np.arange(40) % 2 == 0, "one", "two")
    two = replace(opened, clips={**opened.clips, "corpus": corpus})
    given = {"one": ["angry", "calm"], "two": ["angry", "calm", "sad"]}
    rows = enumerate(zip(opened.clips["name"].tolist(), corpus.tolist(), strict=True))
    labelled = [(name, given[c][number // 2 % len(given[c])]) for number, (name, c) in rows]
    write_votes([(name, rater, label) for name, label in labelled for rater in "AB"])
    votes = read_ratings_or_votes(Path("votes.csv"), "")
    protocol = Protocol(split="kfold:2", labels=labels, speakers_per_corpus=True)
    protocols = cross_corpus_protocols(two, protocol, votes)
    plans = [make_plan(two, each, votes) for each in protocols]
    assert [plan.problem.names for plan in plans] == [["angry", "calm"]] * 4


def test_a_column_of_too_many_different_labels_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_votes([(f"clip{number}", "A", f"text {number}") for number in range(20)])
    monkeypatch.setattr("serpipe.pipeline.ratings.MAX_CELLS", 399)
    with raises_about(UserError, "votes.csv", "perceived", 20, 399):
        read_ratings_or_votes(Path("votes.csv"), "")


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    """Krippendorff (2011), *Computing Krippendorff's alpha-reliability*, section C: 0.743."""
    rated = "111 2232 3333 3333 2222 1234 4444 1121 2222 555 11 3"
    counts = [{label: unit.count(label) for label in set(unit)} for unit in rated.split()]
    agreement = alpha_of(counts)
    assert agreement
    assert agreement.alpha == pytest.approx(0.743, abs=0.001)
    assert agreement.clips == 11
    assert alpha_of([{"a": 1}, {"b": 1}]) is None


def test_scores_against_shares_are_those_of_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p, shares = rng.dirichlet(np.ones(4), 50), rng.dirichlet(0.5 * np.ones(4), 50)
    speakers = np.repeat(np.arange(10), 5).astype(str)
    scores = score_shares(p, shares, speakers)
    js = scipy.spatial.distance.jensenshannon(p, shares, base=2, axis=1) ** 2
    assert scores.divergence.value == pytest.approx(js.mean())
    assert scores.divergence.low < js.mean() < scores.divergence.high
    assert scores.cross_entropy.value == pytest.approx(-(shares * np.log(p)).sum(axis=1).mean())
    assert scores.f1.value == pytest.approx(f1_score(shares > 0.25, p > 0.25, average="macro"))
    perfect = score_shares(shares, shares, speakers)
    assert perfect.divergence.value == pytest.approx(0)
    assert perfect.cross_entropy.value == pytest.approx(perfect.entropy)
    assert perfect.f1.value == 1


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_a_run_on_votes_is_reported_against_the_majority_and_the_raters(
    serpipe: Command, cache: Path, labels: str
) -> None:
    heads = "lda,lr,svm,lgbm"
    grid = ("--grid", "lr.C=0.01", "--grid", "svm.C=1", "--grid", "n_estimators=10")
    done = serpipe(*FIT, "--head", heads, "--labels", labels, *grid)
    assert done.code == 0, done.err
    results = read_results(Path(done.out.strip()))
    assert len(results.truth) == 35
    shares = np.stack([results.clips[f"{SHARE}{n}"].astype(float) for n in range(2)], axis=1)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (np.array(results.summary.labels)[shares.argmax(axis=1)] == results.truth).all()
    (table,) = (each for each in report_run(results).tables if each.name == "raters")
    assert [each["head"] for each in table.records] == heads.split(",")
    assert all(0 <= each["jensen_shannon"] <= 1 for each in table.records)
    summary = json.loads((results.run / "run.json").read_text())
    assert summary["agreement"]["alpha"] < 1
    assert any(name == "raters" for name, _ in report_run(results).facts)
    assert bool(results.summary.trained_on) == (labels == "soft")
    with raises_about(UserError, results.run.name, "--ratings"):
        entry_of(results)


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_clips_without_a_majority_can_count_in_the_scores_against_all_raters(
    serpipe: Command, cache: Path, labels: str
) -> None:
    plan, _ = plan_of(cache, labels=labels, ties="score")
    done = serpipe(*FIT, "--head", "lda,lr,fuse", "--labels", labels, "--ties", "score",
                   "--grid", "lr.C=0.01")  # fmt: skip
    assert done.code == 0, done.err
    results = read_results(Path(done.out.strip()))
    assert len(results.truth) == 35
    assert results.scores("lda")["uar"].value == pytest.approx(
        recall_score(results.truth, results.predicted["lda"]["nested"], average="macro")
    )
    (table,) = (each for each in report_run(results).tables if each.name == "raters")
    assert [(each["clips"], each["clips_without_majority"]) for each in table.records] == [
        (40, 5)
    ] * 3
    ties = read_ties(results.run, "lda", results.summary)
    assert ties is not None
    np.testing.assert_array_equal(ties.shares, np.full((5, 2), 0.5))
    X = open_cache(cache).embeddings("1", plan.pooling)[plan.target.rows]
    weights = plan.problem.weights
    is_tied = plan.problem.ties
    assert is_tied is not None
    scores = []
    for fold in plan.problem.folds:
        train, test = fold.train, fold.test[is_tied[fold.test]]
        if labels == "majority":
            assert not is_tied[train].any()
        if not len(test):
            continue
        own = None if weights is None else weights[train]
        given = X[train], plan.problem.labels[train], plan.problem.speakers[train]
        fitted = LDA({}).fit(*given, own)
        scores += list(zip(test.tolist(), fitted.predict_proba(X[test]).tolist(), strict=True))
    expected = [row for _, row in sorted(scores)]
    np.testing.assert_allclose(ties.scores, expected, atol=1e-5)
    tied = read_tied_probabilities(results, "lda")
    assert tied is not None
    others = read_probabilities(results)["lda"].after
    shares = shares_of(results.clips, 2)
    assert shares is not None
    p, q = np.concatenate([others, tied[1]]), np.concatenate([shares, ties.shares])
    cross_entropy = -(q * np.log(p)).sum(axis=1).mean()
    (of_lda,) = (each for each in table.records if each["head"] == "lda")
    assert of_lda["cross_entropy"] == pytest.approx(cross_entropy)


@pytest.fixture
def rater_manifest(sample: Path, cache: Path) -> Path:
    """A manifest of the forty clips with a row for each rater, who also rated the arousal."""
    folder = copy_clips(sample, Path("clips"))
    clips = open_cache(cache).clips
    path_of = dict(zip(clips["name"].tolist(), clips["path"].tolist(), strict=True))
    speaker_of = dict(zip(clips["name"].tolist(), clips["speaker"].tolist(), strict=True))
    rows = list(csv.DictReader(Path("votes.csv").read_text().splitlines()))
    with (folder / "raters.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "name", "speaker", "Rater", "emotion", "arousal"])
        for row in rows:
            name, arousal = row["name"], "1.5" if row["perceived"] == "calm" else "4"
            clip = (path_of[name], name, speaker_of[name])
            writer.writerow([*clip, row["rater"], row["perceived"], arousal])
    return folder / "raters.csv"


def test_a_manifest_with_a_row_for_each_rater_is_read_as_clips_with_several_labels(
    rater_manifest: Path,
) -> None:
    votes = read_ratings_or_votes(Path("votes.csv"), "")
    assert isinstance(votes, Votes)
    clips = read_manifest(rater_manifest).clips
    assert len(clips) == 40
    for clip in clips:
        given = votes.counts[clip.name]
        assert decode_counts(clip.emotion) == given
        mean = (1.5 * given.get("calm", 0) + 4 * given.get("angry", 0)) / sum(given.values())
        assert clip.more["arousal"] == pytest.approx(mean)
        assert set(clip.more) == {"arousal"}


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ({"Rater": ""}, ["line 3", "rater"]),
        ({"Rater": "A"}, ["line 3", "line 2", "A"]),
        ({"speaker": "nobody"}, ["line 3", "nobody"]),
        ({"name": "another"}, ["line 3", "another"]),
    ],
)
def test_rows_of_raters_that_cannot_be_merged_are_named_by_their_line(
    rater_manifest: Path, line: dict[str, str], values: list[str]
) -> None:
    rows = list(csv.DictReader(rater_manifest.read_text().splitlines()))
    rows[1] |= line
    with rater_manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    with raises_about(UserError, "raters.csv", *values):
        read_manifest(rater_manifest)


@pytest.mark.parametrize(
    "text", ["sad", '{"sad": 0}', '{"sad": true}', '{"sad": 1', '{"sad": {"a": 1}}', '{"a": 1e3}']
)
def test_only_counts_of_labels_are_read_as_labels_of_raters(text: str) -> None:
    assert decode_counts(text) is None
    assert decode_counts(encode_counts({"sad": 2, 'a "b"': 1})) == {"sad": 2, 'a "b"': 1}


def test_labels_in_a_manifest_give_the_results_of_a_file_of_ratings(
    serpipe: Command, small_encoder: Path, cache: Path, rater_manifest: Path
) -> None:
    done = serpipe("extract", "--manifest", rater_manifest, "--encoder", small_encoder)
    assert done.code == 0, done.err
    fit = ("fit", "--layers", "1", "--split", "kfold:5", "--head", "lda", "--labels", "soft")
    done = serpipe(*fit, "--cache", done.out.strip(), "--ties", "score")
    assert done.code == 0, done.err
    own = read_results(Path(done.out.strip()))
    done = serpipe(*fit, "--cache", cache, "--ratings", "votes.csv", "--ties", "score")
    given = read_results(Path(done.out.strip()))
    assert own.truth.tolist() == given.truth.tolist()
    assert own.predicted["lda"]["nested"].tolist() == given.predicted["lda"]["nested"].tolist()
    ours, theirs = (read_ties(each.run, "lda", each.summary) for each in (own, given))
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
    assert own.summary.agreement == given.summary.agreement


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (("--labels", "soft", "--enrol", "0,1"), ["--enrol", "soft"]),
        (("--labels", "all", "--permute-labels"), ["--permute-labels", "all"]),
        (("--labels", "all", "--stream-past", "0"), ["--labels all", "--stream-past"]),
        (("--labels", "most"), ["--labels most", "majority"]),
        (("--ties", "score", "--enrol", "0,1"), ["--enrol", "--ties score"]),
        (("--ties", "keep"), ["--ties keep", "omit"]),
        (("--labels", "soft", "--head", "sgd"), ["--head sgd", "lr"]),
    ],
)  # fmt: skip
def test_what_labels_of_raters_do_not_go_with_is_refused_in_a_line(
    serpipe: Command, cache: Path, options: tuple[str, ...], values: list[str]
) -> None:
    done = serpipe(*FIT, "--head", "lgbm", *options)
    assert done.code == 2
    assert all(value in done.err.splitlines()[-1] for value in values)


def test_labels_of_raters_are_needed(serpipe: Command, cache: Path) -> None:
    done = serpipe("fit", "--head", "lda", "--layers", "1", "--labels", "soft")
    assert done.code == 2
    assert "--ratings" in done.err.splitlines()[-1]
    done = serpipe("fit", "--head", "lda", "--layers", "1", "--ties", "score")
    assert done.code == 2
    assert "--ratings" in done.err.splitlines()[-1]


def rewrite(table: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    """Write the rows of a table again, changed."""
    rows = change(list(csv.DictReader(table.read_text().splitlines())))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_each_clip_without_a_label_is_counted_once(cache: Path) -> None:
    votes = list(csv.reader(Path("votes.csv").read_text().splitlines()))[1:]
    other, unrated = votes[2][0], votes[-1][0]  # the raters of the first name a label not kept
    write_votes([
        (name, rater, "bored" if name == other else label)
        for name, rater, label in votes if name != unrated
    ])  # fmt: skip
    for labels in ("majority", "soft"):
        plan, _ = plan_of(cache, labels=labels, keep=("angry", "calm"))
        changes = plan.target.changes
        counts = [int(each.split()[0]) for each in changes if " clip" in each]
        assert counts == [5, 1, 1], changes
        tested = len(np.unique(plan.clips["name"][plan.problem.tested]))
        assert sum(counts) + tested == len(open_cache(cache).clips["name"])


def test_an_evaluation_tells_clips_without_a_majority_from_those_without_ratings(
    cache: Path,
) -> None:
    counts = [{"angry": 2, "calm": 1}] * 3 + [{"angry": 1, "calm": 1}] * 4 + [{"calm": 2}] * 5
    perceived = [encode_counts(each) for each in counts]
    table = {name: values[:14] for name, values in open_cache(cache).clips.items()}
    table["perceived"] = np.array([*perceived, "", ""])
    plan = plan_evaluation(table, TargetOptions("perceived"))
    assert len(plan.target.rows) == 8
    assert [int(each.split()[0]) for each in plan.target.changes] == [4, 2]


def test_a_manifest_that_lacks_the_column_rater_is_refused_with_that_remedy(
    rater_manifest: Path,
) -> None:
    rewrite(rater_manifest, lambda rows: [
        {name: cell for name, cell in row.items() if name != "Rater"} for row in rows[:2]
    ])  # fmt: skip
    with raises_about(UserError, "raters.csv", "line 3", "line 2", "rater"):
        read_manifest(rater_manifest)


def test_what_describes_the_clip_must_be_the_same_for_all_of_its_raters(
    rater_manifest: Path,
) -> None:
    rewrite(rater_manifest, lambda rows: [
        row | {"sex": "male" if number == 1 else "female"} for number, row in enumerate(rows)
    ])  # fmt: skip
    with raises_about(UserError, "raters.csv", "line 3", "sex", "male", "female"):
        read_manifest(rater_manifest)


def test_raters_may_disagree_on_copies_of_a_recording(
    serpipe: Command, small_encoder: Path, rater_manifest: Path
) -> None:
    rows = list(csv.DictReader(rater_manifest.read_text().splitlines()))
    source = next(row for row in rows if row["emotion"] == "angry")
    copy = source | {"path": "copy.flac", "name": "copy"}
    shutil.copy(rater_manifest.parent / source["path"], rater_manifest.parent / "copy.flac")
    rewrite(rater_manifest, lambda rows: [
        *rows, *(copy | {"Rater": rater, "emotion": "calm"} for rater in "AB")
    ])  # fmt: skip
    done = serpipe("extract", "--manifest", rater_manifest, "--encoder", small_encoder)
    assert done.code == 0, done.err
    cache = done.out.strip()
    for target, head in (("emotion", "lda"), ("arousal", "ridge")):
        done = serpipe("fit", "--target", target, "--head", head, "--layers", "1", "--split",
                       "kfold:5", "--cache", cache)  # fmt: skip
        assert done.code == 0, done.err


def test_agreement_is_on_the_labels_after_merging(cache: Path) -> None:
    plan, votes = plan_of(cache)
    assert plan.agreement == votes.agreement
    write_votes([
        (clip, f"{label}{n}", f"{label}{n % 2}")
        for clip, counts in votes.counts.items() for label in counts for n in range(counts[label])
    ])  # fmt: skip
    merge = {f"{label}{n}": label for label in ("angry", "calm") for n in (0, 1)}
    merged, apart = plan_of(cache, merge=merge)
    assert apart.agreement != votes.agreement
    assert merged.agreement == votes.agreement


def test_a_column_of_raters_is_predicted_even_if_no_two_clips_have_the_same_votes() -> None:
    votes = [encode_counts({"sad": number, "calm": 1}) for number in range(1, 5)]
    assert columns_to_predict({"mood": np.array(votes), "note": np.array(list("abcd"))}) == ["mood"]
