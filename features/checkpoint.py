"""Find and load the checkpoint of an encoder; refuse incomplete ones; run none of its code."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import SerpipeError, UserError, counted, first_line
from .checkpoint_files import CheckpointFiles, Layout, Loaded, locate
from .checkpoint_limits import (
    ADAPTER,
    CONFIG,
    EXTRACTOR,
    MAX_JSON_BYTES,
    PROCESSOR,
    Limits,
    check_config,
    check_extractor,
    check_weights,
    read_settings,
    read_weights,
    weight_names,
)
from .emotion2vec_files import load_emotion2vec
from .families import SUPPORTED, Family, Part, family_of
from .front_end import FrontEnd
from .known_models import known_training, names_of_folder
from .training_record import FILE_NAME, MAX_BYTES, TrainingRecord, read_corpora, read_record, unite

#: Loads and checks weights: takes the name for messages, folder and configuration.
Loader = Callable[[str, Path, Any], nn.Module]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, in float32 on the CPU, as it was saved.

    The first five fields are those of :class:`~serpipe.features.encoder.EncoderIdentity`.
    """

    name: str
    revision: str
    weights_sha256: str
    config_sha256: str
    model_type: str
    #: The encoder, or the result of another loader.
    model: nn.Module
    #: From waveforms to its inputs.
    front_end: FrontEnd
    #: What it was trained on, beyond the pretraining; None if nothing is known.
    training: TrainingRecord | None = None

    @property
    def family(self) -> Family:
        """The family of encoders that it belongs to."""
        return family_of(self.model_type)


def load_checkpoint(
    name: str,
    revision: str | None,
    *,
    load: Loader | None = None,
    layouts: Sequence[Layout] = (load_emotion2vec,),
    option: str = "--encoder",
) -> Checkpoint:
    """Load a checkpoint.

    ``name`` is a built-in name (``"whisper-tiny.en"``), a local folder in the layout of
    transformers, or a hub id, and ``revision`` a branch, tag or commit of a hub id; ids in
    ``PINNED_REVISIONS`` have one. ``load`` loads and checks the weights, by default those of the
    encoder alone. ``layouts`` load checkpoints that transformers does not know; the first that
    recognises the files is used. ``option`` is the option that names the checkpoint, for messages.

    Raise UserError if the checkpoint is missing, of an unknown kind, or lacks weights or its
    preprocessor, and MachineError if the hub cannot be reached.
    """
    with _quiet():
        files = locate(name, revision, option)
        try:
            loaded = next((each for layout in layouts if (each := layout(files))), None)
            if loaded:
                training = _training(files, {})
            else:
                settings = _read_settings(files)
                training = _training(files, settings)  # before the weights, which come last
                loaded = _load_transformers(files, settings, load)
            weights_sha256 = _hash_weights(loaded.model)
        except SerpipeError:
            raise
        except Exception as error:  # a damaged checkpoint can make the loaders raise anything
            raise UserError(
                f"{name}: cannot be loaded ({first_line(error)}); {files.remedy}"
            ) from error
    return Checkpoint(
        name=name if files.snapshot else files.folder.resolve().name,
        revision=files.revision,
        weights_sha256=weights_sha256,
        config_sha256=loaded.config_sha256,
        model_type=loaded.model_type,
        model=loaded.model,
        front_end=loaded.front_end,
        training=training,
    )


