"""What is pushed to the hub is what was fitted, in one commit, and only where its data allow it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from serpipe.artifacts.models.bundle import load_bundle
from serpipe.artifacts.models.find import DEFAULT_BUNDLE, MAX_MODEL_BYTES
from serpipe.artifacts.models.saved_model import load_model
from serpipe.artifacts.report.card import Publication, card
from serpipe.artifacts.run.results import read_results
from serpipe.corpora import CORPORA
from serpipe.corpora.licence import model_licence
from serpipe.errors import UserError
from serpipe.integrity import check_model_files, write_model_hashes
from serpipe.pipeline.finetune.network_model import NetworkModel, save_network

from .conftest import Command, write_hashed
from .hub import Hub, Repo
from .messages import assert_names, assert_refused, raises_about
from .test_hub import hub as empty_hub  # noqa: F401

NAME = "lab/ser"


@pytest.fixture
def hub(empty_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:  # noqa: F811
    """A hub that takes uploads over the protocol of Git LFS, as it does without hf_xet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return empty_hub


@pytest.fixture
def clip(sample: Path) -> Path:
    return next(sample.rglob("*.flac"))


@pytest.fixture
def run(fitted_once: Path, serpipe: Command) -> Path:
    """A run of two heads on a local encoder, in the working directory."""
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (folder,) = Path("artifacts/runs").iterdir()
    return folder


def bundle_with(folder: Path, **changes: object) -> Path:
    """Copy the bundle that ships, with other entries in its ``bundle.json``."""
    shutil.copytree(DEFAULT_BUNDLE, folder)
    content = json.loads((folder / "bundle.json").read_text())
    write_hashed(folder / "bundle.json", content | changes)
    return folder


def files_on(hub: Hub) -> dict[str, bytes]:
    """Return the files that are visible in the repository."""
    repo = hub.repos[NAME]
    return repo.commits[repo.branches["main"]]


