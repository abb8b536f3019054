"""Convert a torch module to the bytes of an ONNX file, and run them in onnxruntime."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray

from ..._version import __version__
from ...errors import UserError, first_line
from ...features.audio import Waveform
from .graph import Graph

#: Versions of the operators: what the exporter writes, and the runtime that checks it reads.
OPSETS = range(18, 24)
#: Most bytes of an ONNX file, which is one protobuf message; the rest of 2 GiB is for the graph.
MAX_BYTES = (1 << 31) - (32 << 20)
#: Loggers of the exporter, whose messages the user cannot act on.
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


def check_installed() -> None:
    """Raise a UserError if serpipe[onnx] is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"export: {error.name} is not installed; install it: pip install 'serpipe[onnx]'"
        ) from None


def to_onnx(graph: Graph, n_samples: int, opset: int, metadata: Mapping[str, str]) -> bytes:
    """Convert a graph in evaluation mode to the bytes of an ONNX file, with ``metadata``.

    It is traced with clips of ``n_samples``; others may have other lengths. The bytes are the same
    for the same graph; nothing in them names this machine. Raise UserError if it is too large for
    one file, or uses what ONNX cannot represent.
    """
    import onnx

    tensors = [*graph.parameters(), *graph.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > MAX_BYTES:
        raise UserError(
            f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2 GiB; "
            "choose a smaller encoder, or one of its lower layers"
        )
    example = torch.sin(torch.arange(2 * n_samples) / 7).reshape(2, n_samples)
    clips = torch.export.Dim("clips", min=1)
    samples = torch.export.Dim("samples", min=graph.two_frames, max=graph.longest)
    has_labels = metadata["kind"] == "labels"
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                input_names=["audio"],
                output_names=["scores", "label_index"] if has_labels else ["scores"],
                dynamic_shapes={"audio": {0: clips, 1: samples}},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        if program is None:
            raise RuntimeError("the exporter returned nothing")
        model = program.model_proto
    except Exception as error:  # the exporter raises what its many parts raise
        raise UserError(
            f"the model cannot be converted to a graph ({first_line(error)}); choose an encoder "
            "whose operators ONNX has"
        ) from error
    _clean(model.graph)
    del model.functions[:], model.metadata_props[:]
    model.producer_name, model.producer_version = "serpipe", __version__
    model.doc_string = metadata["what"]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def run_onnx(content: bytes, clips: Sequence[Waveform]) -> list[list[NDArray[Any]]]:
    """Return the outputs of an ONNX file for each clip, one at a time, in one thread.

    Raise UserError if onnxruntime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return [session.run(None, {"audio": clip[None]}) for clip in clips]
    except Exception as error:  # of classes that its extension module makes
        raise UserError(
            f"onnxruntime cannot run the graph ({first_line(error)}); choose another --opset, or "
            "use the model with serpipe"
        ) from error


def _clean(graph: Any) -> None:
    """Remove references to the exporter's source files, and shapes that runtimes infer."""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.value_info[:], graph.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
