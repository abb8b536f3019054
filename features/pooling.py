"""Pool the hidden states of every layer over time, while the encoder runs.

Hooks pool each layer as soon as it is computed, so that the hidden states of all layers are never
in memory together, and so that layers mean the same in every version of transformers, whose
``hidden_states[-1]`` has changed from after to before the final norm. The layers are:

- ``"0"``: the input of the first block (for the wav2vec 2.0 family after the positional
  convolution, and after the LayerNorm that post-norm models have there),
- ``"1"`` .. ``"L"``: the outputs of the blocks,
- ``"final_norm"``: the output of a norm after the last block, if there is one.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from .families import Stack
from .names import FINAL_NORM
from .padding import counts_on

#: Pooling -> layer -> array of shape (n_clips, width).
Pooled = dict[str, dict[str, torch.Tensor]]


def pool(states: torch.Tensor, frames: torch.Tensor, poolings: Sequence[str]) -> list[torch.Tensor]:
    """Pool hidden states over the valid frames, in float32.

    ``states`` have the shape (n_clips, n_frames, width) and may be padded at the end; ``frames``,
    int64, are the valid frames of each clip. ``"std"`` is the population standard deviation (0 for
    a single frame). Return an array of shape (n_clips, width) for each pooling.
    """
    states = states.float()
    valid = torch.arange(states.shape[1], device=states.device) < frames[:, None]
    valid = valid[:, :, None]
    count = frames[:, None].float()
    mean = torch.where(valid, states, 0.0).sum(dim=1) / count
    pooled = []
    for pooling in poolings:
        if pooling == "mean":
            pooled.append(mean)
        else:
            deviation = torch.where(valid, states - mean[:, None, :], 0.0)
            pooled.append((deviation.square().sum(dim=1) / count).sqrt())
    return pooled


def hook_layers(
    stack: Stack, keep: Callable[[str, torch.Tensor], None], is_kept: Callable[[str], bool]
) -> int:
    """Call ``keep`` with the name and the hidden states of each layer whenever it is computed.

    States have the shape (n_clips, n_frames, width). ``is_kept`` says whether the layer of a name
    was computed in this pass. Return the number of blocks.
    """
    n_blocks = len(stack.blocks)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep("0", stack.to_frames(args[0] if args else kwargs["hidden_states"]))

    def after(layer: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            keep(layer, stack.to_frames(output[0] if isinstance(output, tuple) else output))

        return hook

    def after_norm(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        # Post-norm models call the same module before the first block: that is not a final norm.
        if is_kept(str(n_blocks)):
            keep(FINAL_NORM, stack.to_frames(output))

    stack.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    for number, block in enumerate(stack.blocks, start=1):
        block.register_forward_hook(after(str(number)))
    if stack.norm is not None:
        stack.norm.register_forward_hook(after_norm)
    return n_blocks


class Pooler(Protocol):
    """Runs an encoder and returns its pooled states."""

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], frames: Sequence[int]
    ) -> Pooled:
        """Run the encoder once; as :class:`LayerPooler` does it."""


class LayerPooler:
    """Runs an encoder and pools all layers of its ``stack`` during the pass.

    Safe to call from several threads at once: each call keeps its results to its own thread.
    """

    def __init__(self, stack: Stack, poolings: Sequence[str]) -> None:
        self.stack, self.poolings = stack, tuple(poolings)
        self._call = threading.local()
        self.n_blocks = hook_layers(stack, self._keep, self._is_kept)

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], frames: Sequence[int]
    ) -> Pooled:
        """Run the encoder that ``stack`` is a part of once, and return its pooled states.

        ``inputs`` are its keyword arguments, and ``frames`` the valid frames of each clip. Raise
        RuntimeError if not every layer was computed exactly once: a layer was dropped.
        """
        self._call.frames = frames
        self._call.counts = counts_on(next(iter(inputs.values())).device, frames)
        self._call.pooled = {pooling: {} for pooling in self.poolings}
        try:
            model(**inputs)
            pooled: Pooled = self._call.pooled
        finally:
            del self._call.frames, self._call.counts, self._call.pooled
        for layers in pooled.values():
            numbered = [layer for layer in layers if layer != FINAL_NORM]
            if numbered != [str(number) for number in range(self.n_blocks + 1)]:
                raise RuntimeError(f"computed layers {numbered} instead of 0..{self.n_blocks}")
        return pooled

    def _keep(self, layer: str, states: torch.Tensor) -> None:
        if not hasattr(self._call, "pooled"):
            return  # the model is run by itself, not through this pooler
        frames, counts = self._call.frames, self._call.counts
        if layer == FINAL_NORM and self.stack.norm_frames is not int:
            frames = [self.stack.norm_frames(n) for n in frames]
            counts = counts_on(states.device, frames)
        # Frames beyond every clip, most of Whisper's window, are not read at all.
        pooled = pool(states[:, : max(frames)], counts, self.poolings)
        for pooling, values in zip(self.poolings, pooled, strict=True):
            if layer in self._call.pooled[pooling]:
                raise RuntimeError(f"layer {layer} was computed twice in one pass")
            self._call.pooled[pooling][layer] = values

    def _is_kept(self, layer: str) -> bool:
        pooled: Pooled = getattr(self._call, "pooled", {self.poolings[0]: {}})
        return layer in pooled[self.poolings[0]]
