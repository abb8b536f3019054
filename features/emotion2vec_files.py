"""Read the published checkpoints of emotion2vec, which have the layout of FunASR.

==================== ===========================================================================
``config.yaml``      the architecture: ``model`` and ``model_conf``
``model.pt``         the weights, as ``torch.save`` writes them; ``configuration.json`` may give
                     another name
``tokens.txt``       the labels of emotion2vec+, one a line
==================== ===========================================================================

A checkpoint can come from anybody. YAML is read without tags and aliases, the list of convolutions
is parsed and not evaluated, and weights are loaded without running pickled code.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, counted, first_line
from ..yaml_file import read_yaml
from .checkpoint_files import CheckpointFiles, Loaded, hash_config
from .checkpoint_limits import (
    CONFIG,
    FUNASR_CONFIG,
    MAX_WEIGHT_BYTES,
    Limits,
    check_values,
    check_weight_file,
    read_settings,
)
from .emotion2vec_network import Emotion2vec, Emotion2vecConfig
from .families import family_of

MODEL_TYPE = "emotion2vec"
#: Says which of the files is which.
_CONFIGURATION = "configuration.json"
#: Names of the file of weights in the published repositories.
_WEIGHTS = ("model.pt", "emotion2vec_base.pt")
_FILE_NAME = re.compile(r"\w[\w.-]{0,99}\.pt")

#: Published files have a few thousand bytes.
MAX_YAML_BYTES = 1 << 17
_WIDTH, _KERNEL, _MAX_CONVOLUTIONS = (1, 1 << 14), (1, 512), 32
_MODEL_LIMITS = Limits(
    integers={"depth": (1, 256), "num_heads": (1, 1024), "embed_dim": _WIDTH},
    floats={"mlp_ratio": (0.01, 64), "norm_eps": (1e-20, 0.1)},
    choices={
        "norm_affine": (True,),
        "normalize": (True, False),
        "layer_norm_first": (False,),
    },
)
_AUDIO_LIMITS = Limits(
    integers={
        "prenet_depth": (0, 256),
        "num_extra_tokens": (1, 1024),
        "conv_pos_width": (1, 1 << 13),
        "conv_pos_groups": _WIDTH,
        "conv_pos_depth": (1, 32),
        "num_alibi_heads": (1, 1024),
    },
    choices={
        "extractor_mode": ("layer_norm",),
        "conv_pos_pre_ln": (False,),
        "use_alibi_encoder": (True,),
        "learned_alibi": (False,),
        "learned_alibi_scale_per_head": (True,),
        "learned_alibi_scale_per_layer": (False,),
    },
)
#: The list of convolutions is a Python expression: "[(512, 10, 5)] + [(512, 3, 2)] * 4".
_TUPLE = r"\(\d{1,9},\d{1,9},\d{1,9}\)"
_TERM = re.compile(rf"\[({_TUPLE}(?:,{_TUPLE})*),?\](?:\*(\d{{1,2}}))?")

#: Of the names of the encoder's weights: in emotion2vec+ it is a part of a classifier.
_PREFIXES = ("", "d2v_model.")
_AUDIO = "modality_encoders.AUDIO."
#: Weights of the encoder begin with these; others are those of the pretraining.
_ENCODER_WEIGHTS = ("blocks.", _AUDIO)
_UNUSED_WEIGHTS = f"{_AUDIO}decoder."


def load_emotion2vec(files: CheckpointFiles) -> Loaded | None:
    """Load the encoder of a checkpoint in the layout of FunASR; None if it has another layout.

    Raise UserError if it is not one of emotion2vec, or not whole.
    """
    if not is_funasr(files):
        return None
    encoder, _ = read_emotion2vec(files)
    front_end = family_of(MODEL_TYPE).front_end(files.name, encoder.config, None)
    return Loaded(MODEL_TYPE, encoder, front_end, hash_config(encoder.config))


def read_emotion2vec(files: CheckpointFiles) -> tuple[Emotion2vec, Mapping[str, torch.Tensor]]:
    """Return the encoder of a checkpoint, and all its weights by their published names.

    Raise UserError if it is not one of emotion2vec, or not whole.
    """
    config = read_config(files.get([FUNASR_CONFIG], MAX_YAML_BYTES)[0])
    path = find_weights(files)
    weights = read_weights(path)
    return build_encoder(files.name, path, config, weights), weights


def is_funasr(files: CheckpointFiles) -> bool:
    """Whether a checkpoint has the layout of FunASR, not that of transformers."""
    if not files.find(FUNASR_CONFIG, MAX_YAML_BYTES):
        return False
    config = files.find(CONFIG)
    return config is None or "model_type" not in read_settings(config)


def read_config(path: Path) -> Emotion2vecConfig:
    """Read the architecture from ``config.yaml``.

    Raise UserError if it cannot be read, is that of another model, lacks a value, or has one that
    is out of range or not supported.
    """
    content = read_yaml(path, MAX_YAML_BYTES, "download the checkpoint again")
    if content.get("model") != "Emotion2vec":
        raise UserError(
            f"{path}: is that of a model {content.get('model')!r:.40} of FunASR; only Emotion2vec "
            "is supported; choose another checkpoint"
        )
    model = _section(path, content, "model_conf")
    audio = _section(path, _section(path, model, "modalities"), "audio")
    if isinstance(model.get("norm_eps"), str):  # YAML takes 1e-05, without a point, for text
        model = {**model, "norm_eps": _number(model["norm_eps"])}
    for values, limits in ((model, _MODEL_LIMITS), (audio, _AUDIO_LIMITS)):
        check_values(path, values, limits)
    width, n_heads, groups = model["embed_dim"], model["num_heads"], audio["conv_pos_groups"]
    if width % n_heads or width % groups or audio["num_alibi_heads"] != n_heads:
        raise UserError(
            f"{path}: embed_dim {width} must be a multiple of num_heads {n_heads} and of "
            f"conv_pos_groups {groups}, and num_alibi_heads must equal num_heads; download the "
            "checkpoint again"
        )
    return Emotion2vecConfig(
        normalise=model["normalize"],
        convolutions=_parse_convolutions(path, audio.get("feature_encoder_spec")),
        width=width,
        n_heads=n_heads,
        feed_forward=int(width * model["mlp_ratio"]),
        n_prenet_blocks=audio["prenet_depth"],
        n_main_blocks=model["depth"],
        n_extra_tokens=audio["num_extra_tokens"],
        n_positional=audio["conv_pos_depth"],
        positional_kernel=max(3, audio["conv_pos_width"] // audio["conv_pos_depth"]),
        positional_groups=groups,
        norm_epsilon=float(model["norm_eps"]),
    )


def find_weights(files: CheckpointFiles) -> Path:
    """Return the file of weights, downloaded if necessary.

    Raise UserError if there is none, or ``configuration.json`` names a file elsewhere.
    """
    names: list[str] = list(_WEIGHTS)
    configuration = files.find(_CONFIGURATION)
    if configuration:
        paths = read_settings(configuration).get("file_path_metas")
        named = paths.get("init_param") if isinstance(paths, dict) else None
        if named is not None and not (isinstance(named, str) and _FILE_NAME.fullmatch(named)):
            raise UserError(
                f"{configuration}: its init_param is {named!r:.60}, which is not the name of a .pt "
                "file beside it; download the checkpoint again"
            )
        names = [named, *names] if named else names
    for name in names:
        if path := files.find(name, MAX_WEIGHT_BYTES):
            return path
    raise UserError(
        f"{files.name}: has no {names[0]}, the file of its weights; download the checkpoint again"
    )


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Map a file of weights into memory, without running any of its code.

    Raise UserError if it is not a regular file, is damaged, or holds anything but tensors, numbers
    and text.
    """
    check_weight_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(
            f"{path}: is damaged, or holds other objects than weights, which could run code "
            f"({first_line(error)}); download it again, or, if you trust its source, save its "
            "weights alone with torch.save"
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    return {str(k).removeprefix("module."): v for k, v in tensors if isinstance(v, torch.Tensor)}


def build_encoder(
    name: str, path: Path, config: Emotion2vecConfig, weights: Mapping[str, torch.Tensor]
) -> Emotion2vec:
    """Build an encoder in float32 from the weights of :func:`read_weights`, all of which must fit.

    ``name`` and ``path`` are those of the checkpoint and the file, for messages. Decoder, teacher
    and the layer of labels are not used. Raise UserError if weights of the encoder are missing, are
    left over, or have another shape.
    """
    with torch.device("meta"):  # shapes alone, no memory
        encoder = Emotion2vec(config)
    shapes = {key: tensor.shape for key, tensor in encoder.state_dict().items()}
    n_weights = sum(shape.numel() for shape in shapes.values())
    if n_weights > 2 * path.stat().st_size:  # tensors may be views of a few values
        raise UserError(
            f"{name}: {FUNASR_CONFIG} describes an encoder with {n_weights} weights, which "
            f"{path.name} cannot hold; download the checkpoint again"
        )
    published = {key: _published_name(key, config.n_prenet_blocks) for key in shapes}
    prefix = max(_PREFIXES, key=lambda each: sum(each + k in weights for k in published.values()))
    own = {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }
    scale = own.get(f"{_AUDIO}alibi_scale")
    if scale is not None and scale.ndim == 4:  # of older checkpoints, for all blocks
        own[f"{_AUDIO}alibi_scale"] = scale[None]
    missing = [key for key in published.values() if key not in own]
    surplus = sorted(
        key
        for key in own.keys() - set(published.values())
        if key.startswith(_ENCODER_WEIGHTS) and not key.startswith(_UNUSED_WEIGHTS)
    )
    wrong = [p for key, p in published.items() if p in own and not _fits(own[p], shapes[key])]
    if missing or wrong or surplus:
        raise UserError(
            f"{name}: {counted(len(missing), 'weight')} missing, {len(wrong)} of a wrong shape or "
            f"type and {len(surplus)} too many for its {FUNASR_CONFIG}, first "
            f"{(missing + wrong + surplus)[0]}; download the checkpoint again"
        )
    state = {key: own[name].float().contiguous().clone() for key, name in published.items()}
    encoder.load_state_dict(state, assign=True)
    return encoder


def _published_name(key: str, n_prenet: int) -> str:
    """Return the name in a checkpoint of a weight of :class:`Emotion2vec`."""
    kind, _, rest = key.partition(".")
    number, _, inner = rest.partition(".")
    if kind == "blocks":
        inner = inner.replace("qkv", "attn.qkv").replace("attention_output", "attn.proj")
        inner = inner.replace("expand", "mlp.fc1").replace("contract", "mlp.fc2")
        if int(number) < n_prenet:
            return f"{_AUDIO}context_encoder.blocks.{number}.{inner}"
        return f"blocks.{int(number) - n_prenet}.{inner}"
    if kind == "convolutions":
        inner = inner.replace("convolution.", "0.").replace("norm.", "2.1.")
        return f"{_AUDIO}local_encoder.conv_layers.{number}.{inner}"
    if kind == "positions":
        return f"{_AUDIO}relative_positional_encoder.{int(number) + 1}.0.{inner}"
    names = {
        "projection_norm": "project_features.1.",
        "projection": "project_features.2.",
        "norm": "context_encoder.norm.",
    }
    return f"{_AUDIO}{names.get(kind, kind)}{rest}"


def _fits(tensor: torch.Tensor, shape: torch.Size) -> bool:
    return tensor.shape == shape and tensor.is_floating_point() and tensor.layout is torch.strided


def _section(path: Path, values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict):
        raise UserError(f"{path}: has no section {name}; download the checkpoint again")
    return section


def _number(text: str) -> object:
    """Return a number given as text; the text itself, which the limits refuse, if it is none."""
    try:
        return float(text)
    except ValueError:
        return text


def _parse_convolutions(path: Path, text: object) -> tuple[tuple[int, int, int], ...]:
    """Return channels, kernel and stride of each convolution."""
    terms = re.sub(r"\s", "", text).split("+") if isinstance(text, str) else []
    matches = [_TERM.fullmatch(term) for term in terms]
    layers: list[tuple[int, int, int]] = []
    for match in matches:
        if match:
            numbers = map(int, re.findall(r"\d+", match[1]))
            # One iterator three times: three numbers each.
            layers += list(zip(numbers, numbers, numbers, strict=True)) * int(match[2] or 1)
    is_in_range = all(
        _WIDTH[0] <= channels <= _WIDTH[1] and 1 <= stride <= kernel <= _KERNEL[1]
        for channels, kernel, stride in layers
    )
    if not all(matches) or not 0 < len(layers) <= _MAX_CONVOLUTIONS or not is_in_range:
        raise UserError(
            f"{path}: feature_encoder_spec is {text!r:.80}; expected at most {_MAX_CONVOLUTIONS} "
            "triples of channels, kernel and stride, such as [(512, 10, 5)] + [(512, 3, 2)] * 4; "
            "download the checkpoint again"
        )
    return tuple(layers)
