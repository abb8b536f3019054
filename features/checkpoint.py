"""Find and load an encoder's checkpoint; refuse one that is not whole; run no code of its."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    check_config,
    check_extractor,
    check_frames,
    check_weights,
    read_settings,
    shards,
)
from .front_end import FrontEnd, LogMelFrontEnd, WaveformFrontEnd
from .known_models import known_training, names_of_folder
from .names import DEFAULT_ENCODER, check_checkpoint_name
from .training_record import FILE_NAME, TrainingRecord, read_corpora, read_record, unite

#: Encoders that ship with the package.
BUILT_IN = {"whisper-tiny.en": Path(__file__).parent / "builtin" / "whisper-tiny.en"}
#: Commits that hub ids stand for unless the user names another: numbers must not drift.
PINNED_REVISIONS = {DEFAULT_ENCODER: "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8"}

WAVEFORM_MODELS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
LOG_MEL_MODELS = ("whisper",)
SUPPORTED = WAVEFORM_MODELS + LOG_MEL_MODELS

#: Loads weights, checked: takes the name for messages, where from, the revision, the configuration.
Loader = Callable[[str, str, str | None, Any], nn.Module]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, in float32 on the CPU, as it was saved.

    Attributes
    ----------
    name : str
        Hub id, built-in name, or name of the local folder.
    revision : str
        Commit of a hub id; ``"local"`` or ``"built-in"`` otherwise.
    weights_sha256 : str
        Hash over names, shapes and values of the encoder's weights.
    config_sha256 : str
        Hash over the configurations of the model and of its feature extractor.
    model_type : str
        The architecture, as its ``config.json`` names it.
    model : PreTrainedModel
        The encoder, or what another loader made.
    front_end : FrontEnd
        From waveforms to its inputs.
    training : TrainingRecord or None
        What it was trained on, beyond what encoders are pretrained on; None if nothing is known.
    """

    name: str
    revision: str
    weights_sha256: str
    config_sha256: str
    model_type: str
    model: nn.Module
    front_end: FrontEnd
    training: TrainingRecord | None = None

    @property
    def is_whisper(self) -> bool:
        """Whether it takes log-mel spectrograms of a fixed window."""
        return self.model_type in LOG_MEL_MODELS


def load_checkpoint(
    name: str, revision: str | None, *, load: Loader | None = None, option: str = "--encoder"
) -> Checkpoint:
    """Load a checkpoint.

    Parameters
    ----------
    name : str
        A built-in name (``"whisper-tiny.en"``), a local folder in the layout of transformers, or
        a hub id.
    revision : str or None
        Branch, tag or commit of a hub id. Ids in ``PINNED_REVISIONS`` have one.
    load : callable, optional
        Loads and checks the weights: those of an encoder alone by default.
    option : str
        What named the checkpoint, for messages.

    Returns
    -------
    Checkpoint

    Raises
    ------
    UserError
        If the checkpoint is not there, of an unknown kind, or lacks weights or its preprocessor.
    MachineError
        If the hub cannot be reached.
    """
    import transformers
    from huggingface_hub import logging as hub_logging

    source, revision = _locate(name, revision, option)
    folder = Path(source) if revision in ("local", "built-in") else None
    hub_revision = None if folder else revision
    if folder:
        _check_folder(folder)
    place = _Place(source, folder, hub_revision)
    quiet = transformers.logging
    verbosity, hub_verbosity = quiet.get_verbosity(), hub_logging.get_verbosity()
    quiet.set_verbosity_error()  # what it would warn of is checked here, and refused
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    quiet.disable_progress_bar()
    try:
        # Explicitly no code from the checkpoint: by default transformers would ask on the terminal.
        here = {"revision": hub_revision, "trust_remote_code": False}
        settings = _read_settings(name, place, option)
        config = transformers.AutoConfig.from_pretrained(source, **here)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(source, **here)
        config_sha256 = _hash_configs(config, extractor)
        front_end = _front_end(name, config, extractor)
        _check_weights(name, place, config)
        model = (load or _load_model)(name, source, hub_revision, config)
        weights_sha256 = _hash_weights(model)
        training = _training(name, place, settings, weights_sha256)
    except UserError:
        raise
    except Exception as error:  # a damaged checkpoint can make the loaders raise anything
        raise _explain(name, folder, error, option) from error
    finally:
        quiet.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        quiet.enable_progress_bar()
    commit = getattr(config, "_commit_hash", None)
    return Checkpoint(
        name=Path(source).resolve().name if folder else name,
        revision=revision if folder else (commit or revision),
        weights_sha256=weights_sha256,
        config_sha256=config_sha256,
        model_type=config.model_type,
        model=model,
        front_end=front_end,
        training=training,
    )


