"""Checkpoints of the hub: one commit, only the files needed, and one line if that fails."""

import io
import json
import os
import pty
import shutil
import socket
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from serpipe.corpora import scan
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import MachineError, OtherCacheError, UserError
from serpipe.features.checkpoint_limits import MAX_WEIGHT_BYTES
from serpipe.features.encoder import Encoder, load_encoder

from .conftest import FAMILIES, Command, extract_with, run_python
from .hub import Hub, serve_hub

NAME = "lab/encoder"
SETTINGS = {"config.json", "preprocessor_config.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the client in this process talks to, with an empty cache."""
    with serve_hub() as hub:
        connect(monkeypatch, hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield hub


def connect(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Do what HF_ENDPOINT does when the client is imported."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def copy(small_encoder: Path, tmp_path: Path) -> Path:
    """A copy of a small random encoder, to be changed and pushed."""
    return shutil.copytree(small_encoder, tmp_path / "encoder")


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layers.1.attention.k_proj.bias"] += 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def clip() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(16000, dtype=np.float32)


def mean_states(model: Any, folder: Path) -> np.ndarray:
    """The mean of each hidden state of a wav2vec 2.0, as transformers alone computes it."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(clip(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**inputs, output_hidden_states=True).hidden_states
    return np.stack([state[0].mean(dim=0).numpy() for state in states])


def assert_same_embeddings(encoder: Encoder, model: Any, folder: Path) -> None:
    ours, theirs = encoder.embed([clip()])["mean"][:, 0], mean_states(model, folder)
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


def save_as_in_2020(folder: Path) -> Any:
    """Save a small model in the form of facebook/wav2vec2-base; return its encoder."""
    name, settings = FAMILIES["wav2vec2-group"]
    quantizer = {"num_codevectors_per_group": 8, "codevector_dim": 16, "proj_codevector_dim": 16}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings, **quantizer)
    model = transformers.Wav2Vec2ForPreTraining(config)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config.architectures = ["Wav2Vec2ForPreTraining"]
    config.save_pretrained(folder)
    renamed = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weights
        for key, weights in model.state_dict().items()
    }
    assert sum(key.endswith(("conv.weight_g", "conv.weight_v")) for key in renamed) == 2
    assert any(key.startswith("quantizer.") for key in renamed)
    torch.save(renamed, folder / "pytorch_model.bin")
    return model.wav2vec2


def test_weights_in_the_form_of_2020_give_the_embeddings_of_transformers(
    hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    model = save_as_in_2020(folder)
    for other in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "vocab.json"):
        (folder / other).write_bytes(b"not needed")
    commit = hub.push_folder(NAME, folder)
    encoder = load_encoder(NAME)
    assert (encoder.identity.encoder, encoder.identity.revision) == (NAME, commit)
    assert_same_embeddings(encoder, model, folder)
    assert {file for _, file in hub.requested_files()} == {*SETTINGS, "pytorch_model.bin"}


def test_a_missing_weight_of_the_encoder_is_refused_and_one_of_the_quantizer_is_not(
    hub: Hub, tmp_path: Path
) -> None:
    save_as_in_2020(tmp_path / "old")
    path = tmp_path / "old" / "pytorch_model.bin"
    weights = torch.load(path)
    del weights["project_q.weight"]
    torch.save(weights, path)
    hub.push_folder("lab/no-quantizer", path.parent)
    load_encoder("lab/no-quantizer")
    del weights["wav2vec2.encoder.layers.1.attention.k_proj.weight"]
    torch.save(weights, path)
    hub.push_folder("lab/no-key", path.parent)
    with pytest.raises(UserError, match=r"lab/no-key.*layers\.1\.attention\.k_proj\.weight"):
        load_encoder("lab/no-key")


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_downloaded_weights_is_not_run(hub: Hub, tmp_path: Path) -> None:
    save_as_in_2020(tmp_path / "old")
    path = tmp_path / "old" / "pytorch_model.bin"
    torch.save(torch.load(path) | {"more": MakesFolder(tmp_path / "was-run")}, path)
    hub.push_folder(NAME, path.parent)
    with pytest.raises(UserError, match=NAME):
        load_encoder(NAME)
    assert not (tmp_path / "was-run").exists()


def test_only_safetensors_are_downloaded_where_there_are_both(hub: Hub, copy: Path) -> None:
    hub.push_folder(NAME, copy, **{"pytorch_model.bin": b"not needed"})
    encoder = load_encoder(NAME)
    assert {file for _, file in hub.requested_files()} == {*SETTINGS, "model.safetensors"}
    plain = load_encoder(str(copy)).identity
    assert encoder.identity.weights_sha256 == plain.weights_sha256
    assert encoder.identity.config_sha256 == plain.config_sha256
    assert_same_embeddings(encoder, transformers.AutoModel.from_pretrained(copy), copy)


def test_sharded_weights_are_downloaded_by_their_index(hub: Hub, copy: Path) -> None:
    model = transformers.AutoModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="50KB")
    shards = {file.name for file in copy.glob("model-*.safetensors")}
    assert len(shards) > 1
    hub.push_folder(NAME, copy, **{"pytorch_model.bin": b"not needed"})
    assert_same_embeddings(load_encoder(NAME), model, copy)
    expected = {*SETTINGS, *shards, "model.safetensors.index.json"}
    assert {file for _, file in hub.requested_files()} == expected


def test_a_branch_is_resolved_to_a_commit_and_all_files_are_of_that_commit(
    hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.push_folder(NAME, copy)
    before = load_encoder(NAME).identity
    change_weights(copy)
    second = hub.push_folder(NAME, copy)
    after = load_encoder(NAME).identity
    assert (before.revision, after.revision) == (first, second)
    assert before.weights_sha256 != after.weights_sha256
    assert load_encoder(NAME, revision=first).identity == before
    weights = [commit for commit, file in hub.requested_files() if file == "model.safetensors"]
    assert weights == [first, second]
    # Offline, the branch is the commit that was last downloaded.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_encoder(NAME).identity == after
    assert load_encoder(NAME, revision=first).identity == before


def test_the_hub_is_not_asked_for_a_commit_that_is_in_the_cache(hub: Hub, copy: Path) -> None:
    commit = hub.push_folder(NAME, copy)
    before = load_encoder(NAME).identity
    hub.requests.clear()
    assert load_encoder(NAME, revision=commit).identity == before
    assert hub.requests == []
    # What an interrupted download lacks is still downloaded.
    (weights,) = (copy.parent / "hub").glob("models--*/snapshots/*/model.safetensors")
    weights.unlink()
    assert load_encoder(NAME, revision=commit).identity == before


def test_a_hub_that_is_down_is_replaced_by_the_local_cache(
    hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch, serpipe: Command
) -> None:
    hub.push_folder(NAME, copy)
    before = load_encoder(NAME).identity
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        connect(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
        assert load_encoder(NAME).identity == before
        with pytest.raises(MachineError, match="lab/other"):
            load_encoder("lab/other")
        assert serpipe("extract", "--encoder", "lab/other").code == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_refused_with_the_page_to_visit(
    hub: Hub, copy: Path, serpipe: Command, status: int
) -> None:
    hub.push_folder(NAME, copy)
    hub.repos[NAME].gated = status
    done = serpipe("extract", "--encoder", NAME)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert f"{hub.url}/{NAME}" in last and "hf auth login" in last


def test_a_model_or_revision_that_does_not_exist_is_refused(
    hub: Hub, copy: Path, serpipe: Command
) -> None:
    hub.push_folder(NAME, copy)
    for wrong in (
        ("lab/nothing",),
        (NAME, "--revision", "nowhere"),
        (NAME, "--revision", "a/../b"),
    ):
        done = serpipe("extract", "--encoder", *wrong)
        assert done.code == 2
        assert wrong[-1] in done.err.splitlines()[-1]


@pytest.mark.parametrize("missing", [*sorted(SETTINGS), "model.safetensors"])
def test_a_file_that_the_model_lacks_is_named(hub: Hub, copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    hub.push_folder(NAME, copy)
    with pytest.raises(UserError, match=rf"{NAME}.*{missing}"):
        load_encoder(NAME)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_is_too_large_is_refused_before_it_is_downloaded(
    hub: Hub, copy: Path, file: str
) -> None:
    hub.push_folder(NAME, copy)
    hub.repos[NAME].stated[file] = MAX_WEIGHT_BYTES + 1
    with pytest.raises(UserError, match=str(MAX_WEIGHT_BYTES + 1)):
        load_encoder(NAME)
    assert file not in {name for _, name in hub.requested_files()}


def test_a_connection_that_breaks_is_resumed_and_whole_files_are_kept_for_the_next_call(
    hub: Hub, copy: Path
) -> None:
    model = transformers.AutoModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="50KB")
    first, second, *_ = sorted(file.name for file in copy.glob("model-*.safetensors"))
    hub.push_folder(NAME, copy)
    # The first breaks off once; the second does, and then the server refuses to go on.
    hub.breaks = {first: [1000], second: [1000, 0]}
    with pytest.raises(MachineError, match=NAME):
        load_encoder(NAME)
    assert_same_embeddings(load_encoder(NAME), model, copy)
    files = [file for _, file in hub.requested_files()]
    assert (files.count(first), files.count(second)) == (2, 3)


def test_a_terminal_shows_the_progress_of_a_download_and_a_pipe_nothing(
    hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push_folder(NAME, copy)
    hub.push_folder("lab/again", copy, **{"model.safetensors": altered(copy)})
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stderr", piped)
    load_encoder(NAME)
    assert piped.getvalue() == ""
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with os.fdopen(end, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        load_encoder("lab/again")
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "model.safetensors" in shown and "100%" in shown


def altered(folder: Path) -> bytes:
    change_weights(folder)
    return (folder / "model.safetensors").read_bytes()


def test_a_cache_of_the_same_weights_is_continued_whatever_revision_it_records(
    hub: Hub, copy: Path, few_clips: Path, tmp_path: Path
) -> None:
    commit = hub.push_folder(NAME, copy)
    encoder = load_encoder(NAME)
    # Older versions recorded the branch.
    older = replace(encoder, identity=replace(encoder.identity, revision="main"))
    clips, out = scan(few_clips, RAVDESS).clips, tmp_path / "c.h5"
    before = extract_with(older, clips[:20], out).cache
    after = extract_with(encoder, clips, out)
    assert (after.computed, after.reused) == (20, 20)
    assert after.cache.key == before.key
    again = extract_with(encoder, clips, tmp_path / "beside.h5")
    assert again.copied == {"c.h5": 40}
    assert again.cache.key["revision"] == commit
    # Other weights under the same branch are never added to it.
    change_weights(copy)
    hub.push_folder(NAME, copy)
    changed = load_encoder(NAME)
    with pytest.raises(OtherCacheError, match=changed.identity.revision[:8]):
        extract_with(changed, clips, out)


def test_the_command_line_downloads_from_the_endpoint_of_the_environment(
    small_encoder: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub() as hub:
        commit = hub.push_folder(NAME, small_encoder)
        for name, value in (
            ("HF_ENDPOINT", hub.url),
            ("HF_HOME", str(tmp_path / "home")),
            ("HF_HUB_OFFLINE", "0"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        actor = min(few_clips.iterdir())
        done = run_python(
            *("-m", "serpipe", "extract", "--data", f"ravdess={actor}"),
            *("--encoder", NAME, "--out", "c.h5"),
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" not in done.stderr  # no bar
    with h5py.File(tmp_path / "c.h5") as file:
        assert json.loads(file.attrs["key"])["revision"] == commit
    assert (tmp_path / "home" / "hub" / "models--lab--encoder" / "snapshots" / commit).is_dir()
