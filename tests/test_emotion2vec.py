"""emotion2vec: the layers of FunASR, in a batch and alone; damaged checkpoints are refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from serpipe.errors import UserError
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.emotion2vec_files import read_config
from serpipe.features.emotion2vec_network import Emotion2vec
from serpipe.features.encoder import load_encoder
from serpipe.features.families import family_of
from serpipe.features.front_end import prepare
from serpipe.pipeline.finetune.kinds import EncoderWithHead
from serpipe.pipeline.finetune.options import TrainingOptions

from .conftest import Command
from .hub import Hub
from .test_encoder import noise, relative_error
from .test_hub import hub  # noqa: F401

WIDTH, N_HEADS, N_PRENET, N_BLOCKS, N_TOKENS = 36, 6, 2, 3, 4
AUDIO = "modality_encoders.AUDIO."
SETTINGS: dict[str, Any] = {
    "depth": N_BLOCKS - N_PRENET,
    "num_heads": N_HEADS,
    "embed_dim": WIDTH,
    "mlp_ratio": 2.0,
    "norm_eps": 1e-5,
    "norm_affine": True,
    "layer_norm_first": False,
    "normalize": True,
    "end_of_block_targets": False,
    "start_drop_path_rate": 0.0,
    "end_drop_path_rate": 0.0,
    "encoder_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "post_mlp_drop": 0.1,
    "dropout_input": 0.0,
    "layerdrop": 0.05,
    "modalities": {
        "audio": {
            "type": "AUDIO",
            "prenet_depth": N_PRENET,
            "prenet_layerdrop": 0.05,
            "prenet_dropout": 0.1,
            "start_drop_path_rate": 0.0,
            "end_drop_path_rate": 0.0,
            "num_extra_tokens": N_TOKENS,
            "init_extra_token_zero": True,
            "local_grad_mult": 1.0,
            "use_alibi_encoder": True,
            "alibi_scale": 1.0,
            "learned_alibi": False,
            "learned_alibi_scale": True,
            "learned_alibi_scale_per_head": True,
            "learned_alibi_scale_per_layer": False,
            "num_alibi_heads": N_HEADS,
            "model_depth": N_BLOCKS - N_PRENET,
            "extractor_mode": "layer_norm",
            "feature_encoder_spec": "[(12, 10, 5)] + [(12, 3, 2)] * 4 + [(12,2,2)] + [(12,2,2)]",
            "conv_pos_width": 30,
            "conv_pos_groups": 4,
            "conv_pos_depth": 3,
            "conv_pos_pre_ln": False,
            "decoder": {
                "decoder_dim": 8,
                "decoder_groups": 2,
                "decoder_kernel": 7,
                "decoder_layers": 2,
                "input_dropout": 0.1,
                "projection_layers": 1,
                "projection_ratio": 2.0,
            },
        }
    },
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """The weights of a checkpoint, with the names that FunASR gives them."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{AUDIO}alibi_scale": (1, 1, N_HEADS, 1, 1),
        f"{AUDIO}extra_tokens": (1, N_TOKENS, WIDTH),
        f"{AUDIO}project_features.1.weight": (12,),
        f"{AUDIO}project_features.1.bias": (12,),
        f"{AUDIO}project_features.2.weight": (WIDTH, 12),
        f"{AUDIO}project_features.2.bias": (WIDTH,),
        f"{AUDIO}context_encoder.norm.weight": (WIDTH,),
        f"{AUDIO}context_encoder.norm.bias": (WIDTH,),
    }
    for number, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        layer = f"{AUDIO}local_encoder.conv_layers.{number}."
        shapes |= {
            f"{layer}0.weight": (12, 12 if number else 1, kernel),
            f"{layer}2.1.weight": (12,),
            f"{layer}2.1.bias": (12,),
        }
    for number in (1, 2, 3):
        layer = f"{AUDIO}relative_positional_encoder.{number}.0."
        shapes |= {f"{layer}weight": (WIDTH, WIDTH // 4, 10), f"{layer}bias": (WIDTH,)}
    prenet = [f"{AUDIO}context_encoder.blocks.{number}." for number in range(N_PRENET)]
    for block in [*prenet, *(f"blocks.{number}." for number in range(N_BLOCKS - N_PRENET))]:
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 2 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 2 * WIDTH),
        ):
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}{name}.weight": (WIDTH,), f"{block}{name}.bias": (WIDTH,)}
    return shapes


