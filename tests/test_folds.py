"""No speaker and no recording on both sides, by whatever protocol; and what is predicted."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from serpipe.corpora.emobox import EMOBOX_FOLDS
from serpipe.errors import UserError
from serpipe.pipeline.folds import Fold, Split, check_folds, inner_folds, make_split
from serpipe.pipeline.layers import Candidate, choose_layers, learn_weights, weigh
from serpipe.pipeline.normalise import by_speaker
from serpipe.pipeline.target import choose_target, permute_within_speakers

from .messages import raises_about

EMOTIONS = np.array(["angry", "happy", "sad"])


def table(n_speakers: int = 6, per_emotion: int = 4) -> dict[str, np.ndarray]:
    """A clip table in which every speaker says every emotion."""
    n = n_speakers * len(EMOTIONS) * per_emotion
    speakers = [f"{k:02d}" for k in range(1, n_speakers + 1)]
    return {
        "emotion": np.tile(np.repeat(EMOTIONS, per_emotion), n_speakers),
        "speaker": np.repeat(speakers, len(EMOTIONS) * per_emotion),
        "sha256": np.array([f"{k:064d}" for k in range(n)]),
        "path": np.array([f"{k}.wav" for k in range(n)]),
        "corpus": np.full(n, "ravdess"),
        "sex": np.repeat(np.where(np.arange(n_speakers) % 2, "female", "male"), n // n_speakers),
        "intensity": np.tile(["normal", "strong", "strong", ""], n // 4),
        "seconds": np.ones(n),
    }


def assert_apart(folds: tuple[Fold, ...], *columns: np.ndarray) -> None:
    for fold in folds:
        assert len(fold.train) and len(fold.test)
        for values in columns:
            assert not set(values[fold.train]) & set(values[fold.test])


@pytest.mark.parametrize("name", ["loso", "kfold:3", "kfold:6", "emobox", "file"])
def test_no_split_shares_a_speaker_unless_asked_to(name: str, tmp_path: Path) -> None:
    clips = table(24)
    if name == "file":
        path = tmp_path / "folds.csv"
        path.write_text("speaker,fold\n" + "".join(f"{s:02d},{s % 4}\n" for s in range(1, 25)))
        name = f"file:{path}"
    split = make_split(name, clips, clips["emotion"])
    assert not split.kind.shares_speakers
    assert_apart(split.folds, clips["speaker"])
    tested = np.concatenate([fold.test for fold in split.folds])
    assert sorted(tested) == list(range(len(clips["path"])))
    for fold in split.folds:
        assert len(fold.train) + len(fold.test) == len(clips["path"])


def test_leaving_one_speaker_out_leaves_out_all_of_one_speaker() -> None:
    clips = table()
    folds = make_split("loso", clips, clips["emotion"]).folds
    assert [fold.name for fold in folds] == sorted(set(clips["speaker"]))
    for fold in folds:
        assert set(clips["speaker"][fold.test]) == {fold.name}


def test_folds_are_stratified_as_far_as_speakers_allow() -> None:
    """Half of the speakers are sad, half happy: each fold tests both, by two speakers each."""
    clips = table(12)
    labels = np.where(clips["speaker"] <= "06", "sad", "happy")
    for folds in (
        make_split("kfold:3", clips, labels).folds,
        inner_folds(labels, clips["speaker"]),
    ):
        assert_apart(folds, clips["speaker"])
        for fold in folds:
            assert set(labels[fold.test]) == {"sad", "happy"}


def test_the_seed_changes_the_folds_and_nothing_else_does() -> None:
    clips = table(12)

    def tested(seed: int) -> list[list[int]]:
        split = make_split("kfold:4", clips, clips["emotion"], seed)
        return [fold.test.tolist() for fold in split.folds]

    assert tested(0) == tested(0)
    assert tested(0) != tested(1)


def test_emobox_folds_are_the_published_ones() -> None:
    """The counts of the published manifests: 240 test clips a fold, one fold of women only."""
    clips = table(24)
    split = make_split("emobox", clips, clips["emotion"])
    assert [fold.name for fold in split.folds] == list("123456")
    actors = [sorted(map(int, set(clips["speaker"][fold.test]))) for fold in split.folds]
    assert actors == [
        [1, 11, 20, 21], [4, 10, 12, 14], [8, 9, 19, 23],
        [3, 5, 7, 24], [2, 15, 16, 18], [6, 13, 17, 22],
    ]  # fmt: skip
    men = [sum(actor % 2 for actor in fold) for fold in actors]
    assert men == [3, 0, 3, 3, 1, 2]
    assert [len(EMOBOX_FOLDS[name]) for name in ("savee", "iemocap")] == [4, 5]
    with raises_about(UserError, "--split emobox", "speaker 24"):
        make_split("emobox", table(23), table(23)["emotion"])
    other = table(24) | {"corpus": np.full(288, "emodb")}
    with raises_about(UserError, "--split emobox", "emodb", "ravdess"):
        make_split("emobox", other, other["emotion"])


def test_random_shares_speakers_says_so_and_still_keeps_equal_bytes_together() -> None:
    clips = table(4, 20)
    clips["sha256"][1::2] = clips["sha256"][::2]  # every recording twice
    split = make_split("random:5", clips, clips["emotion"])
    assert split.kind.shares_speakers
    assert "SHARE SPEAKERS" in split.title
    assert_apart(split.folds, clips["sha256"])
    for fold in split.folds:
        assert set(clips["speaker"][fold.train]) & set(clips["speaker"][fold.test])


def test_a_speaker_or_recording_on_both_sides_is_refused() -> None:
    clips = table()
    folds = list(make_split("loso", clips, clips["emotion"]).folds)
    first = folds[0]
    folds[0] = Fold(first.name, np.append(first.train, first.test[0]), first.test)
    with raises_about(UserError, "fold 01", "speaker", "0.wav"):
        check_folds(Split("loso", "", tuple(folds)), clips, clips["emotion"])
    clips["sha256"][-1] = clips["sha256"][0]
    for name in ("loso", "kfold:6"):
        with raises_about(UserError, "71.wav", "0.wav", "speaker", "06", "01"):
            make_split(name, clips, clips["emotion"])
    clips["sha256"][-1] = clips["sha256"][
        -2
    ]  # the same speaker's: a random split keeps it together
    assert_apart(make_split("random:4", clips, clips["emotion"]).folds, clips["sha256"])
    everyone = np.arange(len(clips["path"]))
    apart = Split("random:2", "", tuple(Fold(str(n), np.delete(everyone, part), part)
                  for n, part in enumerate((everyone[:-1], everyone[-1:]))))  # fmt: skip
    with raises_about(UserError, "fold 0", "recording", "70.wav", "71.wav"):
        check_folds(apart, clips, clips["emotion"])


def test_a_clip_that_is_tested_twice_or_never_is_refused() -> None:
    clips = table()
    folds = make_split("loso", clips, clips["emotion"]).folds
    for wrong in (folds[1:], (*folds, folds[0])):
        with raises_about(UserError, "folds"):
            check_folds(Split("loso", "", wrong), clips, clips["emotion"])


def test_too_few_speakers_or_labels_are_refused() -> None:
    one = table(1)
    with raises_about(UserError, "1 speaker", 2):
        make_split("loso", one, one["emotion"])
    two = table(2)
    with raises_about(UserError, "fold 01", "02"):
        make_split("loso", two, two["speaker"])
    with raises_about(UserError, "01", "--layers 3", "--grid C=0.01"):
        inner_folds(one["emotion"], one["speaker"])


def test_inner_folds_are_five_or_as_many_as_there_are_speakers() -> None:
    for n_speakers, number in ((2, 2), (3, 3), (5, 5), (23, 5)):
        clips = table(n_speakers)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            folds = inner_folds(clips["emotion"], clips["speaker"])
        assert len(folds) == number
        assert_apart(folds, clips["speaker"])


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", ["folds.csv", 0]),
        ("speaker,part\n01,1\n", ["folds.csv", "speaker, part"]),
        ("speaker,fold\n01,1\n01,2\n", ["folds.csv", "line 3", "01"]),
        ("speaker,fold\n01,1\n,2\n", ["folds.csv", "line 3", "speaker"]),
        ("speaker,fold\n01,1\n02,2\n", ["folds.csv", "speaker 03", 3]),
        ("speaker,fold\n" + "".join(f"{s:02d},1\n" for s in range(1, 7)), ["fold", 2]),
        ("speaker,fold\n1,1\n2,2\n", ["folds.csv", "speaker 01", "'1'"]),
        (
            "path,fold\n" + "".join(f"{n}.wav,{n % 2}\n" for n in range(72)),
            ["fold 0", "speaker", "01", "0.wav", "1.wav"],
        ),
    ],
)
def test_a_wrong_table_of_folds_is_refused(
    content: str, values: list[object], tmp_path: Path
) -> None:
    clips = table()
    path = tmp_path / "folds.csv"
    path.write_text(content)
    with raises_about(UserError, *values):
        make_split(f"file:{path}", clips, clips["emotion"])
    with raises_about(UserError, tmp_path / "none.csv"):
        make_split(f"file:{tmp_path / 'none.csv'}", clips, clips["emotion"])


@pytest.mark.parametrize(
    "name", ["lopo", "kfold", "kfold:1", "kfold:7", "kfold:x", "random:", "file:"]
)
def test_a_wrong_split_is_refused(name: str) -> None:
    clips = table()
    with raises_about(UserError, f"--split {name}"):
        make_split(name, clips, clips["emotion"])


def test_labels_are_merged_then_kept() -> None:
    clips = table(2, 4)
    chosen = choose_target(clips, merge={"sad": "happy"}, keep=["happy", "angry"])
    assert set(chosen.labels) == {"angry", "happy"}
    assert (chosen.labels == "happy").sum() == 16
    assert chosen.changes == ("sad counted as happy",)
    kept = choose_target(clips, keep=["sad", "angry"])
    assert set(clips["emotion"][kept.rows]) == {"angry", "sad"}
    assert kept.changes == ("happy dropped",)
    other = choose_target(clips, "intensity")
    assert set(other.labels) == {"normal", "strong"}  # clips without one are not used
    assert len(other.rows) == 18


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ({"column": "speaker"}, ["--target speaker"]),
        ({"column": "seconds"}, ["--target seconds", "emotion", "sex", "intensity"]),
        ({"column": "corpus"}, ["--target corpus"]),
        ({"merge": {"calm": "sad"}}, ["--map calm=sad", "'calm'", "angry"]),
        ({"keep": ["sad", "calm"]}, ["--keep sad,calm", "'calm'"]),
        ({"keep": ["sad"]}, ["--target emotion", "sad"]),
        ({"merge": {"sad": "bad"}, "keep": ["sad", "bad"]}, ["--keep sad,bad", "'sad'"]),
    ],
)
def test_a_wrong_target_is_refused(arguments: dict[str, object], values: list[str]) -> None:
    with raises_about(UserError, *values):
        choose_target(table(2), **arguments)  # type: ignore[arg-type]


def test_labels_are_permuted_within_speakers_only() -> None:
    clips = table()
    labels = np.where(clips["speaker"] == "01", "calm", clips["emotion"])
    permuted = permute_within_speakers(labels, clips["speaker"], seed=0)
    assert (permuted != labels).mean() > 0.3
    for speaker in set(clips["speaker"]):
        rows = clips["speaker"] == speaker
        assert sorted(permuted[rows]) == sorted(labels[rows])
    assert (permuted == permute_within_speakers(labels, clips["speaker"], seed=0)).all()
    assert (permuted != permute_within_speakers(labels, clips["speaker"], seed=1)).any()


def test_normalising_by_speaker_leaves_each_with_zero_mean_and_unit_variance() -> None:
    draw = np.random.default_rng(0)
    speakers = np.repeat(["a", "b"], 50)
    X = draw.normal(np.where(speakers == "a", 3, -5)[:, None], 7, (100, 4)).astype(np.float32)
    X[:, 3] = 1  # says nothing
    Z = by_speaker(X, speakers)
    for speaker in "ab":
        mine = Z[speakers == speaker]
        np.testing.assert_allclose(mine.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(mine.std(axis=0), [1, 1, 1, 0], atol=1e-5)


def test_layers_are_read_as_the_help_says() -> None:
    layers = ("0", "1", "2", "3", "final_norm")

    def names(text: str) -> list[str]:
        return [candidate.name for candidate in choose_layers(text, layers)]

    assert names("all") == list(layers)
    assert names("1-3") == ["1", "2", "3"]
    assert names("3,0") == ["0", "3"]
    assert names("0-1,final_norm") == ["0", "1", "final_norm"]
    assert choose_layers("mean", layers) == (Candidate("mean", layers[:4], "mean"),)
    assert choose_layers("weighted", layers) == (Candidate("weighted", layers[:4], "weighted"),)
    assert choose_layers("concat:1,3", layers) == (Candidate("concat-1-3", ("1", "3"), "concat"),)
    for wrong in ("4", "3-5", "", "first", "concat:", "sum:1,2", "1,", "3-1"):
        with raises_about(UserError, f"--layers {wrong}", "0, 1, 2, 3, final_norm"):
            choose_layers(wrong, layers)


def test_layers_are_joined_as_they_are_named() -> None:
    a, b = np.full((3, 2), 1, np.float32), np.full((3, 2), 3, np.float32)
    assert (Candidate("1", ("1",)).join([a]) == a).all()
    assert (Candidate("mean", ("1", "2"), "mean").join([a, b]) == 2).all()
    assert (Candidate("c", ("1", "2"), "concat").join([a, b]) == [[1, 1, 3, 3]] * 3).all()
    assert Candidate("w", ("1", "2"), "weighted").join([a, b]).shape == (2, 3, 2)


def test_the_layer_that_tells_gets_the_weight_whatever_its_size() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(EMOTIONS, 60)
    X = draw.standard_normal((3, 180, 10)).astype(np.float32)
    X[1] += 2 * draw.standard_normal((3, 10))[np.searchsorted(EMOTIONS, labels)].astype(np.float32)
    for size in (0.01, 1, 100):
        scaled = X * np.array([1, size, 1], np.float32)[:, None, None]
        weights = learn_weights(scaled, labels)
        assert weights.sum() == pytest.approx(1)
        spread = weights * scaled.std(axis=(1, 2))
        assert spread[1] > 0.8 * spread.sum()
    summed = weigh(X, np.array([0.25, 0.5, 0.25]))
    np.testing.assert_allclose(summed, X[0] / 4 + X[1] / 2 + X[2] / 4, rtol=1e-5)
