"""Load a frozen speech encoder, and refuse one that would give wrong numbers without a sound."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import MachineError, UserError
from .audio import Waveform
from .front_end import FrontEnd, LogMelFrontEnd, WaveformFrontEnd
from .pooling import LayerPooler

#: Encoders that ship with the package.
BUILT_IN = {"whisper-tiny.en": Path(__file__).parent / "builtin" / "whisper-tiny.en"}
DEFAULT_ENCODER = "facebook/wav2vec2-base"
#: Commits that hub ids stand for unless the user names another: numbers must not drift.
PINNED_REVISIONS = {DEFAULT_ENCODER: "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8"}

WAVEFORM_MODELS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
LOG_MEL_MODELS = ("whisper",)
SUPPORTED = WAVEFORM_MODELS + LOG_MEL_MODELS


@dataclass(frozen=True)
class EncoderIdentity:
    """What an encoder's numbers depend on, all of it recorded in the cache.

    Attributes
    ----------
    encoder : str
        Hub id, built-in name, or name of the local folder.
    revision : str
        Commit of a hub id; ``"local"`` or ``"built-in"`` otherwise.
    weights_sha256 : str
        Hash over names, shapes and values of all weights that take part.
    model_type : str
        The architecture, as its ``config.json`` names it.
    layers : tuple of str
        Names of the layers, see :mod:`serpipe.features.pooling`.
    width : int
        Size of a hidden state.
    sampling_rate : int
        In Hz.
    normalise : bool
        Whether each clip is brought to zero mean and unit variance first.
    """

    encoder: str
    revision: str
    weights_sha256: str
    model_type: str
    layers: tuple[str, ...]
    width: int
    sampling_rate: int
    normalise: bool


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder, ready to embed. Made by :func:`load_encoder`."""

    identity: EncoderIdentity
    front_end: FrontEnd
    device: torch.device
    model: nn.Module
    pooler: LayerPooler

    def embed(self, waveforms: Sequence[Waveform]) -> dict[str, np.ndarray[Any, Any]]:
        """Embed a batch of clips.

        Parameters
        ----------
        waveforms : sequence of ndarray of float32, shape (n_samples,)
            Mono, at ``identity.sampling_rate``; for encoders that take waveforms all of one length.

        Returns
        -------
        dict of str to ndarray of float32, shape (n_layers, n_clips, width)
            By pooling; layers in the order of ``identity.layers``.
        """
        inputs = self.front_end.inputs(waveforms)
        frames = torch.tensor([self.front_end.frames(len(waveform)) for waveform in waveforms])
        with torch.inference_mode():
            moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            pooled = self.pooler(self.model, moved, frames.to(self.device))
        return {
            pooling: torch.stack(list(layers.values())).cpu().numpy()
            for pooling, layers in pooled.items()
        }


def load_encoder(
    name: str,
    *,
    revision: str | None = None,
    poolings: Sequence[str] = ("mean",),
    device: str = "cpu",
) -> Encoder:
    """Load a frozen speech encoder in float32.

    Parameters
    ----------
    name : str
        A built-in name (``"whisper-tiny.en"``), a local folder in the layout of transformers, or
        a hub id. Code that a checkpoint brings along is never run.
    revision : str, optional
        Branch, tag or commit of a hub id. Ids in ``PINNED_REVISIONS`` have one.
    poolings : sequence of {"mean", "std"}
        What to compute over time.
    device : str
        Where to run it, in torch's words.

    Returns
    -------
    Encoder
        In evaluation mode, without gradients, layer drop or masking.

    Raises
    ------
    UserError
        If the checkpoint is not there, of an unknown kind, or lacks weights or its preprocessor.
    MachineError
        If the hub cannot be reached.
    """
    import transformers
    from huggingface_hub import logging as hub_logging

    if torch.device(device).type == "cuda":
        # TF32 keeps 10 bits of each factor: not the float32 that is claimed.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    source, revision = _locate(name, revision)
    folder = Path(source) if revision in ("local", "built-in") else None
    hub_revision = None if folder else revision
    if folder:
        _check_folder(folder)
    quiet = transformers.logging
    verbosity, hub_verbosity = quiet.get_verbosity(), hub_logging.get_verbosity()
    quiet.set_verbosity_error()  # what it would warn of is checked here, and refused
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its retries end in one line of ours
    quiet.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=hub_revision)
        if config.model_type not in SUPPORTED:
            raise UserError(
                f"{name}: model type {config.model_type!r}; expected a speech encoder of type "
                f"{', '.join(SUPPORTED)}; choose another --encoder"
            )
        extractor = transformers.AutoFeatureExtractor.from_pretrained(source, revision=hub_revision)
        model = _load_model(name, source, hub_revision, config)
        commit = getattr(config, "_commit_hash", None)
    except (OSError, ValueError) as error:
        raise _explain(name, folder, error) from error
    finally:
        quiet.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        quiet.enable_progress_bar()
    front_end = _front_end(config, extractor)
    model.eval().requires_grad_(False).to(device)
    stack: Any = model if config.model_type in LOG_MEL_MODELS else model.encoder
    pooler = LayerPooler(stack, poolings)
    layers, width = _probe(name, model, pooler, front_end, torch.device(device))
    identity = EncoderIdentity(
        encoder=Path(source).resolve().name if folder else name,
        revision=revision if folder else (commit or revision),
        weights_sha256=_hash_weights(model),
        model_type=config.model_type,
        layers=layers,
        width=width,
        sampling_rate=front_end.sampling_rate,
        normalise=front_end.normalise,
    )
    return Encoder(identity, front_end, torch.device(device), model, pooler)