def random_weights() -> dict[str, torch.Tensor]:
    """Weights as of a trained model: every norm and every scale has its own values."""
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes().items():
        values = torch.randn(shape, generator=draw)
        if len(shape) in (2, 3) and "extra_tokens" not in name:
            values = 2 * values / np.sqrt(np.prod(shape[1:]))
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", ".1.weight", "scale")):
            values = 1 + 0.3 * values
        weights[name] = values
    weights[f"{AUDIO}alibi_scale"][0, 0, 2] = -0.5  # which counts as 0
    return weights


def save_checkpoint(
    folder: Path, weights: dict[str, Any], settings: dict[str, Any] | None = None
) -> Path:
    """Save what the repositories of emotion2vec hold."""
    folder.mkdir()
    torch.save(weights, folder / "model.pt")
    save_settings(folder, SETTINGS if settings is None else settings)
    return folder


def save_settings(folder: Path, settings: dict[str, Any]) -> None:
    content = {"model": "Emotion2vec", "model_conf": settings, "scope_map": ["d2v_model.", "none"]}
    text = yaml.safe_dump(content).replace("norm_eps: 1.0e-05", "norm_eps: 1e-05")
    assert "norm_eps: 1e-05" in text  # text to YAML, as in the published files
    (folder / "config.yaml").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint, with the decoder and the teacher of the pretraining."""
    weights = random_weights() | {
        f"{AUDIO}decoder.blocks.0.0.weight": torch.zeros(2, 2),
        "ema.blocks.0.weight": torch.zeros(2, 2),
    }
    return save_checkpoint(tmp_path / "emotion2vec", {"model": weights})


def change(settings: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    """Return settings with another value, of the model or of the audio encoder."""
    changed: dict[str, Any] = json.loads(json.dumps(settings))
    inner = changed["modalities"]["audio"]
    target = inner if name in inner else changed
    if value is None:
        del target[name]
    else:
        target[name] = value
    return changed


def plain_layers(waveform: np.ndarray) -> list[torch.Tensor]:
    """Hidden states of all layers of one clip, step by step from the equations."""
    w = random_weights()

    def affine(name: str, states: torch.Tensor) -> torch.Tensor:
        return states @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(states: torch.Tensor, name: str = "") -> torch.Tensor:
        centred = states - states.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"] if name else scaled

    gelu = torch.nn.functional.gelu
    states = norm(torch.from_numpy(waveform))[None]
    for number, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        layer = f"{AUDIO}local_encoder.conv_layers.{number}."
        states = torch.nn.functional.conv1d(states, w[f"{layer}0.weight"], stride=stride)
        states = gelu(norm(states.T, f"{layer}2.1")).T
    states = affine(f"{AUDIO}project_features.2", norm(states.T, f"{AUDIO}project_features.1"))
    positions = states
    for number in (1, 2, 3):
        layer = f"{AUDIO}relative_positional_encoder.{number}.0."
        weight, bias = w[f"{layer}weight"], w[f"{layer}bias"]
        mixed = torch.nn.functional.conv1d(positions.T, weight, bias, padding=5, groups=4)
        positions = gelu(norm(mixed.T[: len(states)]))
    states = torch.cat([w[f"{AUDIO}extra_tokens"][0], states + positions])
    states = norm(states, f"{AUDIO}context_encoder.norm")
    n_frames = len(states) - N_TOKENS
    biases = torch.zeros(N_HEADS, len(states), len(states))
    # The slopes of four heads, then every second of those of eight.
    for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8)):
        scale = max(0.0, float(w[f"{AUDIO}alibi_scale"].flatten()[head]))
        for row in range(n_frames):
            distances = torch.arange(n_frames).sub(row).abs()
            biases[head, N_TOKENS + row, N_TOKENS:] = -slope * scale * distances
    layers = [states]
    prenet = [f"{AUDIO}context_encoder.blocks.{number}." for number in range(N_PRENET)]
    for block in [*prenet, *(f"blocks.{number}." for number in range(N_BLOCKS - N_PRENET))]:
        qkv = affine(f"{block}attn.qkv", states).reshape(len(states), 3, N_HEADS, -1)
        query, key, value = qkv.permute(1, 2, 0, 3)
        attention = query @ key.transpose(1, 2) / (WIDTH / N_HEADS) ** 0.5 + biases
        mixed = (attention.softmax(dim=-1) @ value).permute(1, 0, 2).flatten(1)
        states = norm(states + affine(f"{block}attn.proj", mixed), f"{block}norm1")
        inner = affine(f"{block}mlp.fc2", gelu(affine(f"{block}mlp.fc1", states)))
        states = norm(states + inner, f"{block}norm2")
        layers.append(states)
    return [states[N_TOKENS:] for states in layers]


@pytest.mark.parametrize("n_samples", [400, 3203, 16000, 50161])
def test_layers_are_those_of_the_equations(folder: Path, n_samples: int) -> None:
    """Of quiet clips, in which the constant beside the variance counts."""
    encoder = load_encoder(str(folder), poolings=("mean", "std"))
    assert encoder.identity.layers == tuple(str(n) for n in range(N_BLOCKS + 1))
    assert (encoder.identity.width, encoder.identity.model_type) == (WIDTH, "emotion2vec")
    waveform = 0.003 * noise(n_samples)
    scaled = torch.nn.functional.layer_norm(torch.from_numpy(waveform), (n_samples,))
    assert relative_error(prepare(encoder.front_end, waveform), scaled.numpy()) < 1e-5
    ours = encoder.embed([waveform])
    for index, states in enumerate(plain_layers(waveform)):
        assert len(states) == encoder.front_end.frames(n_samples)
        std, mean = torch.std_mean(states, dim=0, unbiased=False)
        assert relative_error(ours["mean"][index, 0], mean.numpy()) < 1e-5
        deviation = ours["std"][index, 0] - std.numpy()  # small beside the mean
        assert np.linalg.norm(deviation) < 1e-5 * np.linalg.norm(mean.numpy())


@pytest.fixture
def funasr_model() -> Callable[[], Any]:
    """The model of FunASR with the same random weights."""
    module = pytest.importorskip(
        "funasr.models.emotion2vec.model", reason="needs funasr, which is not a dependency"
    )

    def build() -> Any:
        model = module.Emotion2vec(model_conf=SETTINGS).eval()
        model.load_state_dict(random_weights(), strict=False)
        return model

    return build


@pytest.mark.parametrize("n_samples", [400, 16000, 100003])
def test_layers_are_those_of_funasr(
    folder: Path, funasr_model: Callable[[], Any], n_samples: int
) -> None:
    model = funasr_model()
    blocks = [*model.modality_encoders["AUDIO"].context_encoder.blocks, *model.blocks]
    layers: list[torch.Tensor] = []
    blocks[0].register_forward_pre_hook(lambda _, args: layers.append(args[0]))
    for block in blocks:
        block.register_forward_hook(lambda _, args, output: layers.append(output[0]))
    waveform = 0.003 * noise(n_samples)
    samples = torch.from_numpy(waveform)
    with torch.no_grad():
        scaled = torch.nn.functional.layer_norm(samples, samples.shape)
        last = model.extract_features(scaled[None], padding_mask=None)["x"]
    ours = load_encoder(str(folder)).embed([waveform])["mean"][:, 0]
    theirs = [layer[0, N_TOKENS:].mean(dim=0).numpy() for layer in layers]
    assert len(theirs) == len(ours) == N_BLOCKS + 1
    np.testing.assert_array_equal(theirs[-1], last[0].mean(dim=0).numpy())
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine, other) < 1e-5


def test_a_clip_has_the_same_embedding_in_a_batch_as_alone(folder: Path) -> None:
    encoder = load_encoder(str(folder), poolings=("mean", "std"))
    lengths = [400, 401, 3203, 16000, 16161, 32350, 160000]
    waveforms = [noise(n, seed) * 0.1 * (1 + seed) for seed, n in enumerate(lengths)]
    batch = encoder.embed(waveforms)
    for index, waveform in enumerate(waveforms):
        for pooling, alone in encoder.embed([waveform]).items():
            for layer, expected in enumerate(alone[:, 0]):
                if np.linalg.norm(expected) > 1e-3:  # the std of a single frame is zero
                    assert relative_error(batch[pooling][layer, index], expected) < 1e-4


def test_half_precision_is_close(folder: Path) -> None:
    waveforms = [0.1 * noise(16000), 0.1 * noise(8161, 1)]
    exact = load_encoder(str(folder)).embed(waveforms)["mean"]
    half = load_encoder(str(folder), precision="bf16").embed(waveforms)["mean"]
    assert 0 < relative_error(half, exact) < 0.05


@pytest.mark.parametrize("form", ["bare", "prefix", "file", "old scale", "half"])
def test_every_published_form_gives_the_same_encoder(
    folder: Path, tmp_path: Path, form: str
) -> None:
    weights: dict[str, Any] = random_weights()
    other = save_checkpoint(tmp_path / "other", {})
    if form == "prefix":  # of emotion2vec+
        weights = {f"d2v_model.{key}": value for key, value in weights.items()}
        weights |= {"proj.weight": torch.zeros(9, WIDTH), "proj.bias": torch.zeros(9)}
    if form == "old scale":
        weights[f"{AUDIO}alibi_scale"] = weights[f"{AUDIO}alibi_scale"][0]
    if form == "half":
        weights = {key: value.to(torch.float64) for key, value in weights.items()}
    name = "emotion2vec_base.pt" if form == "file" else "weights_of.e2v.pt"
    (other / "model.pt").unlink()
    torch.save(weights, other / name)
    if form != "file":
        paths = {"file_path_metas": {"init_param": name, "config": "config.yaml"}}
        (other / "configuration.json").write_text(json.dumps(paths))
    expected, identity = load_encoder(str(folder)).identity, load_encoder(str(other)).identity
    assert identity.weights_sha256 == expected.weights_sha256
    assert identity.config_sha256 == expected.config_sha256


@pytest.mark.parametrize("key", [key for key in shapes() if re.search(r"scale|tokens|0", key)])
def test_missing_weights_are_refused(folder: Path, key: str) -> None:
    weights = random_weights()
    del weights[key]
    torch.save(weights, folder / "model.pt")
    with pytest.raises(UserError, match=re.escape(f"first {key}")):
        load_encoder(str(folder))


@pytest.mark.parametrize("damage", ["shape", "type", "block", "views"])
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: str) -> None:
    weights = random_weights()
    key = "blocks.0.mlp.fc1.weight"
    if damage == "shape":
        weights[key] = weights[key].T
    elif damage == "type":
        weights[key] = weights[key].to(torch.int64)
    elif damage == "block":
        key = "blocks.1.mlp.fc1.weight"
        weights[key] = weights["blocks.0.mlp.fc1.weight"]
    else:  # a small file that stands for huge weights
        key = "config.yaml"
        wide = {name: tensor.flatten()[:1] for name, tensor in weights.items()}
        weights = {name: tensor.expand(1 << 14) for name, tensor in wide.items()}
        save_settings(folder, change(change(SETTINGS, "embed_dim", 12288), "depth", 256))
    torch.save(weights, folder / "model.pt")
    with pytest.raises(UserError, match=key):
        load_encoder(str(folder))


NAMES = [
    *("depth", "num_heads", "embed_dim", "mlp_ratio", "norm_eps", "norm_affine", "normalize"),
    *("layer_norm_first", "prenet_depth", "num_extra_tokens", "conv_pos_width", "conv_pos_groups"),
    *("conv_pos_depth", "num_alibi_heads", "extractor_mode", "conv_pos_pre_ln"),
    *("use_alibi_encoder", "learned_alibi", "learned_alibi_scale_per_head"),
    *("learned_alibi_scale_per_layer", "feature_encoder_spec"),
]


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_missing_or_extreme_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch, "load", pytest.fail)
    for value in (None, 10**9, -(10**9), "x", [1]):
        content = {"model": "Emotion2vec", "model_conf": change(SETTINGS, name, value)}
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=name):
            load_encoder(str(folder))


@pytest.mark.parametrize(("width", "n_heads"), [(768, 12), (1024, 16)])
def test_the_published_sizes_are_within_the_limits(
    tmp_path: Path, width: int, n_heads: int
) -> None:
    """Base and large have the same number of weights; large has these shapes."""
    changes = {
        **{"embed_dim": width, "num_heads": n_heads, "num_alibi_heads": n_heads, "depth": 8},
        **{"mlp_ratio": 4.0, "prenet_depth": 4, "num_extra_tokens": 10, "conv_pos_width": 95},
        **{"conv_pos_depth": 5, "conv_pos_groups": 16},
        "feature_encoder_spec": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    }
    settings = SETTINGS
    for name, value in changes.items():
        settings = change(settings, name, value)
    save_settings(tmp_path, settings)
    with torch.device("meta"):
        encoder = Emotion2vec(read_config(tmp_path / "config.yaml"))
    shapes = {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()}
    assert len(shapes) == 183
    assert shapes["positions.4.weight"] == (width, width // 16, 19)
    assert shapes["blocks.11.qkv.weight"] == (3 * width, width)
    assert shapes["blocks.11.expand.weight"] == (4 * width, width)
    assert shapes["extra_tokens"] == (1, 10, width)
    assert encoder.without_extra_tokens(torch.zeros(1, 12, 3)).shape == (1, 2, 3)


@pytest.mark.parametrize(
    "text",
    [
        "[(12, 10, 5)] * 99",
        "[(12, 10, 5)] * 99999",
        "[(12, 0, 5)]",
        "[(12, 10, 99999)]",
        "[(12, 10)]",
        "[(12, 10, 5)] + ",
        "__import__('os').mkdir('was-run')",
        "[(12, 10, 5)] + [print('was run')]",
    ],
)
def test_the_list_of_convolutions_is_parsed_and_not_run(folder: Path, text: str) -> None:
    save_settings(folder, change(SETTINGS, "feature_encoder_spec", text))
    with pytest.raises(UserError, match="feature_encoder_spec"):
        load_encoder(str(folder))
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    "text",
    [
        "model: SenseVoiceSmall",
        "a: &a [x, x]\nmodel: [*a, *a]",
        "a: &a {x: 1}\nb: &b {<<: [*a, *a]}",
        "model: !!python/object/apply:os.mkdir [was-run]",
        "[" * 5000,
        "just text",
        "model: Emotion2vec",
        "\x00",
        "#" * (1 << 18),
    ],
)
def test_yaml_of_anything_else_is_refused(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_encoder(str(folder))
    assert not Path("was-run").exists()


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["code", "cut", "empty", "missing", "folder", "elsewhere"])
def test_a_file_of_weights_that_cannot_be_used_is_refused(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    path = folder / "model.pt"
    content = path.read_bytes()
    path.unlink()
    if damage == "code":
        torch.save({"model": random_weights(), "args": Touch(tmp_path / "was-run")}, path)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        torch.save([1], path)
    elif damage == "folder":
        path.mkdir()
    elif damage == "elsewhere":
        (tmp_path / "model.pt").write_bytes(content)
        paths = {"file_path_metas": {"init_param": "../model.pt"}}
        (folder / "configuration.json").write_text(json.dumps(paths))
    with pytest.raises(UserError, match=str(folder)):
        load_encoder(str(folder))
    assert not (tmp_path / "was-run").exists()


def test_a_checkpoint_of_the_hub_is_pinned_to_its_commit_and_loads_offline(
    hub: Hub,  # noqa: F811
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "example.wav").write_bytes(b"not needed")
    commit = hub.push_folder("somebody/emotion2vec", folder)
    identity = load_encoder("somebody/emotion2vec").identity
    assert (identity.encoder, identity.revision) == ("somebody/emotion2vec", commit)
    assert identity.weights_sha256 == load_encoder(str(folder)).identity.weights_sha256
    assert {file for _, file in hub.requested_files()} == {"config.yaml", "model.pt"}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for revision in (None, commit):
        assert load_encoder("somebody/emotion2vec", revision=revision).identity == identity


def test_real_clips_are_embedded_fitted_and_predicted(
    folder: Path, few_clips: Path, serpipe: Command
) -> None:
    done = serpipe("extract", "--data", few_clips, "--encoder", folder)
    assert done.code == 0, done.err
    assert serpipe("fit", "--head", "lda", "--split", "kfold:2").code == 0
    clip = next(iter((few_clips / "Actor_01").iterdir()))
    predicted = serpipe("predict", clip, "--encoder", folder)
    assert predicted.code == 0, predicted.err
    exported = serpipe("export", "--encoder", folder)
    assert exported.code == 2
    assert "'emotion2vec'" in exported.err


def test_it_is_refused_for_training(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder), None)
    with pytest.raises(UserError, match="frozen"):
        EncoderWithHead(checkpoint, TrainingOptions(), str(folder))


def test_the_table_of_families_states_what_the_front_end_does(folder: Path) -> None:
    family, front_end = family_of("emotion2vec"), load_encoder(str(folder)).front_end
    assert family.shortest_milliseconds == round(1000 * front_end.minimum_samples / 16000)
    assert family.frames_per_second == pytest.approx(front_end.frames(160000) / 10, rel=0.02)
    assert front_end.maximum_samples is family.window_seconds is None