def test_a_pushed_bundle_predicts_the_same_bytes_as_the_local_one(
    hub: Hub, serpipe: Command, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = serpipe("push", DEFAULT_BUNDLE, "--to", NAME, "--format", "json")
    assert pushed.code == 0, pushed.err
    commit = json.loads(pushed.out)["commit"]
    assert commit == hub.repos[NAME].branches["main"]
    assert len(hub.repos[NAME].commits) == 2  # the first is that of the empty repository
    files = files_on(hub)
    uploaded = {"bundle.json", "head.skops", "novelty.skops", "training_record.json"}
    assert files.keys() == uploaded | {"README.md", ".gitattributes"}
    assert all(files[name] == (DEFAULT_BUNDLE / name).read_bytes() for name in uploaded)
    local = serpipe("predict", clip, "--format", "csv")
    remote = serpipe("predict", clip, "--format", "csv", "--model", NAME)
    assert remote.code == 0, remote.err
    assert remote.out == local.out
    assert_names(remote.err, NAME, commit)
    assert {file for _, file in hub.requested_files()} == uploaded
    assert load_model(NAME).card["revision"] == commit
    assert serpipe("predict", clip, "--model", NAME, "--revision", "nowhere").code == 2
    # Offline, and by its commit, from the local cache.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for options in ((), ("--revision", commit)):
        again = serpipe("predict", clip, "--format", "csv", "--model", NAME, *options)
        assert (again.code, again.out) == (0, local.out), again.err


def test_a_head_is_pushed_from_its_run_with_protocol_interval_and_licence_in_the_card(
    hub: Hub, serpipe: Command, run: Path, small_encoder: Path, clip: Path
) -> None:
    bundle = run / "bundles" / "svm"
    pushed = serpipe("push", bundle, "--to", NAME)
    assert pushed.code == 0, pushed.err
    Path("README.md").write_bytes(files_on(hub)["README.md"])
    published = ModelCard.load("README.md")
    assert published.data.license == "cc-by-nc-sa-4.0"
    uar = read_results(run).scores("svm")["uar"]
    value, low, high = (round(100 * each, 1) for each in (uar.value, uar.low, uar.high))
    result = next(each for each in published.data.eval_results if each.metric_type == "uar")
    assert result.metric_value == value
    assert_names(result.metric_name, "UAR", low, high, "LOSO", "nested")
    assert "LOSO" in result.dataset_name and "LOSO" in result.dataset_split
    assert_names(published.text, NAME, "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0", "5 speakers")
    predict = ("predict", clip, "--format", "csv", "--encoder", small_encoder, "--model")
    assert serpipe(*predict, NAME).out == serpipe(*predict, bundle).out != ""


def test_a_published_card_counts_copies_and_names_neither_clips_nor_speakers(run: Path) -> None:
    results = read_results(run)
    paths = results.clips["path"]
    recording, unconfirmed = paths.copy(), np.full(len(paths), "", object)
    recording[1], unconfirmed[2] = recording[0], paths[3]
    findings = [
        ("SER026", f"1 group of speaker ids with no difference but the spelling: {paths[4]}"),
        ("SER029", f"many speaker ids differ in their last part only, such as {paths[5]}"),
    ]
    results = replace(
        results,
        clips={**results.clips, "recording": recording, "unconfirmed_copy_of": unconfirmed},
        summary=replace(results.summary, findings=findings),
    )
    bundle = load_bundle(run / "bundles" / "svm").summary
    private, public = (card(results, "svm", bundle, each) for each in (None, Publication(NAME)))
    for code in ("SER008", "SER022", "SER026", "SER029"):
        assert code in private and code in public
    assert all(name in private for name in paths[:6])
    assert not any(name in public for name in paths)


LICENCES = [
    ("TESS", "CC BY-NC-ND 4.0", "cc-by-nc-nd-4.0"),
    ("SAVEE", "for research only, by registration", "other"),
    ("ShEMO", "free for research, on request", "other"),
    ("MSP-IMPROV", "for research only, by form; no redistribution", "other"),
    ("clips", "as the clips of clips.csv", "other"),
    ("", "", "other"),
]


@pytest.mark.parametrize(("corpus", "licence", "identifier"), LICENCES)
def test_a_corpus_that_forbids_or_says_nothing_is_refused_until_its_licence_is_checked(
    hub: Hub, serpipe: Command, tmp_path: Path, corpus: str, licence: str, identifier: str
) -> None:
    bundle = bundle_with(tmp_path / "bundle", corpus=corpus, licence=licence)
    refused = serpipe("push", bundle, "--to", NAME)
    assert_refused(refused, bundle, corpus, licence, "--licence-checked")
    assert not hub.repos and not hub.requests
    assert serpipe("push", bundle, "--to", NAME, "--licence-checked").code == 0
    Path("README.md").write_bytes(files_on(hub)["README.md"])
    published = ModelCard.load("README.md")
    assert published.data.license == identifier
    assert (published.data.license_name is None) == (identifier != "other")


def test_the_licence_of_every_corpus_is_decided() -> None:
    corpora = CORPORA.built_in
    decided = {name: model_licence(each.title, each.licence) for name, each in corpora.items()}
    open_ones = {name: each.identifier for name, each in decided.items() if not each.obstacles}
    assert open_ones == {
        "ravdess": "cc-by-nc-sa-4.0",
        "ravdess-song": "cc-by-nc-sa-4.0",
        "ravdess-all": "cc-by-nc-sa-4.0",
        "cremad": "odbl",
        "emodb": "cc-by-4.0",
        "emodb2": "cc-by-4.0",
        "emozionalmente": "cc-by-4.0",
    }
    for name in decided.keys() - open_ones.keys():
        (obstacle,) = decided[name].obstacles
        assert_names(obstacle, CORPORA[name].title, CORPORA[name].licence)


def test_several_corpora_are_refused_for_those_that_forbid_and_each_licence_is_named() -> None:
    both = model_licence("EMO-DB, TESS", "CC BY 4.0; CC BY-NC-ND 4.0")
    assert len(both.obstacles) == 1 and both.obstacles[0].startswith("TESS")
    mixed = model_licence("EMO-DB, RAVDESS speech", "CC BY 4.0; CC BY-NC-SA 4.0")
    assert (mixed.identifier, mixed.obstacles) == ("other", ())
    assert_names(mixed.name, "CC BY 4.0", "CC BY-NC-SA 4.0")


@pytest.mark.parametrize("step", ["preupload", "lfs", "commit"])
def test_an_interrupted_push_leaves_nothing_half_visible(
    hub: Hub, serpipe: Command, tmp_path: Path, step: str
) -> None:
    hub.refused[step] = 400
    failed = serpipe("push", DEFAULT_BUNDLE, "--to", NAME)
    assert_refused(failed, NAME, code=1)
    assert files_on(hub).keys() == {".gitattributes"}
    hub.refused.clear()
    assert serpipe("push", DEFAULT_BUNDLE, "--to", NAME).code == 0
    whole = files_on(hub)
    # Nor does the next version, which has another card.
    hub.refused[step] = 400
    other = bundle_with(tmp_path / "bundle", citation="another")
    assert serpipe("push", other, "--to", NAME).code == 1
    assert files_on(hub) == whole


def test_a_new_version_replaces_all_files_of_the_earlier_one(hub: Hub, serpipe: Command) -> None:
    assert serpipe("push", DEFAULT_BUNDLE, "--to", NAME).code == 0
    whole = files_on(hub)
    hub.repos[NAME].push({**whole, "enrolment.npy": b"of an earlier head"})
    assert serpipe("push", DEFAULT_BUNDLE, "--to", NAME).code == 0
    assert files_on(hub) == whole


def test_a_repository_of_something_else_is_not_written_to(hub: Hub, serpipe: Command) -> None:
    hub.repos[NAME] = Repo()
    hub.repos[NAME].push({"README.md": b"", "model.safetensors": b"of another program"})
    before = files_on(hub)
    assert_refused(serpipe("push", DEFAULT_BUNDLE, "--to", NAME), NAME, "model.safetensors")
    assert files_on(hub) == before


def test_a_private_model_is_never_published(hub: Hub, serpipe: Command) -> None:
    assert serpipe("push", DEFAULT_BUNDLE, "--to", NAME, "--private").code == 0
    assert hub.repos[NAME].private
    assert serpipe("push", DEFAULT_BUNDLE, "--to", "lab/public").code == 0
    before = dict(hub.repos["lab/public"].commits)
    assert_refused(serpipe("push", DEFAULT_BUNDLE, "--to", "lab/public", "--private"), "lab/public")
    assert hub.repos["lab/public"].commits == before


@pytest.mark.parametrize("status", [401, 403])
def test_a_user_who_may_not_write_has_to_log_in(hub: Hub, serpipe: Command, status: int) -> None:
    hub.refused["create"] = status
    assert_refused(serpipe("push", DEFAULT_BUNDLE, "--to", NAME), NAME, "hf auth login")


def test_a_dry_run_writes_what_would_be_uploaded_and_asks_the_hub_for_nothing(
    hub: Hub, serpipe: Command
) -> None:
    dry = serpipe("push", DEFAULT_BUNDLE, "--to", NAME, "--dry-run", "--format", "json")
    assert dry.code == 0, dry.err
    assert not hub.requests
    result = json.loads(dry.out)
    folder = Path(result["folder"])
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert result["files"] == sizes and result["commit"] == ""
    assert serpipe("push", DEFAULT_BUNDLE, "--to", NAME).code == 0
    uploaded = {name: content for name, content in files_on(hub).items() if name in sizes}
    assert uploaded == {path.name: path.read_bytes() for path in folder.iterdir()}
    load_model(folder)


def test_what_is_no_intact_model_is_not_pushed(hub: Hub, serpipe: Command, tmp_path: Path) -> None:
    damaged = shutil.copytree(DEFAULT_BUNDLE, tmp_path / "damaged")
    (damaged / "head.skops").write_bytes(b"damaged")
    for arguments in (
        (damaged, "--to", NAME),
        (tmp_path / "nowhere", "--to", NAME),
        (tmp_path, "--to", NAME),
        ("lab/elsewhere", "--to", NAME),
    ):
        assert_refused(serpipe("push", *arguments), arguments[0])
    for to in ("ser", "a/b/c", "../x/y", "lab/..", "https://example.org/x"):
        assert_refused(serpipe("push", DEFAULT_BUNDLE, "--to", to), to)
    assert not hub.repos


def test_a_bundle_of_the_hub_is_bounded_and_only_files_that_serpipe_knows_are_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    content = json.loads((DEFAULT_BUNDLE / "bundle.json").read_text())
    names = {"../../../../secret": "0" * 64, "evil.pkl": "0" * 64}
    bundle = bundle_with(tmp_path / "bundle", files=content["files"] | names)
    hub.push_folder(NAME, bundle, **{"evil.pkl": b"\x80\x04."})
    load_model(NAME)
    assert "evil.pkl" not in {file for _, file in hub.requested_files()}
    hub.push_folder("lab/large", DEFAULT_BUNDLE)
    hub.repos["lab/large"].stated["head.skops"] = MAX_MODEL_BYTES + 1
    with raises_about(UserError, "lab/large", MAX_MODEL_BYTES):
        load_model("lab/large")
    hub.push_folder("lab/changed", DEFAULT_BUNDLE, **{"head.skops": b"\x80\x04."})
    with raises_about(UserError, "head.skops"):
        load_model("lab/changed")


def test_a_model_that_was_trained_end_to_end_predicts_and_is_evaluated_from_the_hub(
    hub: Hub, serpipe: Command, few_clips: Path, small_encoder: Path, clip: Path
) -> None:
    trained = serpipe(
        *("finetune", "--data", few_clips, "--encoder", small_encoder, "--device", "cpu"),
        *("--split", "holdout:60/20/20", "--epochs", 1, "--probe", "none"),
    )
    assert trained.code == 0, trained.err
    run = Path(trained.out.strip())
    pushed = serpipe("push", run, "--to", NAME)
    assert pushed.code == 0, pushed.err
    names = {"files.json", *check_model_files(run / "model")}
    assert files_on(hub).keys() == names | {"README.md", ".gitattributes"}
    predict = ("predict", clip, "--format", "csv", "--model")
    assert serpipe(*predict, NAME).out == serpipe(*predict, run / "model").out != ""
    Path("README.md").write_bytes(files_on(hub)["README.md"])
    published = ModelCard.load("README.md")
    assert published.data.license == "cc-by-nc-sa-4.0" and published.data.eval_results
    actor = max(few_clips.iterdir())
    evaluated = serpipe("evaluate", "--model", NAME, "--data", f"ravdess={actor}")
    assert evaluated.code == 0, evaluated.err
    recorded = read_results(Path(evaluated.out.strip())).summary.encoder["revision"]
    assert recorded == hub.repos[NAME].branches["main"]
    alone = shutil.copytree(run / "model", "alone")
    assert_refused(serpipe("push", alone, "--to", NAME), alone)


def test_a_network_of_the_hub_predicts_as_the_local_one(
    hub: Hub, tmp_path: Path, clip: Path
) -> None:
    folder = tmp_path / "network"
    save_network(NetworkModel("cnn", ["calm", "angry"], seed=0), folder, {"target": "emotion"})
    write_model_hashes(folder)
    commit = hub.push_folder(NAME, folder, **{"code.py": b"raise SystemExit"})
    model = load_model(NAME)
    assert model.card["revision"] == commit
    assert model.predict(clip).scores == load_model(folder).predict(clip).scores
    files = {file for _, file in hub.requested_files()}
    assert files == {"network.json", "model.safetensors", "files.json"}