@dataclass(frozen=True)
class _Place:
    """Where a checkpoint is: in a local folder, or on the hub under an id."""

    source: str
    folder: Path | None
    revision: str | None

    def find(self, name: str) -> Path | None:
        """Return a file of it, fetched if need be; None if it has none of that name."""
        from transformers.utils import cached_file

        if self.folder:
            file = self.folder / name
            return file if os.path.lexists(file) else None
        found = cached_file(
            self.source,
            name,
            revision=self.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return Path(found) if found else None


def _read_settings(name: str, place: _Place, option: str) -> dict[str, Any]:
    """Return what ``config.json`` says, having checked all that decides what is built."""
    config = place.find(CONFIG)
    settings = read_settings(config) if config else {}
    # Without one, transformers says why it is not there.
    kind = settings.get("model_type")
    if config and kind not in SUPPORTED:
        raise UserError(
            f"{name}: model type {kind!r:.40}; expected a speech encoder of type "
            f"{', '.join(SUPPORTED)}; choose another {option}"
        )
    check_config(config or Path(CONFIG), settings)
    for other in (EXTRACTOR, PROCESSOR):
        path = place.find(other)
        if path:
            told = read_settings(path)
            # Newer versions of transformers save the one inside the other.
            inner = told.get("feature_extractor") if other == PROCESSOR else told
            if inner is not None:
                check_extractor(path, inner if isinstance(inner, dict) else {})
    if place.find(ADAPTER):
        raise UserError(
            f"{name}: holds {ADAPTER}, a change to another checkpoint; expected a whole encoder; "
            "merge the adapter with peft and save the result with save_pretrained()"
        )
    return settings


def _check_weights(name: str, place: _Place, config: Any) -> None:
    """Refuse a configuration that asks for more than the weights that are there."""
    files: list[Path] = []
    for each in WEIGHTS:
        file, index = place.find(each), place.find(f"{each}.index.json")
        if file:
            files = [file]
        elif index:
            files = [found for shard in shards(index) if (found := place.find(shard))]
        if files:
            break
    if not files:  # transformers says what it looked for
        return
    with torch.device("meta"):  # shapes alone, no memory
        model = _encoder_class(config)._from_config(config)
    n_weights = sum(
        weights.numel()
        for key, weights in model.named_parameters()
        if not key.startswith((*_unused(config), "masked_spec_embed"))
    )
    check_weights(name, files, config.num_hidden_layers, n_weights)


def _encoder_class(config: Any) -> Any:
    """Return the class of transformers that holds the encoder, for Whisper without its decoder."""
    import transformers

    if config.model_type in LOG_MEL_MODELS:
        return transformers.WhisperForAudioClassification
    return transformers.MODEL_MAPPING[type(config)]


def _unused(config: Any) -> tuple[str, ...]:
    """Return how the names of weights begin that no encoder needs."""
    return ("projector.", "classifier.") if config.model_type in LOG_MEL_MODELS else ("adapter.",)


def _training(
    name: str, place: _Place, config: Mapping[str, Any], weights_sha256: str
) -> TrainingRecord | None:
    """Return what a checkpoint was trained on, from its record, its names and its weights."""
    corpora = read_corpora(config.get("serpipe"))
    # On the hub, only what serpipe has trained has a record.
    path = place.find(FILE_NAME) if place.folder or corpora else None
    record = read_record(path) if path else None
    unlisted = corpora - record.corpora if record else corpora
    named = TrainingRecord(corpora=corpora, unlisted=unlisted) if corpora else None
    names = [
        *(names_of_folder(place.folder) if place.folder else [name]),
        str(config.get("_name_or_path") or ""),
    ]
    return unite([record, named, known_training(names, weights_sha256)])


def _locate(name: str, revision: str | None, option: str) -> tuple[str, str]:
    """Return where to load from, and the revision to ask for or record."""
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
                f"{folder}: no {needed} there; expected an encoder in the layout of transformers; "
                "save the model and its feature extractor with save_pretrained()"
            )


