"""Run an encoder on a CPU with OpenVINO in place of torch: ``--engine openvino``.

The encoder is traced once by ``torch.export``, for clips of any length, into a graph that returns
the hidden states of all layers; OpenVINO compiles the graph, and the states are pooled by the same
code as those of torch. Each clip is computed alone and by one thread, so that its numbers depend
neither on other clips nor on the number of cores.
"""

import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import UserError, first_line
from ..provenance import cores
from .families import Family
from .families.whisper import compute_valid_frames_only
from .front_end import FrontEnd
from .padding import Valid
from .pooling import Pooled, hook_layers, pool

#: Values of ``--precision`` that OpenVINO supports, with its names for them.
PRECISIONS = {"float32": "f32", "bf16": "bf16"}
#: Largest accepted relative error of a layer against torch in float32, by precision: several times
#: what was measured, so that a larger error means that the graph is wrong.
LARGEST_ERRORS = {"float32": 1e-3, "bf16": 0.25}
#: Samples of the clip that an encoder is traced with, and the most of any clip: more than an hour.
_EXAMPLE, _LONGEST = 48_000, 1 << 26


class HiddenStates(nn.Module):
    """An encoder that returns the hidden states of all of its layers, for tracing.

    Parameters
    ----------
    model, family
        The encoder, which is modified, and the family it belongs to.
    """

    def __init__(self, model: nn.Module, family: Family) -> None:
        super().__init__()
        self.model = model
        self._states: dict[str, torch.Tensor] = {}
        self._valid = Valid()
        stack = family.stack(model)
        if family.has_window:
            compute_valid_frames_only(stack.blocks[-1], self._valid)
        hook_layers(stack, self._keep, self._is_kept)

    def forward(
        self, inputs: torch.Tensor, frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the states of one clip, each of shape (1, n_frames, width).

        ``inputs`` are those of the encoder. The length of ``frames`` is the number of valid frames,
        for encoders that pad each clip to one length.
        """
        self._states.clear()
        self._valid.frames = None if frames is None else [frames.shape[0]]
        self.model(inputs)
        states = tuple(self._states.values())
        self._states.clear()
        return states

    def _keep(self, layer: str, states: torch.Tensor) -> None:
        self._states[layer] = states

    def _is_kept(self, layer: str) -> bool:
        return layer in self._states


class OpenVinoPooler:
    """Runs an encoder with OpenVINO and pools its layers; it takes the place of a ``LayerPooler``.

    Safe to call from several threads at once.

    Parameters
    ----------
    model, family, front_end
        An encoder in float32, on the CPU and in evaluation mode; it is modified.
    layers : sequence of str
        Names of all of its layers, in order.
    poolings : sequence of {"mean", "std"}
    precision : {"float32", "bf16"}
        Of matrix products and convolutions; states and pooling are in float32.

    Raises
    ------
    UserError
        If OpenVINO is not installed or cannot represent the encoder.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        front_end: FrontEnd,
        layers: Sequence[str],
        poolings: Sequence[str],
        precision: str,
    ) -> None:
        openvino = _import_openvino()
        self.layers, self.poolings = tuple(layers), tuple(poolings)
        self.has_window = family.has_window
        self.version = str(openvino.__version__).partition("-")[0]
        states = HiddenStates(model, family).eval()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # both use deprecated functions of torch
                traced = _trace(states, front_end, has_window=self.has_window)
                graph = openvino.convert_model(traced)
            n_cores = cores()
            self._compiled = openvino.Core().compile_model(
                graph,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
                    "INFERENCE_NUM_THREADS": n_cores,
                    "NUM_STREAMS": n_cores,  # one thread for each clip
                },
            )
        except Exception as error:  # both raise exceptions of many types
            raise UserError(
                f"--engine openvino: cannot represent the encoder ({first_line(error)}); use "
                "--engine torch"
            ) from error
        self._thread = threading.local()

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], frames: Sequence[int]
    ) -> Pooled:
        """Return the pooled states of one clip; ``model`` is not used."""
        if len(frames) > 1:
            raise ValueError("OpenVINO takes clips one by one")
        (tensor,) = inputs.values()
        arrays = [tensor.numpy()]
        if self.has_window:
            arrays.append(np.zeros(frames[0], np.float32))
        if not hasattr(self._thread, "request"):
            self._thread.request = self._compiled.create_infer_request()
        results = self._thread.request.infer(arrays, share_inputs=True, share_outputs=True)
        pooled: Pooled = {pooling: {} for pooling in self.poolings}
        for index, layer in enumerate(self.layers):
            states = torch.from_numpy(results[index])[:, : frames[0]]
            values = pool(states, torch.tensor([states.shape[1]]), self.poolings)
            for pooling, value in zip(self.poolings, values, strict=True):
                pooled[pooling][layer] = value
        return pooled


def check_engine(name: str, family: Family, device: str, precision: str, *, compiled: bool) -> None:
    """Raise a UserError if OpenVINO cannot run an encoder of a family.

    ``name`` is that of the encoder; the other arguments are the values of ``--devices``,
    ``--precision`` and ``--compile``.
    """
    problem = None
    if not family.is_exportable:
        problem = f"{name} is a {family.title}, which it cannot run; use --engine torch"
    elif device != "cpu":
        problem = f"runs on the CPU, not on {device}; add --devices cpu, or use --engine torch"
    elif precision not in PRECISIONS:
        problem = f"computes in float32 or bf16, not in {precision}; choose one by --precision"
    elif compiled:
        problem = "compiles the whole encoder itself; omit --compile"
    if problem:
        raise UserError(f"--engine openvino: {problem}")


def _import_openvino() -> Any:
    # It reports each import to its makers by default; without this module it reports nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise UserError(
            "--engine openvino: openvino is not installed; install it: "
            "pip install 'serpipe[openvino]'"
        ) from None
    return openvino


def _trace(states: HiddenStates, front_end: FrontEnd, *, has_window: bool) -> Any:
    """Return the exported program of an encoder, for one clip of any length."""
    (inputs,) = front_end.inputs([np.sin(np.arange(_EXAMPLE, dtype=np.float32) / 7)]).values()
    dim = torch.export.Dim
    arguments: tuple[torch.Tensor, ...] = (inputs,)
    shapes: tuple[dict[int, Any], ...]
    if has_window:
        n_frames = front_end.frames(_EXAMPLE)
        arguments += (torch.zeros(n_frames),)
        longest = front_end.frames(front_end.maximum_samples or _EXAMPLE)
        shapes = ({}, {0: dim("frames", min=1, max=longest)})
    else:
        shapes = ({1: dim("samples", min=2 * front_end.minimum_samples, max=_LONGEST)},)
    return torch.export.export(
        states,
        arguments,
        dynamic_shapes=shapes,
        # Lengths are compared when a clip is computed, rather than fixed when tracing.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
