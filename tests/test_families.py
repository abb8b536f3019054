"""Every family of encoders: its layers are those of transformers, in a batch and alone."""

import functools
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from serpipe.errors import UserError
from serpipe.features.audio import Waveform
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.checkpoint_limits import check_config, check_extractor, read_settings
from serpipe.features.encoder import load_encoder
from serpipe.features.families import FAMILIES, Family, family_of
from serpipe.features.families.table import families_table
from serpipe.pipeline.finetune.classifier import load_classifier
from serpipe.pipeline.finetune.kinds import EncoderWithHead
from serpipe.pipeline.finetune.options import TrainingOptions

from .conftest import ROOT, Command, made_once
from .hub import Hub
from .messages import assert_refused, raises_about
from .test_encoder import noise, relative_error
from .test_hub import hub  # noqa: F401

_BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "layerdrop": 0.5,  # would drop blocks if it were not switched off
}
_CONVOLUTIONS = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.5,
}
_SEW = {
    **_BLOCKS,
    **_CONVOLUTIONS,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
}
_TOWER = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "encoder_layerdrop": 0.5,
}
_TEXT = {
    "model_type": "qwen2",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SWIN = {
    "depths": [1, 1, 2, 2],
    "num_attention_heads": [1, 2, 4, 4],
    "patch_embeds_hidden_size": 8,
    "hidden_size": 64,
}


@dataclass(frozen=True)
class Case:
    """A small random encoder, and the plain way to run it with transformers alone."""

    model_type: str
    model_class: str
    extractor: Callable[[], Any]
    settings: Mapping[str, Any]
    #: Hidden states of all layers of one clip, from the model as it was built and its extractor.
    plain: Callable[[Any, Any, Waveform], Mapping[str, torch.Tensor]] = field(
        default_factory=lambda: plain
    )
    #: The encoder within the model.
    encoder: Callable[[Any], Any] = lambda model: model

    def build(self) -> Any:
        """Return the model, with random weights."""
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[self.model_type](**self.settings)
        return spread(getattr(transformers, self.model_class)(config).eval())


def spread(model: Any) -> Any:
    """Give the statistics and scales of norms random values, as in a trained model."""
    for name, tensor in model.state_dict().items():
        if "norm" in name.lower() and tensor.is_floating_point():
            tensor.add_(0.2 * torch.rand(tensor.shape))
    return model


def plain(model: Any, extractor: Any, waveform: Waveform) -> Mapping[str, torch.Tensor]:
    """Run a model on one clip, with the mask of its feature extractor."""
    inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    # The states of the last block may have been replaced by those of the norm.
    layers = {str(number): states[0] for number, states in enumerate(out.hidden_states[:-1])}
    last = "final_norm" if has_final_norm(model) else str(len(out.hidden_states) - 1)
    return layers | {last: out.last_hidden_state[0]}


def plain_blocks(model: Any, extractor: Any, waveform: Waveform) -> Mapping[str, torch.Tensor]:
    """Return the inputs and outputs of blocks, of an encoder that changes the last one."""
    inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    return {str(number): states[0] for number, states in enumerate(out.hidden_states)}


def plain_patches(model: Any, extractor: Any, waveform: Waveform) -> Mapping[str, torch.Tensor]:
    """Run an AST on one clip, and average its 12 patches of each step in time."""
    inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    states = {str(number): states for number, states in enumerate(out.hidden_states)}
    states["final_norm"] = out.last_hidden_state
    return {
        layer: torch.stack([each[0, 2 + step :: 101].mean(dim=0) for step in range(101)])
        for layer, each in states.items()
    }


def plain_clap(model: Any, extractor: Any, waveform: Waveform) -> Mapping[str, torch.Tensor]:
    """Run CLAP's audio encoder on one clip; its own output is the mean of ``final_norm``."""
    inputs = extractor(waveform, sampling_rate=48000, return_tensors="pt")
    inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    # The states after the third and the fourth stage: the input and the output of the last blocks,
    # four parts of the time above each other, two patches high.
    first, last = (
        out.hidden_states[index][0].unflatten(1, (4, 2)).mean(dim=2).flatten(1).T
        for index in (3, 4)
    )
    final = out.last_hidden_state[0].mean(dim=1).T
    torch.testing.assert_close(final.mean(dim=0), out.pooler_output[0])
    return {"0": first, "2": last, "final_norm": final}


def has_final_norm(model: Any) -> bool:
    return "final_norm" in family_of(model.config.model_type).layers


waveforms_for = functools.partial(
    transformers.Wav2Vec2FeatureExtractor, return_attention_mask=True, do_normalize=True
)
CASES = {
    "w2v-bert": Case(
        "wav2vec2-bert", "Wav2Vec2BertModel",
        lambda: transformers.SeamlessM4TFeatureExtractor(padding_value=1), _BLOCKS,
    ),
    "w2v-bert-rotary": Case(
        "wav2vec2-bert", "Wav2Vec2BertModel", transformers.SeamlessM4TFeatureExtractor,
        {**_BLOCKS, "position_embeddings_type": "rotary"},
    ),
    "conformer": Case(
        "wav2vec2-conformer", "Wav2Vec2ConformerModel", waveforms_for,
        {**_BLOCKS, **_CONVOLUTIONS, "max_source_positions": 100},
    ),
    "conformer-rotary-layer": Case(
        "wav2vec2-conformer", "Wav2Vec2ConformerModel", waveforms_for,
        {**_BLOCKS, **_CONVOLUTIONS, "position_embeddings_type": "rotary",
         "feat_extract_norm": "layer"},
    ),
    "sew": Case("sew", "SEWModel", waveforms_for, _SEW, plain_blocks),
    "sew-3": Case(
        "sew", "SEWModel", waveforms_for, {**_SEW, "squeeze_factor": 3, "conv_dim": (32,) * 7,
                                           "feat_extract_norm": "layer"}, plain_blocks,
    ),
    "sew-d": Case("sew-d", "SEWDModel", waveforms_for, _SEW, plain_blocks),
    "qwen2-audio": Case(
        "qwen2_audio", "Qwen2AudioForConditionalGeneration",
        lambda: transformers.WhisperFeatureExtractor(feature_size=128),
        {"audio_config": {"model_type": "qwen2_audio_encoder", **_TOWER}, "text_config": _TEXT},
        encoder=lambda model: model.model.audio_tower,
    ),
    "voxtral": Case(
        "voxtral", "VoxtralForConditionalGeneration",
        lambda: transformers.WhisperFeatureExtractor(feature_size=128),
        {"audio_config": {"model_type": "voxtral_encoder", **_BLOCKS},
         "text_config": {**_TEXT, "model_type": "llama", "head_dim": 8}},
        encoder=lambda model: model.model.audio_tower,
    ),
    "voxtral-encoder": Case(
        "voxtral_encoder", "VoxtralEncoder",
        lambda: transformers.WhisperFeatureExtractor(feature_size=128), _BLOCKS,
    ),
    "ast": Case(
        "audio-spectrogram-transformer", "ASTModel", transformers.ASTFeatureExtractor, _BLOCKS,
        plain_patches,
    ),
    "clap": Case(
        "clap", "ClapModel",
        lambda: transformers.ClapFeatureExtractor(truncation="rand_trunc"),
        {"audio_config": _SWIN, "text_config": _TEXT | {"model_type": "clap_text_model"}},
        plain_clap, encoder=lambda model: model.audio_model,
    ),
    "clap-fused": Case(
        "clap_audio_model", "ClapAudioModelWithProjection", transformers.ClapFeatureExtractor,
        _SWIN | {"enable_fusion": True}, plain_clap, encoder=lambda model: model.audio_model,
    ),
    "moonshine": Case(
        "moonshine", "MoonshineForConditionalGeneration",
        functools.partial(waveforms_for, do_normalize=False),
        {"hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 3,
         "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 4,
         "decoder_num_attention_heads": 2, "vocab_size": 50},
        encoder=lambda model: model.model.encoder,
    ),
    "parakeet": Case(
        "parakeet_ctc", "ParakeetForCTC", transformers.ParakeetFeatureExtractor,
        {"encoder_config": {**_BLOCKS, "subsampling_conv_channels": 8}, "vocab_size": 20,
         "pad_token_id": 19},
        encoder=lambda model: model.encoder,
    ),
}  # fmt: skip


@pytest.fixture
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the encoder of a case; made once."""

    def save(name: str) -> Path:
        def make(folder: Path) -> None:
            case = CASES[name]
            case.build().save_pretrained(folder / name)
            case.extractor().save_pretrained(folder / name)

        return made_once(tmp_path_factory, f"family-{name}", make) / name

    return save


@pytest.mark.parametrize("name", CASES)
def test_layers_are_those_of_plain_transformers(saved: Callable[[str], Path], name: str) -> None:
    """For the shortest clip, and for some of up to 35 s, with odd numbers of samples and frames."""
    case = CASES[name]
    encoder = load_encoder(str(saved(name)), poolings=("mean", "std"))
    family = family_of(case.model_type)
    norm_frames = family.stack(encoder.model).norm_frames
    model, extractor = case.encoder(case.build()), case.extractor()
    rate, front_end = encoder.identity.sampling_rate, encoder.front_end
    longest = front_end.maximum_samples or 35 * rate
    for n_samples in (front_end.minimum_samples, rate // 2 + 161, 3 * rate + 7, longest):
        waveform = 0.1 * noise(n_samples)
        theirs = case.plain(model, extractor, waveform)
        ours = encoder.embed([waveform])
        for index, layer in enumerate(encoder.identity.layers):
            n_frames = front_end.frames(n_samples)
            if layer == "final_norm":
                n_frames = norm_frames(n_frames)
            if layer in theirs:
                std, mean = torch.std_mean(theirs[layer][:n_frames], dim=0, unbiased=False)
                for pooling, expected in (("mean", mean), ("std", std)):
                    if expected.norm() > 1e-3:  # the std of a single frame is zero
                        error = relative_error(ours[pooling][index, 0], expected.numpy())
                        assert error < family.tolerance, (layer, pooling, n_samples)
        assert len(theirs.keys() & set(encoder.identity.layers)) >= 3


@pytest.mark.parametrize("name", CASES)
def test_a_clip_has_the_same_embedding_in_a_batch_as_alone(
    saved: Callable[[str], Path], name: str
) -> None:
    """For clips of many lengths, the shortest and the longest among them."""
    encoder = load_encoder(str(saved(name)), poolings=("mean", "std"))
    rate, front_end = encoder.identity.sampling_rate, encoder.front_end
    longest = min(front_end.maximum_samples or 35 * rate, 35 * rate)
    shortest = front_end.minimum_samples
    for lengths in (
        [shortest, shortest + 1, rate // 5 + 3, rate, rate + 161, 2 * rate + 350],
        [rate // 3, longest],
    ):
        waveforms = [noise(n, seed) * 0.1 * (1 + seed) for seed, n in enumerate(lengths)]
        batch = encoder.embed(waveforms)
        for index, waveform in enumerate(waveforms):
            for pooling, alone in encoder.embed([waveform]).items():
                for layer, expected in enumerate(alone[:, 0]):
                    assert np.isfinite(expected).all()
                    if np.linalg.norm(expected) > 1e-3:  # the std of a single frame is zero
                        error = relative_error(batch[pooling][layer, index], expected)
                        assert error < 1e-4, (pooling, layer, lengths[index])


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_close(saved: Callable[[str], Path], name: str) -> None:
    exact = load_encoder(str(saved(name)))
    half = load_encoder(str(saved(name)), precision="bf16")
    rate = exact.identity.sampling_rate
    waveforms = [0.1 * noise(rate), 0.1 * noise(rate // 2 + 161, 1)]
    error = relative_error(half.embed(waveforms)["mean"], exact.embed(waveforms)["mean"])
    assert 0 < error < 0.05


@pytest.mark.parametrize("name", ["w2v-bert-rotary", "conformer", "conformer-rotary-layer"])
def test_threads_with_clips_of_other_lengths_get_their_own_positions(
    saved: Callable[[str], Path], name: str
) -> None:
    """Extraction runs many clips at once through one encoder."""
    model: Any = load_encoder(str(saved(name))).model
    lengths = [10 + 7 * n for n in range(40)] * 40
    expected = {n: model.encoder.embed_positions(torch.zeros(1, n, 32)) for n in lengths}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            states = [torch.zeros(1, n, 32) for n in lengths]
            tables = list(threads.map(model.encoder.embed_positions, states))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(t, expected[n]) for t, n in zip(tables, lengths, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_missing_weights_are_refused(
    saved: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(saved(name), tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    family = family_of(CASES[name].model_type)
    part = family.parts.get(CASES[name].model_type)
    prefixes = part.prefixes if part else ("",)
    prefix = next(p for p in prefixes if any(key.startswith(p) for key in weights))
    own = [key for key in weights if key.startswith(prefix)]
    key = next(k for k in own if re.search(family.block_pattern, k.removeprefix(prefix)))
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with raises_about(UserError, folder, 1):
        load_encoder(str(folder))


@pytest.mark.parametrize("name", CASES)
def test_extreme_values_are_refused_before_anything_is_built(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also in the configuration of an encoder within a larger model."""
    folder = shutil.copytree(saved(name), tmp_path / "encoder")
    family = family_of(CASES[name].model_type)
    part = family.parts.get(CASES[name].model_type)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", pytest.fail)
    limits = {
        "config.json": family.config_limits,
        "preprocessor_config.json": family.extractor_limits,
    }
    for file, table in limits.items():
        whole = (folder / file).read_text()
        content = json.loads(whole)
        key = part.config_key if part and file == "config.json" else None
        for value in [*table.integers, *table.floats, *table.lists, *table.choices]:
            for extreme in (10**9, -(10**9), "x", {"a": 1}):
                changed = content | {value: extreme}
                if key:
                    changed = content | {key: content[key] | {value: extreme}}
                (folder / file).write_text(json.dumps(changed))
                with raises_about(UserError, folder / file, value):
                    load_encoder(str(folder))
        (folder / file).write_text(whole)


@pytest.mark.parametrize(
    ("family", "model_type"), [(each, kind) for each in FAMILIES for kind in each.model_types]
)
def test_configurations_of_the_published_sizes_are_within_the_limits(
    tmp_path: Path, family: Family, model_type: str
) -> None:
    """The defaults of transformers are those of a published checkpoint of each family."""
    part = family.parts.get(model_type)
    kind = part and getattr(transformers, part.config_class)
    config = kind() if kind else transformers.CONFIG_MAPPING[model_type]()
    extractor = getattr(transformers, family.extractor or "Wav2Vec2FeatureExtractor")()
    config.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    for name, check, limits in (
        ("config.json", check_config, family.config_limits),
        ("preprocessor_config.json", check_extractor, family.extractor_limits),
    ):
        check(tmp_path / name, read_settings(tmp_path / name), limits)


@pytest.mark.parametrize("name", [n for n in CASES if family_of(CASES[n].model_type).extractor])
def test_another_feature_extractor_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(saved(name), tmp_path / "encoder")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    with raises_about(UserError, folder / "preprocessor_config.json", "Wav2Vec2FeatureExtractor"):
        load_encoder(str(folder))


@pytest.mark.parametrize("name", CASES)
def test_a_family_that_cannot_be_trained_is_refused_as_a_classifier(
    saved: Callable[[str], Path], name: str
) -> None:
    folder = str(saved(name))
    with raises_about(UserError, folder, CASES[name].model_type):
        load_classifier(folder)
    with raises_about(UserError, folder, CASES[name].model_type):
        EncoderWithHead(load_checkpoint(folder, None), TrainingOptions(), folder)


def test_a_bundle_of_a_frozen_family_predicts_but_is_not_exported(
    saved: Callable[[str], Path], few_clips: Path, serpipe: Command
) -> None:
    """Real clips, at the 48 kHz of CLAP."""
    encoder = saved("clap")
    assert serpipe("extract", "--data", few_clips, "--encoder", encoder).code == 0
    assert serpipe("fit", "--head", "lda", "--split", "kfold:2").code == 0
    clip = next(iter((few_clips / "Actor_01").iterdir()))
    predicted = serpipe("predict", clip, "--encoder", encoder)
    assert predicted.code == 0, predicted.err
    exported = serpipe("export", "--encoder", encoder)
    assert_refused(exported, "clap")


PARTS = [name for name in CASES if family_of(CASES[name].model_type).parts]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("form", ["sharded", "pickled"])
def test_only_the_weights_of_the_encoder_are_read(
    saved: Callable[[str], Path], tmp_path: Path, name: str, form: str
) -> None:
    """Those of the language model may be missing, also as whole files, and are never built."""
    folder = shutil.copytree(saved(name), tmp_path / "encoder")
    part = family_of(CASES[name].model_type).parts[CASES[name].model_type]
    weights = load_file(folder / "model.safetensors")
    own = {key: tensor for key, tensor in weights.items() if key.startswith(part.prefixes)}
    (folder / "model.safetensors").unlink()
    if form == "sharded":
        save_file(own, folder / "part-1.safetensors", metadata={"format": "pt"})
        index = {key: f"part-{1 if key in own else 2}.safetensors" for key in weights}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        torch.save(own, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    if "text_config" in config:  # would take for ever to build
        config["text_config"] |= {"num_hidden_layers": 10**12, "vocab_size": 10**12}
        (folder / "config.json").write_text(json.dumps(config))
    waveform = noise(20000)
    expected = load_encoder(str(saved(name)))
    encoder = load_encoder(str(folder))
    assert encoder.identity.weights_sha256 == expected.identity.weights_sha256
    np.testing.assert_array_equal(
        encoder.embed([waveform])["mean"], expected.embed([waveform])["mean"]
    )


def test_only_the_files_that_hold_the_encoder_are_downloaded(
    saved: Callable[[str], Path],
    tmp_path: Path,
    hub: Hub,  # noqa: F811
) -> None:
    folder = shutil.copytree(saved("qwen2-audio"), tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {
        key: f"part-{1 if key.startswith('audio_tower.') else 2}.safetensors" for key in weights
    }
    for number in (1, 2):
        part = {key: weights[key] for key, file in index.items() if file[5] == str(number)}
        save_file(part, folder / f"part-{number}.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    commit = hub.push_folder("lab/tower", folder)
    identity = load_encoder("lab/tower").identity
    assert (identity.encoder, identity.revision) == ("lab/tower", commit)
    files = {file for _, file in hub.requested_files()}
    assert "part-1.safetensors" in files
    assert "part-2.safetensors" not in files
    local = load_encoder(str(saved("qwen2-audio"))).identity
    assert identity.weights_sha256 == local.weights_sha256
    assert identity.config_sha256 == local.config_sha256


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["no weights", "no configuration", "code"])
def test_a_larger_model_without_a_usable_encoder_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, name: str, damage: str
) -> None:
    folder = shutil.copytree(saved(name), tmp_path / "encoder")
    part = family_of(CASES[name].model_type).parts[CASES[name].model_type]
    config = json.loads((folder / "config.json").read_text())
    if damage == "no weights":
        save_file({"x": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    elif damage == "no configuration":
        config = {"model_type": config["model_type"], part.config_key or "hidden_size": None}
    else:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(folder / "was-run")))
    (folder / "config.json").write_text(json.dumps(config))
    with raises_about(UserError, folder):
        load_encoder(str(folder))
    assert not (folder / "was-run").exists()


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "name",
    {type(family_of(case.model_type)): name for name, case in reversed(CASES.items())}.values(),
)
def test_the_table_of_families_states_what_the_front_ends_do(
    saved: Callable[[str], Path], name: str
) -> None:
    encoder = load_encoder(str(saved(name)))
    family, front_end = family_of(CASES[name].model_type), encoder.front_end
    rate, longest = front_end.sampling_rate, front_end.maximum_samples
    assert family.shortest_milliseconds == round(1000 * front_end.minimum_samples / rate)
    assert family.window_seconds == (longest and longest / rate)
    seconds = family.window_seconds or 30
    n_frames = front_end.frames(int(seconds * rate))
    assert family.frames_per_second == pytest.approx(n_frames / seconds, rel=0.02)
    assert ("final_norm" in family.layers) == ("final_norm" in encoder.identity.layers)


def test_the_table_of_families_is_that_of_the_code() -> None:
    """After a change, put the output of ``python -m serpipe.features.families.table`` there."""
    page = (ROOT / "docs" / "how-to" / "use-an-encoder.md").read_text(encoding="utf-8")
    assert f"\n\n{families_table()}\n" in page
