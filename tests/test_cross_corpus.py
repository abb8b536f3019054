"""Several corpora in one cache: speakers are kept apart, labels shared, each trains for each."""

import csv
import hashlib
import json
import shlex
import shutil
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from serpipe.artifacts.run.results import read_results
from serpipe.corpora import CORPORA
from serpipe.corpora.corpus import Archive
from serpipe.corpora.data import find_data
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.plan import make_plan
from serpipe.pipeline.speakers import speaker_ids

from .conftest import Command, call_in
from .messages import assert_refused, names, raises_about

#: The emotion codes of RAVDESS in the words of EMO-DB.
GERMAN = {"01": "N", "03": "F", "04": "T", "05": "W", "06": "A", "07": "E"}


@pytest.fixture
def two_corpora(tmp_path: Path, sample: Path) -> tuple[Path, Path]:
    return copy_corpora(sample, tmp_path)


def copy_corpora(sample: Path, folder: Path) -> tuple[Path, Path]:
    """Return RAVDESS of six actors, and six others of its actors under the names of EMO-DB."""
    ravdess, emodb = folder / "ravdess", folder / "emodb"
    for number, speaker in zip(range(1, 7), ("03", "08", "09", "10", "11", "12"), strict=True):
        shutil.copytree(sample / f"Actor_{number:02d}", ravdess / f"Actor_{number:02d}")
        emodb.mkdir(exist_ok=True)
        for clip in sorted((sample / f"Actor_{number + 6:02d}").iterdir()):
            emotion = clip.stem.split("-")[2]
            if emotion in GERMAN:
                shutil.copy(clip, emodb / f"{speaker}a01{GERMAN[emotion]}a.flac")
    return ravdess, emodb


@pytest.fixture(scope="session")
def cached_once(
    tmp_path_factory: pytest.TempPathFactory, sample: Path, small_encoder: Path
) -> Path:
    """A working directory with both corpora in one cache: made once, to be copied."""
    folder = tmp_path_factory.mktemp("crossed")
    ravdess, emodb = copy_corpora(sample, folder)
    work = folder / "work"
    work.mkdir()
    call_in(work, "extract", "--data", ravdess, "--data", emodb, "--encoder", small_encoder)
    return work


@pytest.fixture
def cache(serpipe: Command, cached_once: Path) -> Path:
    shutil.copytree(cached_once, ".", dirs_exist_ok=True)
    (cache,) = Path("features/cache").glob("*.h5")
    return cache


def test_corpora_share_a_cache_and_no_speaker(serpipe: Command, cache: Path) -> None:
    opened = open_cache(cache)
    assert len(opened) == 6 * 8 + 6 * 6
    table = opened.clips
    assert {"Freude", "happy"} <= set(table["emotion"])
    assert Counter(table["shared_emotion"])["happiness"] == 12
    assert set(table["language"]) == {"en", "de"}
    assert set(table["vocal_channel"]) == {"speech", ""}
    plan = make_plan(opened, Protocol())
    assert plan.target.column == "shared_emotion"
    assert len(plan.split.folds) == 12  # 03 of one corpus is not 03 of the other
    standard = make_plan(opened, Protocol(split="standard", train_on=["emodb"]))
    assert sorted(fold.name for fold in standard.split.folds) == [
        "03",
        "08",
        "09",
        "10",
        "11",
        "12",
    ]
    with raises_about(UserError, "--split emobox", "speaker 07"):  # it needs all of them
        make_plan(opened, Protocol(split="emobox", train_on=["ravdess"]))
    plan = make_plan(opened, Protocol(keep=["angry", "sadness"], merge={"calm": "sad"}))
    assert set(plan.problem.labels) == {"anger", "sadness"}


