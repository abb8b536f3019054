"""A saved model as one ONNX file, from samples to scores, checked before it is put in place."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..corpora.data import SAMPLE, find_data
from ..errors import UserError
from ..features.audio import RESAMPLER, SILENCE_PEAK, Waveform
from ..features.checkpoint import load_checkpoint
from ..files import write_bytes
from ..provenance import versions
from .bundle import BundleSummary, load_bundle, read_bundle_summary
from .latest import DEFAULT_BUNDLE, find_model
from .listeners import Scored, find_encoder
from .model import Model, load_model
from .onnx_convert import OPSETS, check_installed, run_onnx, to_onnx
from .onnx_graph import Graph, Logits, PooledLayers, Shares, prepare_module, ready
from .onnx_heads import check_exportable, head_module
from .prediction_text import describe

#: Scores may differ by this from those of torch; ratings beyond 1 by this part of themselves.
TOLERANCE = 1e-4
EXPORTS = Path("artifacts/onnx")
NOTE = (
    "This tells how speech sounds to a model, not what a person feels. It is no judgement about a "
    "person."
)


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written.

    Attributes
    ----------
    path : Path
        Where.
    n_bytes : int
        Its size.
    difference : float
        The largest by which its scores differed from torch's; of ratings beyond 1, as a part.
    seconds : tuple of float
        How long the clips were on which that was found.
    metadata : mapping of str to str
        What it says of itself.
    """

    path: Path
    n_bytes: int
    difference: float
    seconds: tuple[float, ...]
    metadata: Mapping[str, str]


def export_onnx(
    name: str | Path | None = None,
    out: Path | None = None,
    *,
    encoder: str | Path | None = None,
    revision: str | None = None,
    opset: int = OPSETS[0],
    say: Callable[[str], None] | None = None,
) -> Exported:
    """Write a saved model as one ONNX file.

    Its input ``audio`` is float32 of shape (n_clips, n_samples): mono, at the model's rate, clips
    of one length. Its outputs are ``scores``, float32, shape (n_clips, n_outputs), and for labels
    ``label_index``, int64, shape (n_clips,). Silence, and clips that are too short or too long,
    score NaN. Before it is put in place, onnxruntime runs it on clips of several lengths. The same
    model gives the same bytes.

    Parameters
    ----------
    name, encoder, revision
        As :func:`~serpipe.artifacts.model.load_model` takes them, but for networks.
    out : Path, optional
        Where to; ``artifacts/onnx/NAME.onnx`` by default.
    opset : int
        Version of the operators, of :data:`~serpipe.artifacts.onnx_convert.OPSETS`.
    say : callable, optional
        Is told what the model is and how it scored, a line at a time.

    Returns
    -------
    Exported

    Raises
    ------
    UserError
        If the model needs what a graph does not hold (trimmed silence, half precision), its head
        cannot be exported (:func:`~serpipe.artifacts.onnx_heads.check_exportable`), it is larger
        than an ONNX file can be, or does not give the same scores there; or if serpipe[onnx] is not
        installed.
    MachineError
        If the hub cannot be reached, or the disk does not take the file.
    """
    check_installed()
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}; choose one")
    if out is not None and (out.suffix != ".onnx" or out.is_dir()):
        raise UserError(f"--out {out}: expected a file that ends in .onnx; name one")
    found = find_model(name)
    title = str(found) if found.exists() else str(name)
    told = None
    if (found / "bundle.json").is_file():
        told = read_bundle_summary(found)
        _check_bundle(title, told)
    elif (found / "network.json").is_file():
        raise UserError(
            f"{title}: is a network that was trained from scratch; expected a bundle or a "
            "classifier of transformers, which ONNX can hold; use it with serpipe"
        )
    model = load_model(title, encoder=encoder, revision=revision)
    if say:
        for line in describe(model):
            say(line)
    if told:
        graph = _bundle_graph(found, encoder, revision)
    else:
        graph = _classifier_graph(title, revision, model)
    clips = check_clips(model, graph.longest)
    expected, outputs = model.listener.score(clips), model.listener.outputs
    metadata = _metadata(model, graph, told)
    del model  # its weights, of which the graph has its own
    content = to_onnx(ready(graph), len(clips[0]), opset, metadata)
    difference = _largest_difference(content, clips, expected, outputs)
    if not difference <= TOLERANCE:  # nor if it is not a number
        raise UserError(
            f"{title}: scores of the graph differ by {difference:.1e} from those of torch; "
            f"expected {TOLERANCE:g} at most; nothing was written; use the model with serpipe"
        )
    target = out or EXPORTS / f"{_file_name(title, found)}.onnx"
    write_bytes(target, content)
    rate = int(metadata["sampling_rate"])
    seconds = tuple(len(clip) / rate for clip in clips)
    return Exported(target, len(content), difference, seconds, metadata)


