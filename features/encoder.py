"""Load a frozen speech encoder, and refuse one that would give wrong numbers without a sound."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import MachineError, UserError
from .audio import Waveform
from .front_end import FrontEnd, LogMelFrontEnd, WaveformFrontEnd
from .padding import Valid, make_padding_exact
from .pooling import LayerPooler, Pooled
from .whisper import skip_padding

#: Encoders that ship with the package.
BUILT_IN = {"whisper-tiny.en": Path(__file__).parent / "builtin" / "whisper-tiny.en"}
DEFAULT_ENCODER = "facebook/wav2vec2-base"
#: Commits that hub ids stand for unless the user names another: numbers must not drift.
PINNED_REVISIONS = {DEFAULT_ENCODER: "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8"}

#: ``--precision`` to torch's word.
PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,  # on GPUs of NVIDIA products keep 10 bits of each factor
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

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
    config_sha256 : str
        Hash over the configurations of the model and of its feature extractor.
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
    config_sha256: str
    model_type: str
    layers: tuple[str, ...]
    width: int
    sampling_rate: int
    normalise: bool


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder, ready to embed. Made by :func:`load_encoder`.

    Attributes
    ----------
    identity : EncoderIdentity
        What its numbers depend on.
    front_end : FrontEnd
        From waveforms to its inputs.
    device : torch.device
        Where it runs.
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of weights and states; pooling is always in float32.
    poolings : tuple of {"mean", "std"}
        What :meth:`embed` returns.
    max_seconds : float or None
        Longer clips are cut into equal chunks, pooled together by their frames.
    compiled : bool
        Whether the blocks are compiled.
    """

    identity: EncoderIdentity
    front_end: FrontEnd
    device: torch.device
    precision: str
    poolings: tuple[str, ...]
    max_seconds: float | None
    compiled: bool
    model: nn.Module
    pooler: LayerPooler
    valid: Valid

    @property
    def maximum_samples(self) -> int | None:
        """The longest clip it takes; ``None`` is no limit."""
        return None if self.max_seconds else self.front_end.maximum_samples

    @property
    def window_seconds(self) -> float:
        """What every clip is padded to, in seconds; 0 where clips are as long as they are."""
        window = self.front_end.maximum_samples
        return window / self.identity.sampling_rate if window else 0.0

    def embed(self, waveforms: Sequence[Waveform]) -> dict[str, NDArray[np.float32]]:
        """Embed a batch of clips.

        Parameters
        ----------
        waveforms : sequence of ndarray of float32, shape (n_samples,)
            Mono, at ``identity.sampling_rate``, of any lengths within the encoder's limits.

        Returns
        -------
        dict of str to ndarray of float32, shape (n_layers, n_clips, width)
            By pooling; layers in the order of ``identity.layers``.
        """
        chunks: list[Waveform] = []
        owners: list[int] = []
        for owner, waveform in enumerate(waveforms):
            prepared = self.front_end.prepare(waveform)
            parts = np.array_split(prepared, self._n_chunks(len(prepared)))
            chunks += parts
            owners += [owner] * len(parts)
        if len(chunks) == len(waveforms):
            pooled = self._run(chunks)
        else:  # on a CPU one by one: long clips are cut to bound the memory
            size = 1 if self.device.type == "cpu" else len(chunks)
            runs = [self._run(chunks[i : i + size]) for i in range(0, len(chunks), size)]
            every = {name: np.concatenate([run[name] for run in runs], axis=1) for name in runs[0]}
            frames = [self.front_end.frames(len(chunk)) for chunk in chunks]
            pooled = join_chunks(every, np.array(frames), np.array(owners))
        return {pooling: pooled[pooling] for pooling in self.poolings}

    def _n_chunks(self, n_samples: int) -> int:
        if not self.max_seconds:
            return 1
        return math.ceil(n_samples / (self.max_seconds * self.identity.sampling_rate))

    def _run(self, waveforms: Sequence[Waveform]) -> dict[str, NDArray[np.float32]]:
        return {
            pooling: torch.stack(list(layers.values())).cpu().numpy()
            for pooling, layers in self._pool(waveforms).items()
        }

    def _pool(self, waveforms: Sequence[Waveform]) -> Pooled:
        inputs = self.front_end.inputs(waveforms)
        samples = [len(waveform) for waveform in waveforms]
        frames = [self.front_end.frames(n) for n in samples]
        self.valid.samples = samples if min(samples) < max(samples) else None
        self.valid.frames = frames
        try:
            with torch.inference_mode():
                moved = {name: self._move(tensor) for name, tensor in inputs.items()}
                return self.pooler(self.model, moved, frames)
        finally:
            self.valid.samples = self.valid.frames = None

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(PRECISIONS[self.precision])
        if self.device.type == "cuda":  # from pinned memory, so that the copy does not wait
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def load_encoder(
    name: str,
    *,
    revision: str | None = None,
    poolings: Sequence[str] = ("mean",),
    device: str = "cpu",
    precision: str = "float32",
    max_seconds: float | None = None,
    compile_blocks: bool = False,
) -> Encoder:
    """Load a frozen speech encoder.

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
    precision : {"float32", "tf32", "bf16", "fp16"}
        Only float32 is claimed exact.
    max_seconds : float, optional
        Cut longer clips into equal chunks, pooled together by their frames.
    compile_blocks : bool
        Compile the blocks with ``torch.compile``.

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

    if torch.device(device).type == "cuda":  # by default torch allows it in convolutions
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    source, revision = _locate(name, revision)
    folder = Path(source) if revision in ("local", "built-in") else None
    hub_revision = None if folder else revision
    if folder:
        _check_folder(folder)
    quiet = transformers.logging
    verbosity, hub_verbosity = quiet.get_verbosity(), hub_logging.get_verbosity()
    quiet.set_verbosity_error()  # what it would warn of is checked here, and refused
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    quiet.disable_progress_bar()
    try:
        # Explicitly no code from the checkpoint: by default transformers would ask on the terminal.
        here = {"revision": hub_revision, "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(source, **here)
        if config.model_type not in SUPPORTED:
            raise UserError(
                f"{name}: model type {config.model_type!r}; expected a speech encoder of type "
                f"{', '.join(SUPPORTED)}; choose another --encoder"
            )
        extractor = transformers.AutoFeatureExtractor.from_pretrained(source, **here)
        config_sha256 = _hash_configs(config, extractor)
        model = _load_model(name, source, hub_revision, config)
        commit = getattr(config, "_commit_hash", None)
        front_end = _front_end(config, extractor)
    except UserError:
        raise
    except Exception as error:  # a damaged checkpoint can make the loaders raise anything
        raise _explain(name, folder, error) from error
    finally:
        quiet.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        quiet.enable_progress_bar()
    _check_window(name, front_end, max_seconds)
    weights_sha256 = _hash_weights(model)
    model.to(torch.device(device), PRECISIONS[precision])
    is_whisper = config.model_type in LOG_MEL_MODELS
    stack: Any = model if is_whisper else model.encoder
    valid = Valid()
    # A chunk's share of a deviation needs its mean.
    pooler = LayerPooler(stack, ("mean", "std") if "std" in poolings else ("mean",))
    (skip_padding if is_whisper else make_padding_exact)(model, valid)
    model.eval().requires_grad_(False)
    if compile_blocks:
        for block in stack.layers:
            block.forward = torch.compile(block.forward, dynamic=True)
    identity = EncoderIdentity(
        encoder=Path(source).resolve().name if folder else name,
        revision=revision if folder else (commit or revision),
        weights_sha256=weights_sha256,
        config_sha256=config_sha256,
        model_type=config.model_type,
        layers=(),
        width=0,
        sampling_rate=front_end.sampling_rate,
        normalise=front_end.normalise,
    )
    encoder = Encoder(
        identity=identity,
        front_end=front_end,
        device=torch.device(device),
        precision=precision,
        poolings=tuple(poolings),
        max_seconds=max_seconds,
        compiled=compile_blocks,
        model=model,
        pooler=pooler,
        valid=valid,
    )
    layers, width = _probe(name, encoder, stack)
    return replace(encoder, identity=replace(identity, layers=layers, width=width))


def join_chunks(
    pooled: dict[str, NDArray[np.float32]], frames: NDArray[np.int_], owners: NDArray[np.int_]
) -> dict[str, NDArray[np.float32]]:
    """Pool the chunks of each clip together, weighted by their frames.

    Parameters
    ----------
    pooled : dict of str to ndarray of float32, shape (n_layers, n_chunks, width)
        ``"mean"``, and maybe ``"std"``, of each chunk.
    frames : ndarray of int, shape (n_chunks,)
        Frames of each chunk.
    owners : ndarray of int, shape (n_chunks,)
        The clip that each is a part of: 0, 1, ... in order.

    Returns
    -------
    dict of str to ndarray of float32, shape (n_layers, n_clips, width)
        Mean and standard deviation over all frames of a clip: the mean of the means, and the
        variance within chunks plus that between them.
    """
    clips = [owners == owner for owner in range(owners[-1] + 1)]
    mean, std = pooled["mean"].astype(np.float64), pooled.get("std")
    means, stds = [], []
    for mine in clips:
        weights = (frames[mine] / frames[mine].sum())[None, :, None]
        centre = (weights * mean[:, mine]).sum(axis=1)
        means.append(centre)
        if std is not None:
            between = (mean[:, mine] - centre[:, None]) ** 2
            within = std[:, mine].astype(np.float64) ** 2
            stds.append(np.sqrt((weights * (within + between)).sum(axis=1)))
    joined = {"mean": np.stack(means, axis=1).astype(np.float32)}
    if std is not None:
        joined["std"] = np.stack(stds, axis=1).astype(np.float32)
    return joined


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


def _check_window(name: str, front_end: FrontEnd, max_seconds: float | None) -> None:
    """Refuse chunks that the encoder cannot take."""
    if max_seconds is None:
        return
    longest = front_end.maximum_samples
    window = longest / front_end.sampling_rate if longest else math.inf
    if not 1 <= max_seconds <= window:
        raise UserError(
            f"--max-seconds {max_seconds:g}: {name} takes chunks of 1 to {window:g} s; "
            "choose within that"
        )


def _probe(name: str, encoder: Encoder, stack: Any) -> tuple[tuple[str, ...], int]:
    """Run one second of noise: which layers there are, and whether frames are counted right."""
    front_end = encoder.front_end
    noise = np.random.default_rng(0).standard_normal(front_end.sampling_rate, dtype=np.float32)
    seen: list[torch.Tensor] = []
    hook = stack.layers[0].register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    layers = encoder._pool([noise])["mean"]
    hook.remove()
    if not all(bool(states.isfinite().all()) for states in layers.values()):
        raise UserError(
            f"{name}: gives values that are not finite numbers; expected sound weights; fetch the "
            "checkpoint again, or use --precision float32"
        )
    expected = front_end.frames(front_end.maximum_samples or len(noise))
    if seen[0].shape[1] != expected:
        raise UserError(
            f"{name}: {seen[0].shape[1]} frames for one second, expected {expected}; this variant "
            "of the architecture is not supported; choose another --encoder"
        )
    return tuple(layers), int(seen[0].shape[2])


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


def _explain(name: str, folder: Path | None, error: Exception) -> UserError | MachineError:
    """Turn what transformers or the hub raised into one line."""
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
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
            "encoder; check --encoder and --revision, or `hf auth login`"
        )
    return MachineError(
        f"{name}: is not in the local hub cache and cannot be fetched ({reason}); connect to the "
        f"network, or take the built-in encoder: --encoder {next(iter(BUILT_IN))}"
    )
