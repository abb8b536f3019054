"""A frozen speech encoder, which gives a clip the same embedding alone or in a batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import SerpipeError, UserError, first_line
from .audio import Waveform
from .checkpoint import Checkpoint, load_checkpoint
from .chunks import join_chunks
from .families import Family, Stack
from .front_end import FrontEnd, prepare
from .names import ENGINE_ERROR, OPENSMILE, OPENVINO
from .padding import Valid
from .pooling import LayerPooler, Pooled, Pooler
from .positions import keep_positions_in_float32
from .training_record import TrainingRecord

#: Values of ``--precision`` and their dtypes.
PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,  # NVIDIA GPUs keep 10 bits of each factor of a product
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class EncoderIdentity:
    """All that an encoder's numbers depend on, as recorded in the cache."""

    #: Hub id, built-in name, or name of the local folder.
    encoder: str
    #: Commit of a hub id; ``"local"`` or ``"built-in"`` otherwise.
    revision: str
    #: Over names, shapes and values of the encoder's weights.
    weights_sha256: str
    #: Over the configurations of the model and of its feature extractor.
    config_sha256: str
    #: The architecture, as its ``config.json`` names it.
    model_type: str
    #: See :mod:`serpipe.features.pooling`.
    layers: tuple[str, ...]
    #: Size of a hidden state.
    width: int
    #: In Hz.
    sampling_rate: int
    #: Whether each clip is scaled to zero mean and unit variance first.
    normalise: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint, layers: tuple[str, ...] = (), width: int = 0) -> Self:
        """Return the identity of a checkpoint."""
        return cls(
            checkpoint.name,
            checkpoint.revision,
            checkpoint.weights_sha256,
            checkpoint.config_sha256,
            checkpoint.model_type,
            layers,
            width,
            checkpoint.front_end.sampling_rate,
            checkpoint.front_end.normalise,
        )


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder, ready to embed; from :func:`load_encoder`."""

    identity: EncoderIdentity
    #: From waveforms to its inputs.
    front_end: FrontEnd
    device: torch.device
    #: Of weights and states, one of ``PRECISIONS``; pooling is always in float32.
    precision: str
    #: What :meth:`embed` returns.
    poolings: tuple[str, ...]
    #: Longer clips are cut into equal chunks, pooled together by their frames.
    max_seconds: float | None
    #: Whether the blocks are compiled.
    compiled: bool
    model: nn.Module
    pooler: Pooler
    valid: Valid
    #: What it was trained on, beyond the pretraining, if that is known.
    training: TrainingRecord | None = None
    #: Version and error of what runs it in place of torch, as the key of a cache records them.
    engine: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def maximum_samples(self) -> int | None:
        """The longest clip, in samples; ``None`` is no limit."""
        return None if self.max_seconds else self.front_end.maximum_samples

    @property
    def window_seconds(self) -> float:
        """The length to which every clip is padded, in seconds; 0 if clips are not padded."""
        window = self.front_end.maximum_samples
        return window / self.identity.sampling_rate if window else 0.0

    def embed(self, waveforms: Sequence[Waveform]) -> dict[str, NDArray[np.float32]]:
        """Embed a batch of clips: mono, at ``identity.sampling_rate``, within the encoder's limits.

        Return, by pooling, float32 of shape (n_layers, n_clips, width) with the layers of
        ``identity``.
        """
        return self.embed_prepared(self.prepare(waveforms))

    def prepare(self, waveforms: Sequence[Waveform]) -> "PreparedBatch":
        """Return a batch of waveforms, as :meth:`embed` takes them, prepared for the device."""
        chunks: list[Waveform] = []
        owners: list[int] = []
        for owner, waveform in enumerate(waveforms):
            prepared = prepare(self.front_end, waveform)
            parts = np.array_split(prepared, self._n_chunks(len(prepared)))
            chunks += parts
            owners += [owner] * len(parts)
        # On a CPU, chunks are computed one by one: long clips are cut to limit the memory.
        one_by_one = len(chunks) > len(waveforms) and self.device.type == "cpu"
        size = 1 if one_by_one else len(chunks)
        passes = [self._inputs(chunks[i : i + size]) for i in range(0, len(chunks), size)]
        return PreparedBatch(tuple(waveforms), tuple(passes), tuple(owners))

    def embed_prepared(self, batch: "PreparedBatch") -> dict[str, NDArray[np.float32]]:
        """Return the embeddings of a batch from :meth:`prepare`, as :meth:`embed` does."""
        runs = [self._run(each) for each in batch.passes]
        pooled = {name: np.concatenate([run[name] for run in runs], axis=1) for name in runs[0]}
        if len(batch.owners) > len(batch.waveforms):
            frames = [self.front_end.frames(n) for each in batch.passes for n in each.samples]
            pooled = join_chunks(pooled, np.array(frames), np.array(batch.owners))
        return {pooling: pooled[pooling] for pooling in self.poolings}

    def _n_chunks(self, n_samples: int) -> int:
        if not self.max_seconds:
            return 1
        return math.ceil(n_samples / (self.max_seconds * self.identity.sampling_rate))

    def _inputs(self, chunks: Sequence[Waveform]) -> "_Inputs":
        # Other engines take float32 in every precision.
        dtype = torch.float32 if self.engine else PRECISIONS[self.precision]
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in self.front_end.inputs(chunks).items()
        }
        if self.device.type == "cuda":  # pinned, so that the copy to the device does not wait
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return _Inputs(tensors, tuple(len(chunk) for chunk in chunks))

    def _run(self, inputs: "_Inputs") -> dict[str, NDArray[np.float32]]:
        return {
            pooling: torch.stack(list(layers.values())).cpu().numpy()
            for pooling, layers in self._pool(inputs).items()
        }

    def _pool(self, inputs: "_Inputs") -> Pooled:
        samples = inputs.samples
        frames = [self.front_end.frames(n) for n in samples]
        self.valid.samples = samples if min(samples) < max(samples) else None
        self.valid.frames = frames
        try:
            with torch.inference_mode():
                moved = {
                    name: tensor.to(self.device, non_blocking=True)
                    for name, tensor in inputs.tensors.items()
                }
                return self.pooler(self.model, moved, frames)
        finally:
            self.valid.samples = self.valid.frames = None


@dataclass(frozen=True)
class _Inputs:
    """The encoder's arguments for one forward pass, and the samples of each clip or chunk in it."""

    tensors: dict[str, torch.Tensor]
    samples: tuple[int, ...]