def identity_fields(identity: EncoderIdentity) -> dict[str, Any]:
    """Return the identity as plain JSON values."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(identity)))
    return fields


def _locate(name: str, revision: str | None) -> tuple[str, str]:
    """Return where to load from, and the revision to ask for or record."""
    if name in BUILT_IN:
        return str(BUILT_IN[name]), "built-in"
    if Path(name).exists():
        return name, "local"
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(
            f"{name}: no such folder; expected a local folder, a hub id such as {DEFAULT_ENCODER}, "
            f"or the built-in {', '.join(BUILT_IN)}; check --encoder"
        )
    return name, revision or PINNED_REVISIONS.get(name, "main")


def _check_folder(folder: Path) -> None:
    for needed in ("config.json", "preprocessor_config.json"):
        if not (folder / needed).is_file():
            raise UserError(
                f"{folder}: no {needed} there; expected an encoder in the layout of transformers; "
                "save the model and its feature extractor with save_pretrained()"
            )


def _load_model(name: str, source: str, revision: str | None, config: Any) -> nn.Module:
    """Load the weights; refuse if any is missing or does not fit."""
    import transformers

    # What only training uses is switched off before loading, so that it asks for no weights.
    config.layerdrop = config.mask_time_prob = config.mask_feature_prob = 0.0
    config.apply_spec_augment = False
    is_whisper = config.model_type in LOG_MEL_MODELS
    # This class holds the Whisper encoder without its decoder.
    loader = transformers.WhisperForAudioClassification if is_whisper else transformers.AutoModel
    try:
        model, told = loader.from_pretrained(
            source,
            revision=revision,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except RuntimeError as error:
        raise UserError(
            f"{name}: weights do not fit its config.json ({str(error).splitlines()[0]}); "
            "expected one checkpoint as it was saved; fetch it again"
        ) from error
    unused = ("projector.", "classifier.") if is_whisper else ("adapter.",)
    missing = sorted(key for key in told["missing_keys"] if not key.startswith(unused))
    wrong = sorted(str(key) for key in told["mismatched_keys"])
    if missing or wrong:
        first = (missing + wrong)[0]
        raise UserError(
            f"{name}: {len(missing)} weight(s) missing and {len(wrong)} of a wrong shape, first "
            f"{first}; expected all weights of the encoder; fetch the checkpoint again"
        )
    encoder: nn.Module = model.encoder if is_whisper else model
    return encoder


def _front_end(config: Any, extractor: Any) -> FrontEnd:
    if config.model_type in LOG_MEL_MODELS:
        samples_per_frame = extractor.n_samples // config.max_source_positions
        return LogMelFrontEnd(extractor, samples_per_frame)
    return WaveformFrontEnd(
        sampling_rate=int(extractor.sampling_rate),
        normalise=bool(extractor.do_normalize),
        kernels=tuple(config.conv_kernel),
        strides=tuple(config.conv_stride),
    )


def _probe(
    name: str, model: nn.Module, pooler: LayerPooler, front_end: FrontEnd, device: torch.device
) -> tuple[tuple[str, ...], int]:
    """Run one second of noise: which layers there are, and whether frames are counted right."""
    noise = np.random.default_rng(0).standard_normal(front_end.sampling_rate, dtype=np.float32)
    inputs = {key: tensor.to(device) for key, tensor in front_end.inputs([noise]).items()}
    expected = front_end.frames(len(noise))
    seen: list[int] = []
    stack: Any = getattr(model, "encoder", model)
    hook = stack.layers[-1].register_forward_hook(
        lambda module, args, output: seen.append(
            (output[0] if isinstance(output, tuple) else output).shape[1]
        )
    )
    with torch.inference_mode():
        pooled = pooler(model, inputs, torch.tensor([expected], device=device))
    hook.remove()
    padded = front_end.maximum_samples
    total = front_end.frames(padded) if padded else expected
    if seen != [total]:
        raise UserError(
            f"{name}: {seen} frames for one second, expected {total}; this variant of the "
            "architecture is not supported; choose another --encoder"
        )
    layers = pooled[pooler.poolings[0]]
    return tuple(layers), int(layers["0"].shape[1])


def _hash_weights(model: nn.Module) -> str:
    """Hash names, shapes and float32 values, so that the file format does not matter."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _explain(name: str, folder: Path | None, error: Exception) -> UserError | MachineError:
    """Turn what transformers or the hub raised into one line."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    reason = str(error).strip().splitlines()[0]
    if folder:
        return UserError(
            f"{name}: cannot be loaded ({reason}); expected an encoder in the layout of "
            "transformers; fetch it again"
        )
    chain, link = [], error.__cause__ or error.__context__
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(link, (RepositoryNotFoundError, RevisionNotFoundError)) for link in chain):
        return UserError(
            f"{name}: not on the hub, or not open to you ({reason}); expected a public speech "
            "encoder; check --encoder and --revision, or `hf auth login`"
        )
    return MachineError(
        f"{name}: is not in the local hub cache and cannot be fetched ({reason}); connect to the "
        f"network, or take the built-in encoder: --encoder {next(iter(BUILT_IN))}"
    )
