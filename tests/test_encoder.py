"""Layers are what transformers computes, for every family; a wrong checkpoint does not load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from serpipe.errors import MachineError, UserError
from serpipe.features.audio import Waveform, read_waveform
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.families import family_of
from serpipe.features.front_end import LogMelFrontEnd, normalise, prepare
from serpipe.features.pooling import pool

from .conftest import FAMILIES, save_encoder
from .messages import raises_about

Make = Callable[[str], Path]


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def noise(n_samples: int, seed: int = 0) -> Waveform:
    return np.random.default_rng(seed).standard_normal(n_samples, dtype=np.float32)


def plain(folder: Path, waveform: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """Mean-pool one clip the way everybody does it with transformers alone."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
    whisper = model.config.model_type == "whisper"
    with torch.no_grad():
        out = (model.encoder if whisper else model)(**inputs, output_hidden_states=True)
    states = [state[0, :frames].mean(dim=0).numpy() for state in out.hidden_states]
    layers = {str(number): state for number, state in enumerate(states)}
    final = out.last_hidden_state[0, :frames].mean(dim=0).numpy()
    if whisper:  # transformers overwrites the last block's output by the normed one
        del layers[str(len(states) - 1)]
    if whisper or getattr(model.config, "do_stable_layer_norm", False):
        layers["final_norm"] = final
    return layers


SHORTEST, LONG = 400, 35 * 16000


@pytest.mark.parametrize("n_samples", [SHORTEST, 25000, LONG])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_those_of_plain_transformers(
    family_encoder: Make, family: str, n_samples: int
) -> None:
    folder = family_encoder(family)
    encoder = load_encoder(str(folder))
    waveform = noise(min(n_samples, encoder.maximum_samples or n_samples))
    ours = dict(zip(encoder.identity.layers, encoder.embed([waveform])["mean"][:, 0], strict=True))
    theirs = plain(folder, waveform, encoder.front_end.frames(len(waveform)))
    assert set(theirs) <= set(ours)
    assert ("final_norm" in theirs) == ("final_norm" in ours)
    assert set(ours) - {"final_norm"} == {"0", "1", "2", "3"}
    tolerance = family_of(encoder.identity.model_type).tolerance
    for layer, expected in theirs.items():
        assert relative_error(ours[layer], expected) < tolerance, layer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_has_the_same_embedding_in_a_batch_as_alone(
    family_encoder: Make, family: str
) -> None:
    """Of any lengths, the shortest and 35 s among them, and quiet beside loud."""
    encoder = load_encoder(str(family_encoder(family)), poolings=("mean", "std"))
    longest = min(LONG, encoder.maximum_samples or LONG)
    mixed = [noise(n, seed) * (1 + seed) for seed, n in enumerate([3000, 20000, SHORTEST, longest])]
    equal = [noise(20000, seed) * (1 + seed) for seed in range(3)]
    for waveforms in (mixed, equal):
        batch = encoder.embed(waveforms)
        for position, waveform in enumerate(waveforms):
            alone = encoder.embed([waveform])
            for pooling, values in alone.items():
                for layer, one in enumerate(values[:, 0]):
                    assert np.isfinite(one).all()
                    if np.linalg.norm(one) > 1e-3:  # the std of a single frame is zero
                        assert relative_error(batch[pooling][layer, position], one) < 1e-4


@pytest.mark.parametrize("family", ["wav2vec2-group", "wav2vec2-layer-stable", "data2vec-audio"])
def test_padding_would_change_the_numbers_if_it_were_not_masked(
    family_encoder: Make, family: str
) -> None:
    """The exactness test can fail: without our masking it does."""
    encoder = load_encoder(str(family_encoder(family)))
    short, long = noise(8000), noise(20000, 1)
    alone = encoder.embed([short])["mean"][:, 0]
    unmasked = np.pad(prepare(encoder.front_end, short), (0, 12000))
    assert relative_error(encoder._run(encoder._inputs([unmasked]))["mean"][:, 0], alone) > 0.01
    assert relative_error(encoder.embed([short, long])["mean"][:, 0], alone) < 1e-4