@dataclass(frozen=True)
class PreparedBatch:
    """A batch of clips, ready for the device; from :meth:`Encoder.prepare`."""

    waveforms: tuple[Waveform, ...]
    #: Inputs of each forward pass.
    passes: tuple[_Inputs, ...]
    #: Index of the clip of each row of the inputs: a clip may be cut into chunks.
    owners: tuple[int, ...]


def load_encoder(
    name: str,
    *,
    revision: str | None = None,
    poolings: Sequence[str] = ("mean",),
    device: str = "cpu",
    precision: str = "float32",
    max_seconds: float | None = None,
    compile_blocks: bool = False,
    engine: str = "torch",
) -> Encoder:
    """Load a frozen speech encoder.

    Parameters
    ----------
    name : str
        A built-in name (``"whisper-tiny.en"``), a local folder in the layout of transformers, a hub
        id, or ``opensmile:`` and a feature set. Code in a checkpoint is never run.
    revision : str, optional
        Branch, tag or commit of a hub id. Ids in ``PINNED_REVISIONS`` have one.
    poolings : sequence of {"mean", "std"}
        What to compute over time.
    device : str
        A torch device.
    precision : {"float32", "tf32", "bf16", "fp16"}
        Only float32 is guaranteed to be exact.
    max_seconds : float, optional
        Cut longer clips into equal chunks, pooled together by their frames.
    compile_blocks : bool
        Compile the blocks with ``torch.compile``.
    engine : {"torch", "openvino"}
        What runs the encoder. OpenVINO runs encoders of the families that can be exported to ONNX,
        on the CPU, in float32 or bf16, and one clip at a time.

    Returns
    -------
    Encoder
        In evaluation mode, without gradients, layer drop or masking.

    Raises
    ------
    UserError
        If the checkpoint is missing, of an unknown kind, or lacks weights or its preprocessor.
    MachineError
        If the hub cannot be reached.
    """
    if name.startswith(OPENSMILE):
        from .functionals import load_functionals

        return load_functionals(
            name,
            revision=revision,
            poolings=poolings,
            max_seconds=max_seconds,
            compile_blocks=compile_blocks,
            engine=engine,
        )
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:  # torch allows TF32 in convolutions by default
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision != "float32"
    checkpoint = load_checkpoint(name, revision)
    model, front_end = checkpoint.model, checkpoint.front_end
    _check_window(name, front_end, max_seconds)
    if engine == OPENVINO:
        from .openvino_pooler import check_engine

        check_engine(name, checkpoint.family, device, precision, compiled=compile_blocks)
    # Other engines are compared with torch in float32.
    torch_precision = precision if engine == "torch" else "float32"
    model.to(torch.device(device), PRECISIONS[torch_precision])
    stack = checkpoint.family.stack(model)
    valid = Valid()
    # A chunk's share of a deviation needs its mean.
    pooler = LayerPooler(stack, ("mean", "std") if "std" in poolings else ("mean",))
    if engine == "torch":  # the others compute clips one by one
        checkpoint.family.make_exact(model, valid)
    model.eval().requires_grad_(False)
    if on_gpu and precision in ("bf16", "fp16"):
        keep_positions_in_float32(model)
    if compile_blocks:
        for block in stack.blocks:
            block.forward = torch.compile(block.forward, dynamic=True)
    encoder = Encoder(
        identity=EncoderIdentity.of(checkpoint),
        front_end=front_end,
        device=torch.device(device),
        precision=torch_precision,
        poolings=tuple(poolings),
        max_seconds=max_seconds,
        compiled=compile_blocks,
        model=model,
        pooler=pooler,
        valid=valid,
        training=checkpoint.training,
    )
    try:
        layers, width = _probe(name, encoder, stack)
    except (SerpipeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an inconsistent configuration can raise anything
        raise UserError(
            f"{name}: cannot embed a second of noise ({first_line(error)}); download the "
            "checkpoint again"
        ) from error
    encoder = replace(encoder, identity=EncoderIdentity.of(checkpoint, layers, width))
    return encoder if engine == "torch" else _with_openvino(encoder, checkpoint.family, precision)


def _with_openvino(encoder: Encoder, family: Family, precision: str) -> Encoder:
    """Return an encoder that OpenVINO runs in place of torch, with its error recorded.

    The error is that of a second of noise against torch in float32: the norm of the difference over
    the norm, the largest over layers and poolings, rounded to two digits. Raise UserError if it is
    more than rounding explains.
    """
    from .openvino_pooler import LARGEST_ERRORS, OpenVinoPooler

    pooler = encoder.pooler
    assert isinstance(pooler, LayerPooler)
    inputs = encoder._inputs([_noise(encoder.front_end)])
    exact = encoder._run(inputs)
    other = OpenVinoPooler(
        encoder.model,
        family,
        encoder.front_end,
        encoder.identity.layers,
        pooler.poolings,
        precision,
    )
    version = f"{OPENVINO} {other.version}"
    # The weights of torch are no longer needed.
    encoder = replace(
        encoder,
        model=nn.Identity(),
        pooler=other,
        precision=precision,
        engine={"engine": version},
    )
    errors = [
        float(np.linalg.norm(layer - reference) / np.linalg.norm(reference))
        for pooling, states in encoder._run(inputs).items()
        for layer, reference in zip(states, exact[pooling], strict=True)
    ]
    error, limit = float(np.max(errors)), LARGEST_ERRORS[precision]  # NaN if one of them is
    if not error <= limit:
        raise UserError(
            f"--engine openvino: the relative error of a layer of {encoder.identity.encoder} is "
            f"{error:.1e}, and rounding in {precision} explains {limit:g} at most; use --engine "
            "torch"
        )
    return replace(encoder, engine={"engine": version, ENGINE_ERROR: float(f"{error:.1e}")})


def _check_window(name: str, front_end: FrontEnd, max_seconds: float | None) -> None:
    """Refuse a length of chunks that the encoder cannot take."""
    if max_seconds is None:
        return
    longest = front_end.maximum_samples
    window = longest / front_end.sampling_rate if longest else math.inf
    if not 1 <= max_seconds <= window:
        raise UserError(
            f"--max-seconds {max_seconds:g}: {name} takes chunks of 1 to {window:g} s; "
            "choose a length in that range"
        )


def _probe(name: str, encoder: Encoder, stack: Stack) -> tuple[tuple[str, ...], int]:
    """Embed a second of noise; return the layers and the width, and check the number of frames."""
    front_end = encoder.front_end
    noise = _noise(front_end)
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(stack.to_frames(output[0] if isinstance(output, tuple) else output))

    hook = stack.blocks[0].register_forward_hook(keep)
    layers = encoder._pool(encoder._inputs([noise]))["mean"]
    hook.remove()
    if not all(bool(states.isfinite().all()) for states in layers.values()):
        raise UserError(
            f"{name}: gives values that are not finite numbers; download the checkpoint again, or "
            "use --precision float32"
        )
    expected = front_end.frames(front_end.maximum_samples or len(noise))
    if seen[0].shape[1] != expected:
        raise UserError(
            f"{name}: gives {seen[0].shape[1]} frames for one second instead of {expected}: this "
            "variant of the architecture is not supported; choose another --encoder"
        )
    return tuple(layers), int(seen[0].shape[2])


def _noise(front_end: FrontEnd) -> Waveform:
    """Return a second of noise."""
    return np.random.default_rng(0).standard_normal(front_end.sampling_rate, dtype=np.float32)
