"""Hugging Face datasets and audformat databases are read as tables of clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serpipe.corpora.data import listed
from serpipe.corpora.manifest import read_manifest
from serpipe.errors import UserError
from serpipe.features.audio import read_waveform
from serpipe.features.cache import open_cache

from .conftest import Command
from .messages import raises_about

EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dataset(few_clips: Path) -> Any:
    """Return a dataset of a few clips, with their audio and a column that is no table's."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()
    files = sorted(few_clips.rglob("*.flac"))
    columns = {
        "audio": list(map(str, files)),
        "speaker_id": [file.stem[-2:] for file in files],
        "emotion": [int(file.name[6:8]) - 1 for file in files],
        "arousal": np.linspace(0, 1, len(files)).tolist(),
        "tags": [["x"]] * len(files),
    }
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    return made.cast_column("emotion", datasets.ClassLabel(names=EMOTIONS))


def test_a_saved_dataset_is_extracted_and_fitted_like_a_table(
    dataset: Any, few_clips: Path, small_encoder: Path, serpipe: Command
) -> None:
    dataset.save_to_disk("lab")
    files = sorted(few_clips.rglob("*.flac"))
    for file in files:
        file.rename(file.with_suffix(".moved"))  # the dataset holds the audio
    done = serpipe("extract", "--manifest", "lab", "--encoder", small_encoder)
    assert done.code == 0, done.err
    clips = open_cache(Path(done.out.strip())).clips
    assert len(clips["path"]) == len(files)
    assert set(clips["speaker"]) == {file.stem[-2:] for file in files}
    assert set(clips["emotion"]) <= set(EMOTIONS)
    assert clips["arousal"].dtype.kind == "f"
    assert "tags" not in clips
    assert "tags" in done.err
    again = serpipe("extract", "--manifest", "lab", "--encoder", small_encoder)
    assert "0 clips computed" in again.err
    fitted = serpipe("fit", "--head", "lda", "--layers", "1", "--split", "kfold:2")
    assert fitted.code == 0, fitted.err


def test_the_parts_of_a_dict_of_datasets_become_a_column(dataset: Any, tmp_path: Path) -> None:
    import datasets

    parts = {"train": dataset.select(range(10)), "test": dataset.select(range(10, 15))}
    datasets.DatasetDict(parts).save_to_disk("lab")
    clips = listed(Path("lab")).clips
    assert [clip.more["split"] for clip in clips] == ["train"] * 10 + ["test"] * 5


def test_names_in_a_dataset_do_not_decide_where_audio_is_written(
    dataset: Any, few_clips: Path, tmp_path: Path
) -> None:
    import datasets

    content = sorted(few_clips.rglob("*.flac"))[0].read_bytes()
    audio = [{"bytes": content, "path": f"../../{n}/evil.fl/ac"} for n in range(2)]
    made = datasets.Dataset.from_dict({"audio": audio, "speaker": ["a", "b"], "mood": ["x", "y"]})
    made.cast_column("audio", datasets.Audio()).save_to_disk("lab")
    for clip in listed(Path("lab")).clips:
        assert clip.file.resolve().is_relative_to(Path("features/audio").resolve())  # type: ignore[union-attr]
        assert len(read_waveform(clip.file, 16000)[0]) > 16000


def test_a_dataset_without_one_audio_column_is_refused(dataset: Any) -> None:
    dataset.remove_columns("audio").save_to_disk("lab")
    with raises_about(UserError, "lab"):
        read_manifest(Path("lab"))


def test_a_dataset_that_the_hub_does_not_have_is_refused() -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    with raises_about(UserError, "hf:nobody/nothing"):
        read_manifest(Path("hf:nobody/nothing"))