@pytest.mark.parametrize("family", ["wav2vec2-group", "hubert-layer-stable", "whisper"])
def test_long_clips_are_cut_into_chunks_pooled_by_frames(family_encoder: Make, family: str) -> None:
    whole = load_encoder(str(family_encoder(family)), poolings=("mean", "std"))
    cut = load_encoder(str(family_encoder(family)), poolings=("std", "mean"), max_seconds=10)
    short, long = noise(5 * 16000), noise(28 * 16000 + 7, 1)
    together = cut.embed([short, long])
    np.testing.assert_array_equal(
        together["std"][:, 0], whole.embed([short])["std"][:, 0]
    )  # what is not cut is not changed
    prepared = np.array_split(prepare(cut.front_end, long), 3)
    frames = np.array([cut.front_end.frames(len(part)) for part in prepared], dtype=float)
    parts = [whole._run(whole._inputs([part])) for part in prepared]
    mean = sum(n * part["mean"][:, 0] for n, part in zip(frames, parts, strict=True)) / frames.sum()
    square = sum(
        n * (part["std"][:, 0].astype(float) ** 2 + part["mean"][:, 0].astype(float) ** 2)
        for n, part in zip(frames, parts, strict=True)
    )
    std = np.sqrt(square / frames.sum() - mean.astype(float) ** 2)
    np.testing.assert_allclose(together["mean"][:, 1], mean, atol=1e-5)
    np.testing.assert_allclose(together["std"][:, 1], std, atol=1e-4)


def test_chunks_take_whisper_past_its_window(family_encoder: Make) -> None:
    folder = str(family_encoder("whisper"))
    assert load_encoder(folder).maximum_samples == 480000
    encoder = load_encoder(folder, max_seconds=30)
    assert encoder.maximum_samples is None
    assert encoder.embed([noise(LONG)])["mean"].shape == (5, 1, 32)
    for wrong in (0.5, 31.0):
        with raises_about(UserError, f"--max-seconds {wrong:g}", folder, "30 s"):
            load_encoder(folder, max_seconds=wrong)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("family", ["wav2vec2-group", "wavlm-layer-stable", "whisper"])
def test_half_precision_is_close_and_pooled_in_float32(
    family_encoder: Make, family: str, precision: str
) -> None:
    exact = load_encoder(str(family_encoder(family)))
    half = load_encoder(str(family_encoder(family)), precision=precision)
    assert half.identity == exact.identity  # the hash is of the weights as they were saved
    waveforms = [noise(16000), noise(9000, 1)]
    ours, theirs = half.embed(waveforms)["mean"], exact.embed(waveforms)["mean"]
    assert ours.dtype == np.float32
    assert 0 < relative_error(ours, theirs) < 0.05


def test_compiled_blocks_give_the_same_numbers(small_encoder: Path) -> None:
    plainly = load_encoder(str(small_encoder))
    compiled = load_encoder(str(small_encoder), compile_blocks=True)
    for n_samples in (8000, 12000):
        ours, theirs = (e.embed([noise(n_samples)])["mean"] for e in (compiled, plainly))
        assert relative_error(ours, theirs) < 1e-4


def test_wav2vec2_base_at_its_real_size(tmp_path: Path, sample: Path) -> None:
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert encoder.identity.layers == tuple(str(number) for number in range(13))
    assert encoder.identity.width == 768
    assert encoder.front_end.minimum_samples == 400
    clips = [read_waveform(clip, 16000)[0] for clip in sorted((sample / "Actor_01").iterdir())[:3]]
    shortest = min(map(len, clips))
    clips = [clip[:shortest] for clip in clips]
    batch = encoder.embed(clips)["mean"]
    assert batch.shape == (13, 3, 768)
    for position, clip in enumerate(clips):
        alone = encoder.embed([clip])["mean"][:, 0]
        for layer in range(13):
            assert relative_error(batch[layer, position], alone[layer]) < 1e-4


