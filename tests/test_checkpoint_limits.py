"""A checkpoint that is damaged, absurd or hostile ends in one line before anything is built."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from serpipe.errors import UserError
from serpipe.features import checkpoint_limits
from serpipe.features.checkpoint_limits import weight_files
from serpipe.features.encoder import load_encoder

from .messages import assert_names, raises_about
from .test_files import KINDS, make_special, no_waiting_for_ever  # noqa: F401

Make = Callable[[str], Path]
FAMILIES = ("wav2vec2-group", "hubert-layer-stable", "wavlm-group", "whisper")
JSON_FILES = ("config.json", "preprocessor_config.json")
#: One of them stands in place of each number in turn.
ABSURD: tuple[Any, ...] = (100_000, 10**9, -1, 0, 2.5, 1e300, float("nan"), "x", None, [], {"a": 1})


@pytest.fixture
def copy_of(family_encoder: Make, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the small random encoder of a family, to be damaged."""

    def copy(family: str) -> Path:
        return shutil.copytree(family_encoder(family), tmp_path / "encoder")

    return copy


def load_or_refuse(folder: Path) -> bool:
    """Load an encoder; whether it was refused, which must be in one line."""
    try:
        load_encoder(str(folder))
    except UserError as error:
        assert "\n" not in str(error)
        assert_names(str(error), folder)
        return True
    return False


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def numbers(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names of all numbers and lists of numbers, each with an absurd value in turn."""
    for turn, (name, value) in enumerate(settings.items()):
        if isinstance(value, list) and value and isinstance(value[0], int):
            yield name, [ABSURD[turn % 8], *value[1:]]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, ABSURD[turn % len(ABSURD)]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_extreme_number_gives_an_encoder_or_one_line(
    copy_of: Callable[[str], Path], family: str
) -> None:
    folder = copy_of(family)
    refusals = tries = 0
    for name in JSON_FILES:
        whole = (folder / name).read_text()
        for key, value in numbers(json.loads(whole)):
            edit(folder / name, **{key: value})
            refusals += load_or_refuse(folder)
            tries += 1
        (folder / name).write_text(whole)
    assert tries > 30
    assert refusals > tries // 3
    assert not load_or_refuse(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_decide_size_or_time_are_checked_before_use(
    copy_of: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(family)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", pytest.fail)
    tables = {
        "config.json": [*checkpoint_limits._INTEGERS, *checkpoint_limits._LISTS],
        "preprocessor_config.json": [*checkpoint_limits._EXTRACTOR_INTEGERS],
    }
    for name, keys in tables.items():
        whole = (folder / name).read_text()
        for key in keys:
            for value in ABSURD:
                if not (key in checkpoint_limits._LISTS and value == []):
                    # 100000 Hz is a rate, if not one for speech.
                    absurd = 10**9 if key == "sampling_rate" and value == 100_000 else value
                    edit(folder / name, **{key: absurd})
                    assert load_or_refuse(folder), (key, value)
            (folder / name).write_text(whole)


@pytest.mark.parametrize("value", [None, [], [1, {}], 1, "x", True, "deep", "no UTF-8", "large"])
@pytest.mark.parametrize("name", JSON_FILES)
def test_settings_that_are_not_an_object_are_refused(
    copy_of: Callable[[str], Path], name: str, value: object
) -> None:
    folder = copy_of("whisper")
    content = {
        "deep": b'{"a":' * 100_000,
        "no UTF-8": b'{"a": "\xff"}',
        "large": b" " * (17 << 20),
    }.get(str(value), json.dumps(value).encode())
    (folder / name).write_bytes(content)
    with raises_about(UserError, folder / name):
        load_encoder(str(folder))


@pytest.mark.parametrize("layers", [1, 2, 4, 256])
@pytest.mark.parametrize("family", ["wav2vec2-group", "whisper"])
def test_another_number_of_layers_than_the_weights_have_is_refused(
    copy_of: Callable[[str], Path], family: str, layers: int
) -> None:
    folder = copy_of(family)
    key = "encoder_layers" if family == "whisper" else "num_hidden_layers"
    edit(folder / "config.json", **{key: layers})
    with raises_about(UserError, folder, "config.json", layers, 3):
        load_encoder(str(folder))


def test_an_encoder_far_larger_than_its_weights_is_refused(
    copy_of: Callable[[str], Path],
) -> None:
    folder = copy_of("wav2vec2-group")
    edit(folder / "config.json", hidden_size=16384, intermediate_size=65536)
    weights = load_file(folder / "model.safetensors").values()
    with raises_about(UserError, folder, "config.json", sum(each.numel() for each in weights)):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_stride": [1] * 7},
        {"conv_stride": [512] * 7},
        {"attn_implementation": "somebody/kernels"},
        {"quantization_config": {"quant_method": "fp8"}},
        {"transformers_weights": "../model.safetensors"},
        {"configuration_files": ["config.0.0.1.json"]},
        {"layer_norm_eps": 2.5},
        {"id2label": {str(n): "x" for n in range(10_001)}},
    ],
    ids=str,
)
def test_a_configuration_that_refers_to_other_files_is_refused(
    copy_of: Callable[[str], Path], changes: dict[str, object]
) -> None:
    folder = copy_of("wav2vec2-group")
    edit(folder / "config.json", **changes)
    assert load_or_refuse(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_length": 20},
        {"hop_length": 80},
        {"feature_size": 128},
        {"sampling_rate": 8000},
        {"dither": 0.1},
        {"padding_side": "left"},
        {"do_normalize": "no"},
    ],
    ids=str,
)
def test_a_preprocessor_that_does_not_fit_its_encoder_is_refused(
    copy_of: Callable[[str], Path], changes: dict[str, object]
) -> None:
    folder = copy_of("whisper")
    edit(folder / "preprocessor_config.json", **changes)
    assert load_or_refuse(folder)


def test_the_settings_inside_a_processor_configuration_are_checked_too(
    copy_of: Callable[[str], Path],
) -> None:
    folder = copy_of("whisper")
    inner = json.loads((folder / "preprocessor_config.json").read_text()) | {"n_fft": 10**7}
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": inner}))
    with raises_about(UserError, folder / "processor_config.json", "n_fft", 10**7):
        load_encoder(str(folder))


def test_an_encoder_that_cannot_be_run_is_refused(
    copy_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of("wav2vec2-group")
    edit(folder / "config.json", num_attention_heads=-1)
    monkeypatch.setattr(checkpoint_limits, "_INTEGERS", {})  # as if it were not known to matter
    with raises_about(UserError, folder):
        load_encoder(str(folder))


def test_an_adapter_does_not_load_another_checkpoint(
    copy_of: Callable[[str], Path], family_encoder: Make
) -> None:
    folder = copy_of("wav2vec2-group")
    other = {"base_model_name_or_path": str(family_encoder("hubert-layer-stable"))}
    (folder / "adapter_config.json").write_text(json.dumps(other))
    with raises_about(UserError, folder, "adapter_config.json"):
        load_encoder(str(folder))


def make_sharded(folder: Path) -> dict[str, str]:
    """Put half of the weights into each of two files, with an index; return the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for number in range(2):
        name = f"part-{number}.safetensors"
        part = {key: weights[key] for key in sorted(weights)[number::2]}
        save_file(part, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    write_index(folder, index)
    return index


def write_index(folder: Path, index: object) -> None:
    content = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    [
        *("../../../etc/passwd", "../part-0.safetensors", "/etc/passwd", "..", "", 5, None, []),
        *("sub/part-0.safetensors", "..\\part-0.safetensors", "part-0.bin", "x\0.safetensors"),
    ],
)
def test_an_index_names_only_files_beside_it(copy_of: Callable[[str], Path], name: object) -> None:
    folder = copy_of("wav2vec2-group")
    index = make_sharded(folder)
    assert not load_or_refuse(folder)
    write_index(folder, index | {next(iter(index)): name})
    path = folder / "model.safetensors.index.json"
    with raises_about(UserError, path, json.dumps(name)):
        weight_files(path)
    assert load_or_refuse(folder)


@pytest.mark.parametrize("index", [None, [], {}, 5, "x"])
def test_an_index_without_names_is_refused(copy_of: Callable[[str], Path], index: object) -> None:
    folder = copy_of("wav2vec2-group")
    make_sharded(folder)
    write_index(folder, index)
    assert load_or_refuse(folder)


def test_a_missing_file_of_weights_is_named(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("wav2vec2-group")
    make_sharded(folder)
    (folder / "part-1.safetensors").unlink()
    assert load_or_refuse(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*JSON_FILES, "model.safetensors", "part-1.safetensors"])
def test_irregular_files_in_a_checkpoint_are_refused(
    copy_of: Callable[[str], Path], name: str, kind: str
) -> None:
    folder = copy_of("wav2vec2-group")
    if name.startswith("part"):
        make_sharded(folder)
    make_special(kind, folder / name)
    assert load_or_refuse(folder)


def test_a_damaged_header_of_weights_gives_an_encoder_or_one_line(
    copy_of: Callable[[str], Path],
) -> None:
    folder = copy_of("wav2vec2-group")
    whole = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    draw = np.random.default_rng(0)
    heads = [
        b"[]",
        b"null",
        b"{}",
        b'{"a":' * 5000,
        b'{"a":{"dtype":"F32","shape":[1e9]}}',
        b"\xff",
    ]
    contents = [struct.pack("<Q", len(head)) + head + whole[8 + size :] for head in heads]
    contents += [
        struct.pack("<Q", n) + whole[8:] for n in (0, 1, size - 1, size + 1, 2**63, 2**64 - 1)
    ]
    for _ in range(20):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[draw.integers(8, 8 + size, 3)] = draw.integers(32, 127, 3)
        contents.append(damaged.tobytes())
    refusals = 0
    for content in contents:
        (folder / "model.safetensors").write_bytes(content)
        refusals += load_or_refuse(folder)
    assert refusals > len(contents) // 2