def _load_model(name: str, source: str, revision: str | None, config: Any) -> nn.Module:
    """Load the weights; refuse if any is missing or does not fit."""
    # What only training uses is switched off before loading, so that it asks for no weights.
    config.layerdrop = config.mask_time_prob = config.mask_feature_prob = 0.0
    config.apply_spec_augment = False
    model, told = load_as(_encoder_class(config), name, source, revision, config)
    unused = _unused(config)
    missing = sorted(key for key in told["missing_keys"] if not key.startswith(unused))
    wrong = sorted(str(key) for key in told["mismatched_keys"])
    if missing or wrong:
        first = (missing + wrong)[0]
        raise UserError(
            f"{name}: {counted(len(missing), 'weight')} missing and {len(wrong)} of a wrong shape, "
            f"first {first}; expected all weights of the encoder; fetch the checkpoint again"
        )
    encoder: nn.Module = model.encoder if config.model_type in LOG_MEL_MODELS else model
    return encoder


def load_as(
    kind: Any, name: str, source: str, revision: str | None, config: Any
) -> tuple[Any, dict[str, Any]]:
    """Load weights as a class of transformers, in float32, and run no code of the checkpoint.

    Parameters
    ----------
    kind : type
        The class.
    name, source : str
        What the user calls the checkpoint, and where it is.
    revision : str or None
        Of a hub id.
    config : PretrainedConfig
        Its configuration.

    Returns
    -------
    model : PreTrainedModel
        Weights that the checkpoint lacks are random.
    told : dict
        ``missing_keys``, ``mismatched_keys`` and ``unexpected_keys``.

    Raises
    ------
    UserError
        If the weights do not fit the configuration.
    """
    try:
        model, told = kind.from_pretrained(
            source,
            revision=revision,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except RuntimeError as error:
        raise UserError(
            f"{name}: weights do not fit its config.json ({first_line(error)}); "
            "expected one checkpoint as it was saved; fetch it again"
        ) from error
    return model, told


def _front_end(name: str, config: Any, extractor: Any) -> FrontEnd:
    """Return what makes inputs of waveforms, having checked that it fits the encoder."""
    if config.model_type in LOG_MEL_MODELS:
        # Two convolutions, of which the second takes every other step.
        found = (extractor.feature_size, extractor.nb_max_frames)
        expected = (config.num_mel_bins, 2 * config.max_source_positions)
        if found != expected:
            raise UserError(
                f"{name}: {EXTRACTOR} gives {found[0]} mel bins and {found[1]} steps; expected "
                f"{expected[0]} and {expected[1]}, as its {CONFIG} says; fetch the checkpoint again"
            )
        return LogMelFrontEnd(extractor, extractor.n_samples // config.max_source_positions)
    front_end = WaveformFrontEnd(
        sampling_rate=int(extractor.sampling_rate),
        normalise=bool(extractor.do_normalize),
        kernels=tuple(config.conv_kernel),
        strides=tuple(config.conv_stride),
    )
    check_frames(name, front_end.frames(front_end.sampling_rate))
    return front_end


def _hash_weights(model: nn.Module) -> str:
    """Hash names, shapes and float32 values, so that the file format does not matter."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _hash_configs(config: Any, extractor: Any) -> str:
    """Hash what shapes the numbers besides the weights, without names of places and versions."""
    said = [config.to_dict(), extractor.to_dict()]
    for one in said:
        for aside in ("_name_or_path", "transformers_version", "architectures", "mel_filters"):
            one.pop(aside, None)
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _explain(
    name: str, folder: Path | None, error: Exception, option: str
) -> UserError | MachineError:
    """Turn what transformers or the hub raised into one line."""
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    reason = first_line(error)
    if folder:
        return UserError(
            f"{name}: cannot be loaded ({reason}); expected an encoder in the layout of "
            "transformers; fetch it again"
        )
    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) and link not in chain:
        chain.append(link)
    theirs = (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)
    if any(isinstance(link, theirs) for link in chain):
        return UserError(
            f"{name}: not on the hub, or not open to you ({reason}); expected a public speech "
            f"encoder; check {option} and --revision, or `hf auth login`"
        )
    built_in = f"the built-in encoder: --encoder {next(iter(BUILT_IN))}"
    return MachineError(
        f"{name}: is not in the local hub cache and cannot be fetched ({reason}); connect to the "
        f"network, or take {built_in if option == '--encoder' else 'a local folder'}"
    )