def test_the_built_in_encoder_is_the_pretrained_checkpoint(shared: Path, sample: Path) -> None:
    built_in = load_encoder("whisper-tiny.en")
    checkpoint = load_encoder(str(shared / "models" / "whisper-tiny.en"))
    assert built_in.identity.weights_sha256 == checkpoint.identity.weights_sha256
    assert built_in.identity.layers == ("0", "1", "2", "3", "4", "final_norm")
    waveform, _ = read_waveform(next((sample / "Actor_03").iterdir()), 16000)
    theirs = plain(
        shared / "models" / "whisper-tiny.en", waveform, built_in.front_end.frames(len(waveform))
    )
    ours = dict(
        zip(built_in.identity.layers, built_in.embed([waveform])["mean"][:, 0], strict=True)
    )
    for layer, expected in theirs.items():
        assert relative_error(ours[layer], expected) < 1e-4, layer


def test_normalisation_is_that_of_transformers_on_one_clip() -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    waveform = noise(16000) * np.float32(0.1) + np.float32(3)
    theirs = extractor(waveform, sampling_rate=16000, return_tensors="np").input_values[0]
    np.testing.assert_allclose(normalise(waveform), theirs, atol=1e-5)


@pytest.mark.parametrize("flag", [True, False])
def test_normalisation_follows_the_checkpoint(tmp_path: Path, flag: bool) -> None:
    encoder = load_encoder(str(save_encoder(tmp_path, "wav2vec2-layer-stable", do_normalize=flag)))
    assert encoder.identity.normalise is flag
    waveform = 5 * noise(16000)
    scale = prepare(encoder.front_end, waveform).std()
    assert float(scale) == pytest.approx(1.0 if flag else 5.0, rel=0.02)


def test_only_frames_of_the_clip_are_pooled() -> None:
    states = torch.arange(12.0).reshape(1, 6, 2).repeat(2, 1, 1)
    states[1, 3:] = 1000
    mean, std = pool(states, torch.tensor([6, 3]), ("mean", "std"))
    np.testing.assert_allclose(mean, [[5, 6], [2, 3]])
    np.testing.assert_allclose(std[1], np.std([[0, 1], [2, 3], [4, 5]], axis=0), rtol=1e-6)
    single = pool(states, torch.tensor([1, 1]), ("std",))[0]
    assert (single == 0).all()


def test_whisper_pools_ceil_of_samples_over_320() -> None:
    front_end = LogMelFrontEnd(transformers.WhisperFeatureExtractor(), 320)
    assert [front_end.frames(n) for n in (400, 640, 641, 480000)] == [2, 2, 3, 1500]


def test_a_dropped_layer_is_noticed(small_encoder: Path) -> None:
    encoder = load_encoder(str(small_encoder))
    stack: Any = encoder.model.encoder
    del stack.layers[1]
    with raises_about(RuntimeError, "layers", "'0', '1', '3'"):
        encoder.embed([noise(16000)])


def test_the_encoder_has_no_gradients_layer_drop_or_masking(small_encoder: Path) -> None:
    encoder = load_encoder(str(small_encoder))
    assert not any(module.training for module in encoder.model.modules())
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    first, second = encoder.embed([noise(16000)]), encoder.embed([noise(16000)])
    np.testing.assert_array_equal(first["mean"], second["mean"])


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_weight(folder: Path, part: str) -> str:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if part in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("family", ["wav2vec2-group", "whisper"])
def test_missing_weights_are_refused(tmp_path: Path, family: str) -> None:
    save_encoder(tmp_path, family)
    part = "encoder.layers.1.fc1.weight" if family == "whisper" else "layers.1.attention.k_proj.w"
    drop_weight(tmp_path, part)
    with raises_about(UserError, tmp_path, 1) as caught:
        load_encoder(str(tmp_path))
    assert part in str(caught.value)


def test_a_missing_mask_embedding_is_accepted(tmp_path: Path) -> None:
    save_encoder(tmp_path, "wav2vec2-group")
    drop_weight(tmp_path, "masked_spec_embed")  # only training uses it
    load_encoder(str(tmp_path))