def test_a_corpus_is_tested_with_a_head_trained_on_another(serpipe: Command, cache: Path) -> None:
    plan = make_plan(open_cache(cache), Protocol(train_on=["emodb"], test_on=["ravdess"]))
    (fold,) = plan.split.folds
    assert set(plan.clips["corpus"][fold.train]) == {"emodb"}
    assert set(plan.clips["corpus"][fold.test]) == {"ravdess"}
    assert set(plan.problem.labels) == {
        "anger",
        "disgust",
        "fear",
        "happiness",
        "neutral",
        "sadness",
    }
    assert any(names(change, "calm") for change in plan.target.changes)
    assert set(plan.problem.everybody().train.tolist()) == set(fold.train.tolist())
    arguments = (
        "--train-on",
        "emodb",
        "--test-on",
        "ravdess",
        "--layers",
        "1-2",
        "--grid",
        "C=0.1",
    )
    run = Path(serpipe("fit", "--head", "lr", *arguments).out.strip())
    results = read_results(run)
    assert results.summary.clips == 36
    assert set(results.clips["corpus"]) == {"ravdess"}
    assert all(speaker.startswith("ravdess:") for speaker in results.summary.speakers)
    facts = json.loads(serpipe("report", run, "--format", "json").out)["facts"]
    assert any(all(names(fact, each) for each in ("emodb", 36, 6)) for fact in facts.values())
    with (run / "clips.csv").open() as file:
        assert {row["fold"] for row in csv.DictReader(file)} == {"emodb>ravdess"}