def _load_transformers(
    files: CheckpointFiles, settings: Mapping[str, Any], load: Loader | None
) -> Loaded:
    """Load a checkpoint in the layout of transformers, whose ``config.json`` has been checked."""
    name, model_type = files.name, str(settings["model_type"])
    family = family_of(model_type)
    if load and not family.is_trainable:
        raise UserError(
            f"{name}: model type {model_type!r} is supported as a frozen encoder, not as a "
            f"trained classifier; choose another {files.option}"
        )
    part = family.parts.get(model_type)
    config = _load_config(files, part, settings)
    extractor = _load_extractor(files, family)
    config_sha256 = _hash_configs(config, extractor)
    front_end = family.front_end(name, config, extractor)
    model: nn.Module
    if part:
        model = _load_part(files, family, part, config)
    else:
        _check_weights(files, family, config)  # downloads them, after everything else
        model = (load or _load_model)(name, files.folder, config)
    return Loaded(model_type, model, front_end, config_sha256)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of the libraries: their causes are checked here, and refused."""
    import transformers
    from huggingface_hub import logging as hub_logging

    verbosity, hub_verbosity = transformers.logging.get_verbosity(), hub_logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)


def _read_settings(files: CheckpointFiles) -> dict[str, Any]:
    """Return the content of ``config.json`` after checking everything that decides the model."""
    (config,) = files.get([CONFIG], MAX_JSON_BYTES)
    settings = read_settings(config)
    kind = settings.get("model_type")
    if kind not in SUPPORTED:
        raise UserError(
            f"{files.name}: model type {kind!r:.40}; expected a speech encoder of type "
            f"{', '.join(SUPPORTED)}; choose another {files.option}"
        )
    family = family_of(kind)
    part = family.parts.get(kind)
    if part and part.config_key:
        check_config(config, settings, Limits())
        inner = settings.get(part.config_key)
        if not isinstance(inner, dict):
            raise UserError(
                f"{files.name}: {CONFIG} has no {part.config_key}, the configuration of the "
                "encoder; download the checkpoint again"
            )
        check_config(config, inner, family.config_limits)
    else:
        check_config(config, settings, family.config_limits)
    any_extractor = False
    for other in (EXTRACTOR, PROCESSOR):
        path = files.find(other)
        if path:
            content = read_settings(path)
            # Newer versions of transformers save the one inside the other.
            inner = content.get("feature_extractor") if other == PROCESSOR else content
            if inner is not None:
                inner = inner if isinstance(inner, dict) else {}
                check_extractor(path, inner, family.extractor_limits)
                given = inner.get("feature_extractor_type") or family.extractor
                if family.extractor and given != family.extractor:
                    raise UserError(
                        f"{path}: is of type {given!r:.40}, but model type {kind!r} needs "
                        f"{family.extractor}; download the checkpoint again"
                    )
                any_extractor = True
    if not any_extractor:
        raise files.lacks(EXTRACTOR)
    if files.find(ADAPTER):
        raise UserError(
            f"{files.name}: holds {ADAPTER}, an adapter of another checkpoint; merge it with peft "
            "and save the whole encoder with save_pretrained()"
        )
    return settings


def _load_config(files: CheckpointFiles, part: Part | None, settings: Mapping[str, Any]) -> Any:
    """Return the configuration of an encoder; that of a larger model is not built."""
    import transformers

    if part is None:
        # No code from the checkpoint: by default transformers would ask on the terminal.
        return transformers.AutoConfig.from_pretrained(str(files.folder), trust_remote_code=False)
    values = settings[part.config_key] if part.config_key else settings
    return getattr(transformers, part.config_class).from_dict(dict(values))


def _load_extractor(files: CheckpointFiles, family: Family) -> Any:
    """Return the feature extractor of a checkpoint."""
    import transformers

    with warnings.catch_warnings():
        # Some published filter banks have empty filters at low frequencies.
        warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
        if family.extractor:
            return getattr(transformers, family.extractor).from_pretrained(str(files.folder))
        return transformers.AutoFeatureExtractor.from_pretrained(
            str(files.folder), trust_remote_code=False
        )


def _check_weights(files: CheckpointFiles, family: Family, config: Any) -> None:
    """Refuse a configuration that describes more weights than the files hold."""
    n_weights = count_weights(family.model_class(config), family, config)
    n_blocks = family.n_blocks(config)
    check_weights(files.name, files.weights(), family.block_pattern, n_blocks, n_weights)


def count_weights(kind: Any, family: Family, config: Any) -> int:
    """Count the weights that a configuration describes."""
    with torch.device("meta"):  # shapes alone, no memory
        model = kind._from_config(config)
    return sum(
        weights.numel()
        for key, weights in model.named_parameters()
        if not key.startswith((*family.unused, "masked_spec_embed"))
    )


def _load_part(files: CheckpointFiles, family: Family, part: Part, config: Any) -> nn.Module:
    """Load the encoder of a larger model; no other weights are read.

    Raise UserError if the files hold none of its weights, or not all of them.
    """
    import transformers

    kind = attrgetter(part.model_class)(transformers)
    n_weights = count_weights(kind, family, config)
    paths = files.weights(part.prefixes)
    keys = [key for path in paths for key in weight_names(path)]
    prefix = next((p for p in part.prefixes if any(key.startswith(p) for key in keys)), None)
    if prefix is None:
        raise UserError(
            f"{files.name}: has no weights that begin with {' or '.join(part.prefixes)}, which are "
            "those of the encoder; download the checkpoint again"
        )
    model, report = load_with_prefix(kind, files.name, paths, prefix, family, config, n_weights)
    _check_complete(files.name, family, report)
    return family.encoder(model)


def load_with_prefix(
    kind: Any,
    name: str,
    paths: Sequence[Path],
    prefix: str,
    family: Family,
    config: Any,
    n_weights: int,
) -> tuple[Any, dict[str, Any]]:
    """Load those weights of some files whose names begin with a prefix; read no others.

    ``n_weights`` are as many as the configuration describes, from :func:`count_weights`; files
    that hold fewer are refused before memory is taken for them. The other arguments, the results
    and errors are as for :func:`load_as`.
    """
    n_blocks = family.n_blocks(config)
    check_weights(name, paths, family.block_pattern, n_blocks, n_weights, prefix)
    tensors = {
        key.removeprefix(prefix): tensor
        for path in paths
        for key, tensor in read_weights(path, prefix).items()
    }
    switch_off_training(config)
    return load_as(kind, name, None, config, tensors)


def _training(files: CheckpointFiles, config: Mapping[str, Any]) -> TrainingRecord | None:
    """Return what a checkpoint was trained on, from its record and its names."""
    corpora = read_corpora(config.get("serpipe"))
    # On the hub, only models trained by serpipe have a record.
    path = files.find(FILE_NAME, MAX_BYTES) if corpora or not files.snapshot else None
    record = read_record(path) if path else None
    unlisted = corpora - record.corpora if record else corpora
    named = TrainingRecord(corpora=corpora, unlisted=unlisted) if corpora else None
    names = [
        *([files.name] if files.snapshot else names_of_folder(files.folder)),
        str(config.get("_name_or_path") or ""),
    ]
    return unite([record, named, known_training(names)])


def _load_model(name: str, folder: Path, config: Any) -> nn.Module:
    """Load the weights; refuse the checkpoint if any is missing or does not fit."""
    switch_off_training(config)
    family = family_of(config.model_type)
    model, report = load_as(family.model_class(config), name, folder, config)
    _check_complete(name, family, report)
    return family.encoder(model)


def switch_off_training(config: Any) -> None:
    """Switch off parts that only training uses, before loading, so that they need no weights."""
    config.layerdrop = config.mask_time_prob = config.mask_feature_prob = 0.0
    config.apply_spec_augment = False


def _check_complete(name: str, family: Family, report: Mapping[str, Any]) -> None:
    """Raise UserError if weights of the encoder are missing or do not fit."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(family.unused))
    wrong = sorted(str(key) for key in report["mismatched_keys"])
    if missing or wrong:
        first = (missing + wrong)[0]
        raise UserError(
            f"{name}: {counted(len(missing), 'weight')} missing and {len(wrong)} of a wrong shape, "
            f"first {first}; download the checkpoint again"
        )


def load_as(
    kind: Any,
    name: str,
    folder: Path | None,
    config: Any,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Load weights into a transformers class, in float32, without code from the checkpoint.

    ``name`` is that of the checkpoint in messages, and ``folder`` has its files; instead,
    ``tensors`` may hold the weights. Return the model, in which missing weights are random, and a
    report with ``missing_keys``, ``mismatched_keys`` and ``unexpected_keys``. Raise UserError if
    the weights do not fit the configuration.
    """
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(
            folder and str(folder),
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except RuntimeError as error:
        raise UserError(
            f"{name}: weights do not fit its config.json ({first_line(error)}); download the "
            "checkpoint again"
        ) from error
    finally:
        if had_bars:
            logging.enable_progress_bar()
    return model, report


def _hash_weights(model: nn.Module) -> str:
    """Hash names, shapes and float32 values, so that the file format does not matter."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _hash_configs(config: Any, extractor: Any) -> str:
    """Hash what the numbers depend on besides the weights, without names and versions."""
    settings = [config.to_dict(), extractor.to_dict()]
    for each in settings:
        for name in ("_name_or_path", "transformers_version", "architectures", "mel_filters"):
            each.pop(name, None)
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