def test_weights_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path, "wav2vec2-group")
    edit_json(tmp_path / "config.json", intermediate_size=128)
    with raises_about(UserError, tmp_path):
        load_encoder(str(tmp_path))


def test_without_its_preprocessor_configuration_an_encoder_does_not_load(tmp_path: Path) -> None:
    save_encoder(tmp_path, "wav2vec2-group")
    (tmp_path / "preprocessor_config.json").unlink()
    with raises_about(UserError, tmp_path, "preprocessor_config.json"):
        load_encoder(str(tmp_path))


def test_a_model_that_is_not_a_speech_encoder_is_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path, "wav2vec2-group")
    edit_json(tmp_path / "config.json", model_type="bert")
    with raises_about(UserError, tmp_path, "'bert'", "wav2vec2"):
        load_encoder(str(tmp_path))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(tmp_path, "wav2vec2-group")
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'was-run')!r}, 'w')\n"
        "from transformers import Wav2Vec2Config as Config, Wav2Vec2Model as Model\n"
        "from transformers import Wav2Vec2FeatureExtractor as Extractor\n"
    )
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit_json(tmp_path / "config.json", model_type="unknown", auto_map=code)
    code = {"AutoFeatureExtractor": "evil.Extractor"}
    edit_json(tmp_path / "preprocessor_config.json", auto_map=code)
    monkeypatch.setattr("builtins.input", lambda *args: "y")  # what transformers would ask
    monkeypatch.setattr("signal.alarm", lambda *args: None)
    with pytest.raises(UserError):
        load_encoder(str(tmp_path))
    edit_json(tmp_path / "config.json", model_type="wav2vec2")
    edit_json(tmp_path / "preprocessor_config.json", feature_extractor_type="Unknown")
    with pytest.raises(UserError):
        load_encoder(str(tmp_path))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("damage", ["cut off", "git-lfs pointer", "not numbers"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    weights = save_encoder(tmp_path, "wav2vec2-group") / "model.safetensors"
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "git-lfs pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        tensors = load_file(weights)
        tensors["encoder.layer_norm.weight"][:] = float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})
    with raises_about(UserError, tmp_path):
        load_encoder(str(tmp_path))


def test_a_whisper_with_another_preprocessor_is_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path, "whisper")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with raises_about(UserError, tmp_path):
        load_encoder(str(tmp_path))


def test_an_impossible_hub_id_is_a_user_error() -> None:
    with raises_about(UserError, "foo/bar baz", "--encoder"):
        load_encoder("foo/bar baz")


def test_the_identity_distinguishes_configurations(tmp_path: Path, small_encoder: Path) -> None:
    first = load_encoder(str(small_encoder)).identity
    folder = save_encoder(tmp_path, "wav2vec2-group")
    edit_json(folder / "config.json", hidden_act="relu")
    second = load_encoder(str(folder)).identity
    assert first.weights_sha256 == second.weights_sha256
    assert first.config_sha256 != second.config_sha256
    shape = load_encoder(str(save_encoder(tmp_path / "again", "wav2vec2-group"))).identity
    assert first.config_sha256 == shape.config_sha256


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all"])
def test_a_folder_that_does_not_exist_is_refused(name: str) -> None:
    with raises_about(UserError, name, "--encoder"):
        load_encoder(name)


def test_a_hub_id_without_network_is_a_machine_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with raises_about(MachineError, "facebook/wav2vec2-base", "--encoder whisper-tiny.en"):
        load_encoder("facebook/wav2vec2-base")


def test_the_weights_hash_depends_on_values_alone(tmp_path: Path, small_encoder: Path) -> None:
    def hash_of(encoder: Encoder) -> str:
        return encoder.identity.weights_sha256

    same = save_encoder(tmp_path / "same", "wav2vec2-group")
    assert hash_of(load_encoder(str(same))) == hash_of(load_encoder(str(small_encoder)))
    weights = load_file(same / "model.safetensors")
    weights["feature_projection.projection.bias"][0] += 1e-3
    save_file(weights, same / "model.safetensors", metadata={"format": "pt"})
    assert hash_of(load_encoder(str(same))) != hash_of(load_encoder(str(small_encoder)))