def test_every_pair_of_corpora_is_fitted_and_the_report_is_a_matrix(
    serpipe: Command, cache: Path
) -> None:
    done = serpipe(
        "fit",
        "--head",
        "lr",
        "--cross-corpus",
        "--layers",
        "2",
        "--grid",
        "C=0.1",
        "--format",
        "json",
    )
    runs = [each["run"] for each in json.loads(done.out)["runs"]]
    assert len(runs) == 4
    report = serpipe("report", *runs, "--format", "json", "--out", "matrix", render_figures=True)
    tables = json.loads(report.out)["tables"]
    assert json.loads(done.out)["matrix-lr"] == tables["matrix-lr"]
    # Each line names the pair that it is about, and the next command is short and works.
    pairs = [f"{a} > {b}" for a in ("emodb", "ravdess") for b in ("emodb", "ravdess")]
    about = [line for line in done.err.splitlines() if line.split("  ")[0].strip() in pairs]
    scores = [line for line in done.err.splitlines() if " UAR " in line]
    assert len(scores) >= 4 and set(scores) <= set(about)
    (after,) = [line for line in done.err.splitlines() if line.startswith("next ")]
    _, name, *words = shlex.split(after)
    assert name == "serpipe" and len(after) < 80
    again = serpipe(*words, "--format", "json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["tables"]["matrix-lr"] == tables["matrix-lr"]
    assert (Path(words[-1]) / "index.html").is_file()
    cells = {(row["trained_on"], row["tested_on"]): row for row in tables["matrix-lr"]}
    assert set(cells) == {(a, b) for a in ("emodb", "ravdess") for b in ("emodb", "ravdess")}
    assert {row["chance"] for row in cells.values()} == {1 / 6}  # the labels that both have
    for run in runs:
        results = read_results(Path(run))
        train, test = cells_of(results.summary.split, set(results.clips["corpus"].tolist()))
        right = results.clips["label"] == results.predicted["lr"]["nested"]
        assert cells[train, test]["accuracy"] == pytest.approx(right.mean())
    # A marked run is in no cell, and of two runs of one pair none is.
    shuffled = ("--train-on", "emodb", "--test-on", "ravdess", "--layers", "2", "--permute-labels")
    marked = serpipe("fit", "--head", "lr", *shuffled, "--grid", "C=0.1").out.strip()
    again = json.loads(serpipe("report", *runs, marked, "--format", "json").out)["tables"]
    assert again["matrix-lr"] == tables["matrix-lr"]
    other = serpipe("fit", "--head", "lr", *shuffled[:-1], "--grid", "C=1").out.strip()
    twice = json.loads(serpipe("report", *runs, other, "--format", "json").out)["tables"]
    assert "matrix-lr" not in twice
    # The card of a head that was not trained on the speakers it was tested on.
    crossed = next(Path(run) for run in runs if "cross-emodb-ravdess" in run)
    assert serpipe("report", crossed).code == 0
    card = (crossed / "bundles" / "lr" / "README.md").read_text()
    assert "This very head was tested" in card
    assert "was fitted on all of them" not in card
    bundle = json.loads((crossed / "bundles" / "lr" / "bundle.json").read_text())
    assert (bundle["corpus"], bundle["licence"]) == ("EMO-DB", "CC BY 4.0")
    # On the same clips: within EMO-DB against RAVDESS to EMO-DB, and the other way round.
    assert len(tables["comparisons"]) == 2
    with Image.open(Path("matrix") / "matrix-lr.png") as image:
        image.verify()
    command = ("fit", "--head", "lr", "--cross-corpus", "--layers", "2", "--grid", "C=0.1")
    printed = serpipe(*command).out
    assert printed.count("ravdess") > 2 and printed.splitlines()[-4:] == runs
    assert serpipe("fit", "--cross-corpus", "--out", "one").code == 2


def test_corpora_are_named_in_any_case(cache: Path) -> None:
    plan = make_plan(open_cache(cache), Protocol(train_on=["EMO-DB"], test_on=["RAVDESS"]))
    assert (plan.protocol.train_on, plan.protocol.test_on) == (("emodb",), ("ravdess",))
    assert set(plan.tested_clips["corpus"]) == {"ravdess"}


def test_one_of_several_corpora_uses_the_shared_words(serpipe: Command, cache: Path) -> None:
    opened = open_cache(cache)
    shared = make_plan(opened, Protocol(train_on=["emodb"], keep=["anger", "sad"]))
    assert shared.target.column == "shared_emotion"
    assert set(shared.problem.labels) == {"anger", "sadness"}
    as_named = Protocol(train_on=["emodb"], keep=["Wut", "Trauer"], target="emotion")
    own = make_plan(opened, as_named)
    assert set(own.problem.labels) == {"Wut", "Trauer"}
    refused = serpipe("fit", "--train-on", "emodb", "--keep", "Wut,Trauer")
    assert_refused(refused, "anger", "sadness", "--target emotion")
    # The same labels under both names are runs of their own.
    few = ("--train-on", "emodb", "--layers", "2", "--grid", "C=0.1")
    runs = {serpipe("fit", *few, *more).out.strip() for more in ((), ("--target", "emotion"))}
    assert len(runs) == 2


def test_speakers_of_two_corpora_are_counted_apart(serpipe: Command, cache: Path) -> None:
    info = json.loads(serpipe("cache", "info", cache, "--format", "json").out)
    assert info["clips"].endswith(" 12 speakers")  # 03 of RAVDESS and 03 of EMO-DB are two
    assert "happiness 12" in info["shared_emotion"]
    with h5py.File(cache, "r+") as file:  # as earlier versions wrote it
        del file["clips/speaker_id"]
    table = open_cache(cache).clips
    assert len(set(speaker_ids(table).tolist())) == 12


def test_a_folder_of_several_corpora_is_refused_with_the_options_to_use(
    serpipe: Command, shared: Path, tmp_path: Path
) -> None:
    parent = tmp_path / "my corpora"
    for name in ("tess", "emodb", "cremad"):
        shutil.copytree(shared / "data" / "originals" / name, parent / "audio" / name)
    refused = serpipe("corpora", "info", parent)
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    options = shlex.split(line[line.index("--data ", line.index(": --data")) :])
    assert options[::2] == ["--data"] * 3
    sources, scans = find_data(options[1::2])
    counts = {source.name: len(each.clips) for source, each in zip(sources, scans, strict=True)}
    assert counts == {"tess": 8, "emodb": 11, "cremad": 10}


def test_words_are_merged_in_every_corpus_that_has_them(serpipe: Command, cache: Path) -> None:
    few = ("--layers", "2", "--grid", "C=0.1", "--format", "json")
    done = serpipe(
        "fit",
        "--head",
        "lr",
        "--cross-corpus",
        "--map",
        "calm=neutral",
        "--map",
        "fearful=sad",
        *few,
    )
    assert done.code == 0, done.err
    runs = [Path(each["run"]) for each in json.loads(done.out)["runs"]]
    for run in runs:
        results = read_results(run)
        summary = results.summary
        assert list(summary.labels) == ["anger", "disgust", "happiness", "neutral", "sadness"]
        corpora = cells_of(summary.split, set(results.clips["corpus"].tolist()))
        merged = any(names(each, "calm") and names(each, "neutral") for each in summary.changes)
        assert merged is ("ravdess" in corpora)


def test_ratings_cross_corpora_too(serpipe: Command, cache: Path) -> None:
    table = open_cache(cache).clips
    draw = np.random.default_rng(0).uniform(1, 5, len(table["name"]))
    lines = [f"{path},{value:.2f}" for path, value in zip(table["path"], draw, strict=True)]
    Path("r.csv").write_text("\n".join(["path,arousal", *lines]))
    few = ("--layers", "2", "--grid", "alpha=100", "--format", "json")
    done = serpipe("fit", "--cross-corpus", "--ratings", "r.csv", "--target", "arousal", *few)
    assert done.code == 0, done.err
    runs = [each["run"] for each in json.loads(done.out)["runs"]]
    tables = json.loads(serpipe("report", *runs, "--format", "json").out)["tables"]
    assert len(tables["matrix-ridge"]) == 4
    one = [line for line in lines if not line.startswith("Actor")]
    Path("r.csv").write_text("\n".join(["path,arousal", *one]))
    cross = ("--train-on", "emodb", "--test-on", "ravdess", "--ratings", "r.csv")
    missing = serpipe("fit", *cross, "--target", "arousal")
    assert_refused(missing, "--target arousal", "ravdess")
    Path("r.csv").write_text("\n".join(["path,emotion", *lines]))
    taken = serpipe("fit", "--ratings", "r.csv", "--target", "emotion")
    assert_refused(taken, "--target emotion")
    same = [f"{path},{3 if path.startswith('Actor') else n % 5}" for n, path in
            enumerate(table["path"])]  # fmt: skip
    Path("r.csv").write_text("\n".join(["path,arousal", *same]))
    constant = serpipe("fit", *cross, "--target", "arousal")
    assert_refused(constant, "--test-on ravdess", "arousal")


def cells_of(split: str, corpora: set[str]) -> tuple[str, str]:
    if split == "loso":
        (corpus,) = corpora
        return corpus, corpus
    train, test = split.removeprefix("cross:").split(">")
    return train, test


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"train_on": ["savee"]}, ["--train-on savee", "emodb, ravdess"]),
        (
            {"train_on": ["emodb"], "test_on": ["emodb", "ravdess"]},
            ["--train-on emodb", "--test-on emodb,ravdess"],
        ),
        (
            {"train_on": ["emodb"], "test_on": ["ravdess"], "keep": ["calm", "anger"]},
            ["--keep calm,anger", "emodb", "ravdess"],
        ),
        (
            {"train_on": ["emodb"], "test_on": ["ravdess"], "target": "statement"},
            ["--target statement", "emodb", "ravdess"],
        ),
        (
            {"train_on": ["emodb"], "test_on": ["ravdess"], "target": "intensity"},
            ["--target intensity", "emodb"],
        ),
        (
            {"train_on": ["emodb"], "test_on": ["ravdess"], "split": "kfold:2"},
            ["--split kfold:2", "emodb", "ravdess"],
        ),
        ({"target": "nonsense"}, ["--target nonsense", "shared_emotion"]),
    ],
)
def test_corpora_that_cannot_be_crossed_are_refused(
    cache: Path, fields: dict[str, Any], values: list[str]
) -> None:
    with raises_about(UserError, *values):
        make_plan(open_cache(cache), Protocol(**fields))


