"""Check the files of a checkpoint before anything is built from them.

A checkpoint can come from anybody. Its configuration decides the size of the model and how long it
takes to build: every such value has limits, and the size is compared with the weights in the files.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, first_line
from ..files import check_regular, read_text
from .audio import RATES

if TYPE_CHECKING:
    import torch

CONFIG, EXTRACTOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
#: The configuration of a model of FunASR.
FUNASR_CONFIG = "config.yaml"
#: The configuration of a checkpoint is in the first of these that exists.
CONFIGS = (CONFIG, FUNASR_CONFIG)
#: The files of weights in the order in which transformers looks for them.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: A PEFT adapter names another checkpoint, which transformers would load instead of this one.
ADAPTER = "adapter_config.json"

#: Bytes of a JSON file: an index of many weights, or mel filters, take a few MiB.
MAX_JSON_BYTES = 16 << 20
#: Bytes of all files of weights together.
MAX_WEIGHT_BYTES = 1 << 38
_MAX_LABELS = 10_000
_MAX_LIST = 32

_WIDTH, _KERNEL = (1, 1 << 14), (1, 512)
#: Smallest and largest value of integers. The largest published encoders have 48 layers, a width of
#: 1920, and feed-forward layers of 7680.
_INTEGERS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "output_hidden_size", "classifier_proj_size"), _WIDTH
    ),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim"), (1, 1 << 16)),
    **dict.fromkeys(("num_hidden_layers", "encoder_layers"), (1, 256)),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads"), (1, 1024)),
    **dict.fromkeys(("num_conv_pos_embeddings", "conv_pos_kernel_size"), _KERNEL),
    **dict.fromkeys(("adapter_kernel_size", "adapter_stride"), _KERNEL),
    "num_feat_extract_layers": (1, _MAX_LIST),
    "num_conv_pos_embedding_groups": _WIDTH,
    "num_buckets": _WIDTH,
    "max_bucket_distance": (1, 1 << 20),
    "num_mel_bins": (1, 512),
    "max_source_positions": (1, 1 << 13),
    "num_adapter_layers": (0, _MAX_LIST),
    "num_labels": (1, _MAX_LABELS),
}
_LISTS: Mapping[str, tuple[int, int]] = {
    "conv_dim": _WIDTH,
    "conv_kernel": _KERNEL,
    "conv_stride": _KERNEL,
}
_FLOATS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), (0, 1)),
    **dict.fromkeys(("feat_proj_dropout", "final_dropout", "dropout"), (0, 1)),
    **dict.fromkeys(("initializer_range", "init_std"), (0, 1)),
    "layer_norm_eps": (1e-20, 0.1),
}
_BOOLEANS = (
    *("conv_bias", "do_stable_layer_norm", "feat_proj_layer_norm", "conv_pos_batch_norm"),
    *("add_adapter", "scale_embedding", "use_weighted_layer_sum"),
)
#: Allowed values, if there is one: any other would load code or files from elsewhere.
_CHOICES: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), (None, "eager", "sdpa")),
    **dict.fromkeys(("transformers_weights", "configuration_files"), (None,)),
    "quantization_config": (None,),
}

_EXTRACTOR_INTEGERS: Mapping[str, tuple[float, float]] = {
    "sampling_rate": RATES,
    "feature_size": (1, 512),
    "chunk_length": (1, 600),
    "hop_length": (1, 1 << 13),
    "n_fft": (2, 1 << 13),
}
#: Dither is random noise: a clip would not have the same embedding twice.
_EXTRACTOR_FLOATS: Mapping[str, tuple[float, float]] = {"padding_value": (-1, 1), "dither": (0, 0)}
_EXTRACTOR_CHOICES: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("do_normalize", "return_attention_mask"), (None, True, False)),
    "padding_side": ("right",),
}
#: Frames per second: 50 in every published encoder.
_FRAMES_PER_SECOND = (2, 1000)


@dataclass(frozen=True)
class Limits:
    """What the values of a configuration may be: smallest and largest number, or one of a few."""

    integers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    floats: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: Limits of each whole number in a list.
    lists: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    choices: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint, such as ``config.json``.

    Raise UserError if it is no regular file, too large, no JSON, or no object.
    """
    try:
        content = json.loads(read_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise _refused(path, f"cannot be read ({reason})", "JSON") from None
    if not isinstance(content, dict):
        raise _refused(path, f"holds {_shown(content)}", "a JSON object")
    return content


def check_config(path: Path, settings: Mapping[str, Any], family: Limits) -> None:
    """Check the values of ``config.json`` that affect size, time or numbers.

    Limits of the ``family`` of encoders replace the common ones. Missing values have defaults.
    Raise UserError if a value is not allowed; the message names both.
    """
    integers = {k: v for k, v in _INTEGERS.items() if k not in family.lists}
    choices = {**_CHOICES, **dict.fromkeys(_BOOLEANS, (True, False))}
    common = Limits(integers, _FLOATS, _LISTS, choices)
    _check(path, settings, common, family)
    if settings.get("adapter_attn_dim") is not None:
        _check_number(path, "adapter_attn_dim", settings, _WIDTH, whole=True)
    for name in ("id2label", "label2id"):
        labels = settings.get(name)
        if labels is not None and not (isinstance(labels, dict) and len(labels) <= _MAX_LABELS):
            raise _refused(path, f"{name} is {_shown(labels)}", f"at most {_MAX_LABELS} labels")


def check_extractor(path: Path, settings: Mapping[str, Any], family: Limits) -> None:
    """Check the values of ``preprocessor_config.json``, as :func:`check_config` does."""
    common = Limits(_EXTRACTOR_INTEGERS, _EXTRACTOR_FLOATS, choices=_EXTRACTOR_CHOICES)
    _check(path, settings, common, family)


def check_values(path: Path, settings: Mapping[str, Any], limits: Limits) -> None:
    """Check the values of another file, as :func:`check_config` does; none may be missing."""
    for name in (*limits.integers, *limits.floats, *limits.choices):
        if name not in settings:
            raise UserError(f"{path}: has no {name}; download the checkpoint again")
    _check(path, settings, limits, Limits())


def _check(path: Path, settings: Mapping[str, Any], common: Limits, family: Limits) -> None:
    for name, limits in {**common.integers, **family.integers}.items():
        _check_number(path, name, settings, limits, whole=True)
    for name, limits in {**common.floats, **family.floats}.items():
        _check_number(path, name, settings, limits, whole=False)
    for name, choices in {**common.choices, **family.choices}.items():
        _check_choice(path, name, settings, choices)
    for name, limits in {**common.lists, **family.lists}.items():
        values = settings.get(name, [])
        if not isinstance(values, list) or len(values) > _MAX_LIST:
            raise _refused(path, f"{name} is {_shown(values)}", f"at most {_MAX_LIST} numbers")
        for value in values:
            _check_number(path, name, {name: value}, limits, whole=True)


def check_frames(name: str, frames: int) -> None:
    """Refuse an encoder whose convolutions give far too many or too few frames per second."""
    least, most = _FRAMES_PER_SECOND
    if not least <= frames <= most:
        raise UserError(
            f"{name}: its conv_kernel, conv_stride and sampling_rate give {frames} frames for one "
            f"second; expected {least} to {most}; download the checkpoint again"
        )


def weight_files(index: Path, prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Return the names of the files of weights that an index lists, all beside the index.

    Only those with weights that begin with one of ``prefixes`` are returned. Raise UserError if the
    index is damaged, or names a file elsewhere.
    """
    names = read_settings(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise _refused(index, "has no weight_map", "the names of the files of weights")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for name in names.values():
        plain = isinstance(name, str) and name.endswith(suffix) and name == Path(name).name
        if not plain or "\\" in name or "\0" in name:
            raise _refused(index, f"names the file {_shown(name)}", f"*{suffix} files beside it")
    return sorted({name for key, name in names.items() if key.startswith(prefixes)})


def weight_names(file: Path) -> list[str]:
    """Return the names of the weights in a file."""
    if file.suffix == ".safetensors":
        return list(_shapes(file))
    return list(_load_pickled(file))


def read_weights(file: Path, prefix: str) -> dict[str, "torch.Tensor"]:
    """Read the weights in a file whose names begin with a prefix; others are not read."""
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        return {k: v for k, v in _load_pickled(file).items() if k.startswith(prefix)}
    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name: tensors.get_tensor(name) for name in names}


def _load_pickled(file: Path) -> dict[str, "torch.Tensor"]:
    """Map a ``.bin`` file into memory, without running any of its code."""
    import torch

    check_weight_file(file)
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict):
        raise _refused(file, f"holds a {type(content).__name__}", "weights by name")
    return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}


def check_weights(
    name: str,
    files: Sequence[Path],
    block_pattern: str,
    layers: int,
    n_weights: int,
    prefix: str = "",
) -> None:
    """Compare the size of a model with the files of weights, before it is built.

    Only weights whose names begin with ``prefix`` count, without the prefix. The group of
    ``block_pattern`` is the number of a block in the name of a weight. ``layers`` and ``n_weights``
    are those of the encoder according to its configuration. Raise UserError if a file is not
    regular or is damaged, if the number of layers differs, or if the configuration needs more than
    twice the weights in the files.
    """
    room, numbers = 0, set()
    for file in files:
        if file.suffix != ".safetensors":
            room += check_weight_file(file)  # at least one byte a weight
            continue
        for key, shape in _shapes(file).items():
            if key.startswith(prefix):
                room += math.prod(shape)
                own = key.removeprefix(prefix)
                numbers |= {int(number) for number in re.findall(block_pattern, own)}
    if numbers and len(numbers) != layers:
        raise UserError(
            f"{name}: {CONFIG} declares {layers} layers, but the weights have {len(numbers)}; "
            "download the checkpoint again"
        )
    # A few missing weights are named when the weights are loaded.
    if n_weights > 2 * room:
        raise UserError(
            f"{name}: {CONFIG} describes an encoder with {n_weights} weights, but the files hold "
            f"only {room}; download the checkpoint again"
        )


def check_weight_file(file: Path) -> int:
    """Return the size of a file of weights, in bytes; refuse it if it is not a regular file."""
    try:
        return check_regular(file, MAX_WEIGHT_BYTES)
    except OSError as error:
        raise _refused(file, f"cannot be read ({error.strerror})", "a file of weights") from None


def _shapes(file: Path) -> dict[str, list[int]]:
    """Read the names and shapes in the header of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    check_weight_file(file)
    try:
        with safe_open(file, framework="np") as tensors:
            return {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _refused(file, f"is damaged ({first_line(error)})", "whole safetensors") from None


def _check_number(
    path: Path, name: str, settings: Mapping[str, Any], limits: tuple[float, float], *, whole: bool
) -> None:
    if name not in settings:
        return
    value = settings[name]
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not limits[0] <= value <= limits[1]:
        kind = "a whole number" if whole else "a number"
        expected = f"{kind} from {limits[0]:g} to {limits[1]:g}"
        raise _refused(path, f"{name} is {_shown(value)}", expected)


def _check_choice(
    path: Path, name: str, settings: Mapping[str, Any], choices: tuple[object, ...]
) -> None:
    # By type as well: 1 equals True.
    if name in settings and (type(settings[name]), settings[name]) not in [
        (type(choice), choice) for choice in choices
    ]:
        expected = " or ".join(json.dumps(choice) for choice in choices)
        raise _refused(path, f"{name} is {_shown(settings[name])}", expected)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _refused(path: Path, problem: str, expected: str) -> UserError:
    return UserError(f"{path}: {problem}; expected {expected}; download the checkpoint again")