@pytest.fixture
def database(few_clips: Path) -> Path:
    """Return the folder of an audformat database with three clips beside it."""
    audformat = pytest.importorskip("audformat", reason="audformat is not installed")
    pandas = pytest.importorskip("pandas")
    files = [file.relative_to(few_clips).as_posix() for file in sorted(few_clips.rglob("*.flac"))]
    made = audformat.Database("mini")
    made.schemes["emotion"] = audformat.Scheme(labels=["happy", "sad"])
    made["files"] = audformat.Table(audformat.filewise_index(files[:3]))
    made["files"]["speaker"] = audformat.Column()
    made["files"]["speaker"].set(["anna", "bert", "anna"])
    made["files"]["duration"] = audformat.Column()
    made["files"]["duration"].set(pandas.to_timedelta([1.5, 2, 3], unit="s"))
    made["emotion"] = audformat.Table(audformat.filewise_index(files[:2]))
    made["emotion"]["emotion"] = audformat.Column(scheme_id="emotion")
    made["emotion"]["emotion"].set(["sad", "happy"])
    made["turns"] = audformat.Table(audformat.segmented_index(files[:1], ["0s"], ["1s"]))
    made.save(str(few_clips))
    return few_clips


def test_the_tables_of_a_database_are_joined_by_file(database: Path) -> None:
    clips = listed(database).clips
    assert [clip.speaker for clip in clips] == ["anna", "bert", "anna"]
    assert [clip.emotion for clip in clips] == ["sad", "happy", ""]
    assert [clip.more["duration"] for clip in clips] == [1.5, 2.0, 3.0]


def test_a_database_with_a_pickle_is_refused_and_not_loaded(database: Path) -> None:
    table = next(database.glob("db.files.*"))
    (database / "db.files.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with raises_about(UserError, database / "db.files.pkl"):
        listed(database)
    assert table.is_file()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "header",
    [
        'author: !!python/object/apply:os.system ["touch pwned"]',
        "tables: {../a: {type: filewise, columns: {}}}",
        "tables: {a/b: {type: filewise, columns: {}}}",
    ],
)
def test_a_header_of_a_database_runs_no_code_and_leads_nowhere(header: str, database: Path) -> None:
    file = database / "db.yaml"
    file.write_text(f"name: mini\n{header}\n")
    with raises_about(UserError, file):
        listed(database)
    assert not Path("pwned").exists()


def test_a_pickle_below_the_folder_of_a_database_is_refused(database: Path) -> None:
    (database / "db.a").mkdir()
    (database / "db.a" / "b.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with raises_about(UserError, database / "db.a" / "b.pkl"):
        listed(database)


def test_tables_of_a_database_fill_each_other_and_may_not_disagree(database: Path) -> None:
    import audformat

    made = audformat.Database.load(str(database))
    files = list(made["files"].df.index)
    made["more"] = audformat.Table(audformat.filewise_index(files))
    made["more"]["emotion"] = audformat.Column(scheme_id="emotion")
    made["more"]["emotion"].set(["sad", "happy", "sad"])
    made.save(str(database))
    assert [clip.emotion for clip in listed(database).clips] == ["sad", "happy", "sad"]
    made["more"]["emotion"].set(["sad", "sad", "sad"])
    made.save(str(database))
    with raises_about(UserError, database, files[1]):
        listed(database)


def test_versions_of_a_database_have_names_of_their_own(database: Path) -> None:
    names = []
    for version in ("1.4.0", "1.4.1"):
        folder = database.parent / version
        folder.mkdir()
        for file in database.iterdir():
            (folder / file.name).symlink_to(file)
        names.append(listed(folder).name)
    assert names == ["mini-1.4.0", "mini-1.4.1"]


def test_audio_that_has_changed_is_written_again(dataset: Any, few_clips: Path) -> None:
    dataset.save_to_disk("lab")
    clips = listed(Path("lab")).clips
    file = Path(str(clips[0].file))
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    listed(Path("lab"))
    assert file.read_bytes() == content


def test_unknown_labels_of_a_dataset_are_empty(dataset: Any) -> None:
    import datasets

    made = dataset.remove_columns("emotion").add_column(
        "emotion",
        [-1, None] * (len(dataset) // 2) + [-1] * (len(dataset) % 2),
        feature=datasets.ClassLabel(names=EMOTIONS),
    )
    made.save_to_disk("lab")
    assert {clip.emotion for clip in listed(Path("lab")).clips} == {""}
