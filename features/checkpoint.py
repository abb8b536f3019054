"""Find and load the checkpoint of an encoder; refuse incomplete ones; run none of its code."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import MachineError, UserError, counted, first_line
from ..integrity import check_model_files
from .checkpoint_limits import (
    ADAPTER,
    CONFIG,
    EXTRACTOR,
    PROCESSOR,
    WEIGHTS,
    Limits,
    check_config,
    check_extractor,
    check_weights,
    read_settings,
    read_weights,
    weight_files,
    weight_names,
)
from .families import SUPPORTED, Family, Part, family_of
from .front_end import FrontEnd
from .known_models import known_training, names_of_folder
from .names import BUILT_IN, DEFAULT_ENCODER, check_checkpoint_name
from .training_record import FILE_NAME, TrainingRecord, read_corpora, read_record, unite

#: Commits of hub ids unless the user names another: numbers must not drift.
PINNED_REVISIONS = {DEFAULT_ENCODER: "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8"}

#: Loads and checks weights: takes the name for messages, source, revision and configuration.
Loader = Callable[[str, str, str | None, Any], nn.Module]


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
    name: str, revision: str | None, *, load: Loader | None = None, option: str = "--encoder"
) -> Checkpoint:
    """Load a checkpoint.

    ``name`` is a built-in name (``"whisper-tiny.en"``), a local folder in the layout of
    transformers, or a hub id, and ``revision`` a branch, tag or commit of a hub id; ids in
    ``PINNED_REVISIONS`` have one. ``load`` loads and checks the weights, by default those of the
    encoder alone. ``option`` is the option that names the checkpoint, for messages.

    Raise UserError if the checkpoint is missing, of an unknown kind, or lacks weights or its
    preprocessor, and MachineError if the hub cannot be reached.
    """
    import transformers
    from huggingface_hub import logging as hub_logging

    source, revision = _locate(name, revision, option)
    folder = Path(source) if revision in ("local", "built-in") else None
    hub_revision = None if folder else revision
    if folder:
        _check_folder(folder)
    files = _Source(name, option, source, folder, hub_revision)
    quiet = transformers.logging
    verbosity, hub_verbosity = quiet.get_verbosity(), hub_logging.get_verbosity()
    quiet.set_verbosity_error()  # the causes of its warnings are checked here, and refused
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    quiet.disable_progress_bar()
    try:
        # No code from the checkpoint: by default transformers would ask on the terminal.
        here = {"revision": hub_revision, "trust_remote_code": False}
        settings = _read_settings(files)
        model_type = str(settings.get("model_type"))
        part = family_of(model_type).parts.get(model_type) if settings else None
        if part:
            config, commit = _part_config(part, settings), _commit(files)
        else:
            config = transformers.AutoConfig.from_pretrained(source, **here)
            model_type, commit = config.model_type, getattr(config, "_commit_hash", None)
        family = family_of(model_type)
        if load and not family.is_trainable:
            raise UserError(
                f"{name}: model type {model_type!r} is supported as a frozen encoder, not as a "
                f"trained classifier; choose another {option}"
            )
        extractor = _load_extractor(family, source, here)
        config_sha256 = _hash_configs(config, extractor)
        front_end = family.front_end(name, config, extractor)
        model: nn.Module
        if part:
            model = _load_part(files, family, part, config)
        else:
            _check_weights(files, family, config)
            model = (load or _load_model)(name, source, hub_revision, config)
        weights_sha256 = _hash_weights(model)
        training = _training(files, settings)
    except UserError:
        raise
    except Exception as error:  # a damaged checkpoint can make the loaders raise anything
        raise _explain(files, error) from error
    finally:
        quiet.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        quiet.enable_progress_bar()
    return Checkpoint(
        name=Path(source).resolve().name if folder else name,
        revision=revision if folder else (commit or revision),
        weights_sha256=weights_sha256,
        config_sha256=config_sha256,
        model_type=model_type,
        model=model,
        front_end=front_end,
        training=training,
    )


@dataclass(frozen=True)
class _Source:
    """The files of a checkpoint, in a local folder or on the hub.

    Its name, as given, and the option that gave it are for messages.
    """

    name: str
    option: str
    source: str
    folder: Path | None
    revision: str | None

    def find(self, name: str) -> Path | None:
        """Return a file, downloaded if necessary; None if there is none of that name."""
        from transformers.utils import cached_file

        if self.folder:
            file = self.folder / name
            return file if os.path.lexists(file) else None
        path = cached_file(
            self.source,
            name,
            revision=self.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return Path(path) if path else None


def _read_settings(files: _Source) -> dict[str, Any]:
    """Return the content of ``config.json`` after checking everything that decides the model."""
    config = files.find(CONFIG)
    settings = read_settings(config) if config else {}
    # Without it, the error of transformers names the reason.
    kind = settings.get("model_type")
    if config and kind not in SUPPORTED:
        raise UserError(
            f"{files.name}: model type {kind!r:.40}; expected a speech encoder of type "
            f"{', '.join(SUPPORTED)}; choose another {files.option}"
        )
    family = family_of(str(kind)) if config else Family()
    part = family.parts.get(str(kind))
    if part and part.config_key:
        check_config(config or Path(CONFIG), settings, Limits())
        inner = settings.get(part.config_key)
        if not isinstance(inner, dict):
            raise UserError(
                f"{files.name}: {CONFIG} has no {part.config_key}, the configuration of the "
                "encoder; download the checkpoint again"
            )
        check_config(config or Path(CONFIG), inner, family.config_limits)
    else:
        check_config(config or Path(CONFIG), settings, family.config_limits)
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
                        f"{path}: is of type {given!r:.40}, but model type {kind!r:.40} needs "
                        f"{family.extractor}; download the checkpoint again"
                    )
    if files.find(ADAPTER):
        raise UserError(
            f"{files.name}: holds {ADAPTER}, an adapter of another checkpoint; merge it with peft "
            "and save the whole encoder with save_pretrained()"
        )
    return settings


def _part_config(part: Part, settings: Mapping[str, Any]) -> Any:
    """Return the configuration of an encoder within a larger model, whose own is not built."""
    import transformers

    values = settings[part.config_key] if part.config_key else settings
    return getattr(transformers, part.config_class).from_dict(dict(values))


def _commit(files: _Source) -> str | None:
    """Return the commit that a hub checkpoint was downloaded from; None for a local folder."""
    from transformers.utils.hub import extract_commit_hash

    path = None if files.folder else files.find(CONFIG)
    commit: str | None = extract_commit_hash(str(path), None) if path else None
    return commit


def _load_extractor(family: Family, source: str, here: Mapping[str, Any]) -> Any:
    import transformers

    with warnings.catch_warnings():
        # Some published filter banks have empty filters at low frequencies.
        warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
        if family.extractor is None:
            return transformers.AutoFeatureExtractor.from_pretrained(source, **here)
        kind = getattr(transformers, family.extractor)
        return kind.from_pretrained(source, revision=here["revision"])


def _weight_paths(files: _Source, prefixes: tuple[str, ...] = ("",)) -> list[Path]:
    """Return the files that hold weights with any of some prefixes."""
    for each in WEIGHTS:
        file, index = files.find(each), files.find(f"{each}.index.json")
        paths = [file] if file else []
        if index and not file:
            names = weight_files(index, prefixes)
            paths = [path for name in names if (path := files.find(name))]
        if paths:
            return paths
    return []


def _check_weights(files: _Source, family: Family, config: Any) -> None:
    """Refuse a configuration that describes more weights than the files hold."""
    paths = _weight_paths(files)
    if not paths:  # the error of transformers names the files
        return
    n_weights = _count_weights(family.model_class(config), family, config)
    check_weights(files.name, paths, family.block_pattern, family.n_blocks(config), n_weights)


def _count_weights(kind: Any, family: Family, config: Any) -> int:
    """Count the weights that a configuration describes."""
    with torch.device("meta"):  # shapes alone, no memory
        model = kind._from_config(config)
    return sum(
        weights.numel()
        for key, weights in model.named_parameters()
        if not key.startswith((*family.unused, "masked_spec_embed"))
    )


def _load_part(files: _Source, family: Family, part: Part, config: Any) -> nn.Module:
    """Load the encoder of a larger model; no other weights are read.

    Raise UserError if the files hold none of its weights, or not all of them.
    """
    import transformers

    paths = _weight_paths(files, part.prefixes)
    kind = attrgetter(part.model_class)(transformers)
    keys = [key for path in paths for key in weight_names(path)]
    prefix = next((p for p in part.prefixes if any(key.startswith(p) for key in keys)), None)
    if prefix is None:
        raise UserError(
            f"{files.name}: has no weights that begin with {' or '.join(part.prefixes)}, which are "
            "those of the encoder; download the checkpoint again"
        )
    n_weights = _count_weights(kind, family, config)
    n_blocks = family.n_blocks(config)
    check_weights(files.name, paths, family.block_pattern, n_blocks, n_weights, prefix)
    tensors = {
        key.removeprefix(prefix): tensor
        for path in paths
        for key, tensor in read_weights(path, prefix).items()
    }
    _switch_off_training(config)
    model, report = load_as(kind, files.name, None, None, config, tensors)
    _check_complete(files.name, family, report)
    return family.encoder(model)


def _training(files: _Source, config: Mapping[str, Any]) -> TrainingRecord | None:
    """Return what a checkpoint was trained on, from its record and its names."""
    corpora = read_corpora(config.get("serpipe"))
    # On the hub, only models trained by serpipe have a record.
    path = files.find(FILE_NAME) if files.folder or corpora else None
    record = read_record(path) if path else None
    unlisted = corpora - record.corpora if record else corpora
    named = TrainingRecord(corpora=corpora, unlisted=unlisted) if corpora else None
    names = [
        *(names_of_folder(files.folder) if files.folder else [files.name]),
        str(config.get("_name_or_path") or ""),
    ]
    return unite([record, named, known_training(names)])


def _locate(name: str, revision: str | None, option: str) -> tuple[str, str]:
    """Return the source to load from, and its revision."""
    if name in BUILT_IN:
        return str(BUILT_IN[name]), "built-in"
    if Path(name).exists():
        return name, "local"
    check_checkpoint_name(name, option)
    return name, revision or PINNED_REVISIONS.get(name, "main")


def _check_folder(folder: Path) -> None:
    check_model_files(folder)
    for needed in ("config.json", "preprocessor_config.json"):
        if not (folder / needed).is_file():
            raise UserError(
                f"{folder}: has no {needed}; save the model and its feature extractor with "
                "save_pretrained()"
            )


def _load_model(name: str, source: str, revision: str | None, config: Any) -> nn.Module:
    """Load the weights; refuse the checkpoint if any is missing or does not fit."""
    _switch_off_training(config)
    family = family_of(config.model_type)
    model, report = load_as(family.model_class(config), name, source, revision, config)
    _check_complete(name, family, report)
    return family.encoder(model)


def _switch_off_training(config: Any) -> None:
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
    source: str | None,
    revision: str | None,
    config: Any,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Load weights into a transformers class, in float32, without code from the checkpoint.

    ``name`` is that of the checkpoint in messages, and ``source`` its path or hub id; instead,
    ``tensors`` may hold the weights. Return the
    model, in which missing weights are random, and a report with ``missing_keys``,
    ``mismatched_keys`` and ``unexpected_keys``. Raise UserError if the weights do not fit the
    configuration.
    """
    try:
        model, report = kind.from_pretrained(
            source,
            revision=revision,
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


def _explain(files: _Source, error: Exception) -> UserError | MachineError:
    """Return an error of transformers or the hub as one line."""
    name, option = files.name, files.option
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    reason = first_line(error)
    if files.folder:
        return UserError(
            f"{name}: cannot be loaded ({reason}); download it again, in the layout of transformers"
        )
    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) and link not in chain:
        chain.append(link)
    theirs = (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)
    if any(isinstance(link, theirs) for link in chain):
        return UserError(
            f"{name}: not on the hub, or not accessible to you ({reason}); check {option} and "
            "--revision, or run `hf auth login`"
        )
    built_in = f"the built-in encoder: --encoder {next(iter(BUILT_IN))}"
    return MachineError(
        f"{name}: is not in the local hub cache and cannot be downloaded ({reason}); connect to "
        f"the network, or use {built_in if option == '--encoder' else 'a local folder'}"
    )