def test_a_recording_of_both_corpora_is_refused(
    serpipe: Command, two_corpora: tuple[Path, Path], small_encoder: Path
) -> None:
    ravdess, emodb = two_corpora
    clip = next((ravdess / "Actor_01").glob("03-01-05-*.flac"))
    shutil.copy(clip, emodb / "13a01Wa.flac")
    done = serpipe("extract", "--data", ravdess, "--data", emodb, "--encoder", small_encoder)
    assert_refused(done, clip, emodb / "13a01Wa.flac")


def test_corpora_are_listed_described_and_tabled(
    serpipe: Command, two_corpora: tuple[Path, Path], shared: Path
) -> None:
    listed = json.loads(serpipe("corpora", "list", "--format", "json").out)["tables"]["corpora"]
    assert {row["name"]: row["clips"] for row in listed} == {
        "ravdess": 1440, "ravdess-song": 1012, "ravdess-all": 2452, "cremad": 7442, "emodb": 535,
        "savee": 480, "shemo": 3000, "tess": 2800, "iemocap": 10039, "msp-podcast": None,
        "msp-improv": None, "meld": 13708, "esd": 35000, "esd-english": 17500,
        "esd-mandarin": 17500, "emovo": 588, "emodb2": None, "emozionalmente": 6902, "jl": 2400,
    }  # fmt: skip
    assert_refused(serpipe("corpora", "download", "savee", "--to", "x"), "savee")
    silent = two_corpora[0] / "Actor_01" / "03-01-01-01-02-02-01.wav"
    import soundfile

    soundfile.write(silent, np.zeros(16000), 16000)
    info = json.loads(serpipe("corpora", "info", *two_corpora[:1], "--format", "json").out)
    assert info["facts"]["clips"] == "49 of 1440 of the release"
    assert info["facts"]["unusable"] == "1"
    assert any(names(note, silent.name) for note in info["notes"])
    assert any(names(note, 186) and names(note, "happy") for note in info["notes"])
    happy = next(row for row in info["tables"]["emotions"] if row["emotion"] == "happy")
    assert (happy["female"], happy["male"], happy["all"], happy["release"]) == (3, 3, 6, 192)
    originals = shared / "data" / "originals"
    corpora = ("ravdess", "tess", "emodb", "cremad")
    done = serpipe("corpora", "table", *(originals / name for name in corpora), "--out", "t.csv")
    assert done.code == 0
    assert Path("t.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # umlauts of EMO-DB's sentences
    with Path("t.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert serpipe("corpora", "table", originals / "tess", "--out", "ascii.csv").code == 0
    assert Path("ascii.csv").read_bytes().isascii()
    assert Counter(row["corpus"] for row in rows) == {
        "ravdess": 9, "tess": 8, "emodb": 11, "cremad": 10
    }  # fmt: skip
    rates = {row["name"]: row["sampling_rate"] for row in rows}
    assert rates["OAF_food_fear"] == "96000"
    assert rates["YAF_germ_angry"] == "24414"
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_a_corpus_is_downloaded_unpacked_and_read(
    serpipe: Command,
    two_corpora: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """From a server of our own: that the real ones answer cannot be tested here."""
    site = tmp_path / "site"
    site.mkdir()
    archive = shutil.make_archive(str(site / "ravdess"), "zip", two_corpora[0])
    size, digest = Path(archive).stat().st_size, hashlib.md5(Path(archive).read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/ravdess.zip"
        for checksum, code in ((f"md5:{'0' * 32}", 1), (f"md5:{digest}", 0)):
            corpus = replace(
                CORPORA["ravdess"], archives=(Archive(address, "ravdess.zip", size, checksum),)
            )
            monkeypatch.setitem(CORPORA.built_in, "ravdess", corpus)
            done = serpipe("corpora", "download", "ravdess", "--to", "there")
            assert done.code == code, done.err
            assert "CC BY-NC-SA 4.0" in done.err
        server.shutdown()
    info = json.loads(serpipe("corpora", "info", "there", "--format", "json").out)
    assert info["facts"]["clips"] == "48 of 1440 of the release"


def test_iemocap_is_read_split_by_session_and_its_ratings_regressed(
    serpipe: Command, sample: Path, small_encoder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "IEMOCAP_full_release"
    clips = iter(sorted(sample.rglob("*.flac")))
    for session in range(1, 6):
        wav = root / f"Session{session}" / "sentences" / "wav"
        evaluations = root / f"Session{session}" / "dialog" / "EmoEvaluation"
        evaluations.mkdir(parents=True)
        dialogue = f"Ses{session:02d}F_impro01"
        (wav / dialogue).mkdir(parents=True)
        lines = []
        for number in range(16):
            name = f"{dialogue}_{'FM'[number % 2]}{number:03d}"
            shutil.copy(next(clips), wav / dialogue / f"{name}.flac")
            rated = f"[{1 + number % 5}.0000, 2.5000, {1 + number % 3}.5000]"
            lines.append(
                f"[1.0 - 2.0]\t{name}\t{('ang', 'exc', 'hap', 'neu')[number % 4]}\t{rated}"
            )
        (evaluations / f"{dialogue}.txt").write_text("\n".join(lines))
    assert serpipe("extract", "--data", root, "--encoder", small_encoder).code == 0
    few = ("--layers", "2", "--split", "standard")
    run = serpipe("fit", "--head", "lr", "--map", "excited=happiness", "--grid", "C=0.1", *few)
    results = read_results(Path(run.out.strip()))
    assert list(results.summary.labels) == ["anger", "happiness", "neutral"]
    assert len(results.summary.speakers) == 10
    assert Counter(results.clips["fold"]) == dict.fromkeys("12345", 16)
    rated_run = serpipe("fit", "--target", "valence", "--grid", "alpha=100", *few)
    assert "CCC" in rated_run.err
    assert read_results(Path(rated_run.out.strip())).summary.clips == 80
    refused = serpipe("fit", "--target", "activation", *few)
    assert_refused(refused, "--target activation", 80)


def test_a_manifest_is_extracted_and_fitted(
    serpipe: Command, sample: Path, small_encoder: Path
) -> None:
    lines = ["path,speaker,mood,room"]
    for actor in range(1, 7):
        for clip in sorted((sample / f"Actor_{actor:02d}").iterdir()):
            mood = "loud" if clip.stem.split("-")[2] in ("05", "06", "08") else "quiet"
            lines.append(f"{clip.relative_to(sample)},a{actor},{mood},{actor % 2}")
    Path("clips.csv").write_text("\n".join(lines))
    done = serpipe(
        "extract", "--manifest", "clips.csv", "--data", sample, "--encoder", small_encoder
    )
    assert done.code == 0, done.err
    assert serpipe("fit").code == 2  # mood or room: the command that extract prints says which
    (after,) = [line for line in done.err.splitlines() if line.startswith("next ")]
    assert shlex.split(after)[1:] == ["serpipe", "fit", "--target", "mood"]
    run = serpipe("fit", "--target", "mood", "--layers", "2", "--grid", "C=0.1")
    assert run.code == 0, run.err
    results = read_results(Path(run.out.strip()))
    assert (results.summary.target, list(results.summary.labels)) == ("mood", ["loud", "quiet"])
    assert len(results.summary.speakers) == 6
    assert serpipe("report").code == 0


def test_the_only_column_of_a_manifest_is_predicted(
    serpipe: Command, sample: Path, small_encoder: Path
) -> None:
    lines = {"mood": ["path,speaker,mood,transcript"], "fatigue": ["path,speaker,fatigue"]}
    for actor in range(1, 5):
        for number, clip in enumerate(sorted((sample / f"Actor_{actor:02d}").iterdir())):
            path = clip.relative_to(sample)
            lines["mood"].append(f"{path},a{actor},{'ab'[number % 2]},words {actor} {number}")
            lines["fatigue"].append(f"{path},a{actor},{number / 2 + actor}")
    few = ("--layers", "2", "--split", "kfold:4")
    for column, rows in lines.items():
        folder = Path(f"my {column}")
        folder.mkdir()
        (folder / "clips.csv").write_text("\n".join(rows))
        done = serpipe("extract", "--manifest", folder / "clips.csv", "--data", sample,
                       "--encoder", small_encoder, "--out", folder / "c.h5")  # fmt: skip
        assert done.code == 0, done.err
        (after,) = [line for line in done.err.splitlines() if line.startswith("next ")]
        fitted = serpipe(*shlex.split(after)[2:], *few, "--out", folder / "run")
        assert fitted.code == 0, fitted.err
        results = read_results(folder / "run")
        assert results.summary.target == column
        (after,) = [line for line in fitted.err.splitlines() if line.startswith("next ")]
        assert serpipe(*shlex.split(after)[2:]).code == 0