def check_clips(model: Model, longest: int | None) -> list[Waveform]:
    """Return clips of the built-in sample of several lengths.

    Parameters
    ----------
    model : Model
        What they are for.
    longest : int or None
        Samples of the longest clip that it hears at once.

    Returns
    -------
    list of ndarray of float32, shape (n_samples,)
        A second of one, two whole ones, and three end to end, none longer than the model hears.
    """
    _, (scan,) = find_data([SAMPLE])
    files = sorted(clip.file for clip in scan.clips)
    first, second, third = (model.read(file) for file in files[:: len(files) // 3][:3])
    middle = len(first) // 2
    half = model.sampling_rate // 2
    clips = [first[middle - half : middle + half], first, second, np.r_[first, second, third]]
    return [clip[:longest] for clip in clips]


def _check_bundle(title: str, told: BundleSummary) -> None:
    check_exportable(told.head)
    trim, precision = told.encoder.get("trim_decibels"), told.encoder.get("precision", "float32")
    if trim is not None:
        raise UserError(
            f"{title}: hears clips whose silent ends are trimmed at {trim} dB, which a graph does "
            "not do; expected one that hears clips as they are; extract without --trim, fit again"
        )
    if precision not in ("float32", "tf32"):
        raise UserError(
            f"{title}: was fitted on embeddings in {precision}, and the graph computes in float32; "
            "expected float32; extract with --precision float32, fit again"
        )


def _bundle_graph(folder: Path, encoder: str | Path | None, revision: str | None) -> Graph:
    """Put the encoder and the head of a bundle together; :func:`load_model` has checked both."""
    bundle = load_bundle(folder)
    told = bundle.summary
    fitted: Any = bundle.fitted.model
    fitted = fitted["machine"] if isinstance(fitted, dict) else fitted
    labels = getattr(fitted, "classes_", None)
    if labels is not None and list(map(str, labels)) != list(told.labels):
        raise UserError(
            f"{folder}: its head orders labels otherwise than bundle.json says; expected one "
            "order; fit again"
        )
    checkpoint = load_checkpoint(*find_encoder(folder, told, encoder, revision))
    front_end = checkpoint.front_end
    seconds = told.encoder.get("max_seconds")
    longest = math.floor(seconds * front_end.sampling_rate) if seconds else None
    return Graph(
        prepare_module(front_end),
        PooledLayers(checkpoint, told),
        head_module(told.head, bundle.fitted),
        front_end.minimum_samples,
        longest or front_end.maximum_samples,
    )


def _classifier_graph(name: str, revision: str | None, model: Model) -> Graph:
    from ..pipeline.finetune.classifier import load_classifier

    loaded = load_classifier(name, revision)
    front_end, outputs = loaded.checkpoint.front_end, model.listener.outputs
    places = [outputs.index(output) for output in loaded.outputs]
    return Graph(
        prepare_module(front_end),
        Logits(loaded.checkpoint.model),
        Shares(places, model.listener.is_rating),
        front_end.minimum_samples,
        front_end.maximum_samples,
    )


def _metadata(model: Model, graph: Graph, told: BundleSummary | None) -> dict[str, str]:
    """Return what the file says of itself; nothing of this machine or of the time of day."""
    listener, card = model.listener, model.card
    is_rating = listener.is_rating
    facts = {
        "what": card["what"],
        "note": NOTE,
        "target": listener.target,
        "kind": "ratings" if is_rating else "labels",
        "labels": list(listener.outputs),
        "outputs": ["scores"] if is_rating else ["scores", "label_index"],
        "sampling_rate": listener.front_end.sampling_rate,
        "minimum_samples": graph.shortest,
        "maximum_samples": graph.longest,
        "silence_peak": SILENCE_PEAK,
        "channels": listener.channels,
        "resampler": RESAMPLER,
        "trim": "none",
        "score": card["score"],
        "probabilities": card["probabilities"],
        "warnings": list(card["warnings"]),
        "corpus": card["corpus"],
        "licence": card["licence"],
        "citation": card["citation"],
        "serpipe_version": __version__,
        "versions": versions(("onnx", "onnxscript", "onnxruntime")),
        "encoder": dict(told.encoder) if told else {},
        "provenance": dict(told.provenance) if told else {},
    }
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }


def _largest_difference(
    content: bytes, clips: Sequence[Waveform], expected: Sequence[Scored], outputs: Sequence[str]
) -> float:
    """Compare with what torch says; another label is an infinite difference."""
    largest = 0.0
    for said, (label, scores) in zip(run_onnx(content, clips), expected, strict=True):
        if label and outputs[int(said[1][0])] != label:
            return math.inf
        differences = np.abs(said[0][0] - scores) / np.maximum(1, np.abs(scores))
        largest = float(np.maximum(largest, differences.max()))  # NaN stays
    return largest


def _file_name(title: str, found: Path) -> str:
    if found == DEFAULT_BUNDLE:
        return "default"
    if not found.exists():
        return title.replace("/", "--")
    parts = found.resolve().parts
    if parts[-2:-1] == ("bundles",):
        return "-".join(parts[-3::2])
    return parts[-2] if parts[-1] == "model" else parts[-1]
