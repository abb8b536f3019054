"""Export a saved model as one ONNX file, from samples to scores, and check it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..._version import __version__
from ...corpora.data import SAMPLE, find_data
from ...errors import UserError
from ...features.audio import RESAMPLER, SILENCE_PEAK, Waveform
from ...features.checkpoint import Checkpoint, load_checkpoint
from ...features.families import SUPPORTED, family_of
from ...features.front_end import FrontEnd
from ...features.names import OPENSMILE
from ...files import write_bytes
from ...provenance import versions
from ..models.bundle import BundleSummary, load_bundle, read_bundle_summary
from ..models.find import DEFAULT_BUNDLE, ModelFiles, get_model_files
from ..models.prediction_text import describe
from ..models.predictors import ClipScores, encoder_sources, find_encoder
from ..models.saved_model import Model, load_model
from ..run.encoder_key import encoder_parts
from .convert import OPSETS, check_installed, run_onnx, to_onnx
from .graph import (
    Graph,
    Logits,
    PooledLayers,
    Probabilities,
    SeveralEncoders,
    prepare_module,
    ready,
)
from .heads import check_exportable, head_module

#: Largest difference of scores from those of torch: absolute up to 1, relative above.
TOLERANCE = 1e-4
EXPORTS = Path("artifacts/onnx")
NOTE = (
    "This tells how speech sounds to a model, not what a person feels. It is no judgement about a "
    "person."
)


@dataclass(frozen=True)
class Exported:
    """An exported ONNX file."""

    path: Path
    n_bytes: int
    #: The largest difference of its scores from those of torch: absolute up to 1, relative above.
    difference: float
    seconds: tuple[float, ...]  #: Durations of the clips on which it was measured.
    metadata: Mapping[str, str]  #: Stored in the file.


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
    score NaN. A bundle of several encoders becomes one graph, with those that its head reads.
    Before the file is put in place, onnxruntime runs it on clips of several lengths. The same model
    gives the same bytes.

    Parameters
    ----------
    name, encoder, revision
        See :func:`~serpipe.artifacts.models.saved_model.load_model`; networks cannot be exported.
    out : Path, optional
        The file; by default ``artifacts/onnx/NAME.onnx``.
    opset : int
        Version of the operators, of :data:`~serpipe.artifacts.onnx_export.convert.OPSETS`.
    say : callable, optional
        Prints the description of the model, a line at a time.

    Raises
    ------
    UserError
        If the model needs what a graph cannot do (trimmed silence, half precision), its head cannot
        be exported (``check_exportable``), it is larger than an ONNX file can be, or gives other
        scores; or if serpipe[onnx] is not installed.
    MachineError
        If the hub cannot be reached, or the disk does not take the file.
    """
    check_installed()
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: choose one from {OPSETS[0]} to {OPSETS[-1]}")
    if out is not None and (out.suffix != ".onnx" or out.is_dir()):
        raise UserError(f"--out {out}: name a file that ends in .onnx")
    files = get_model_files(name, revision)
    folder, title = files.folder, files.title
    bundle = None
    if files.is_bundle:
        bundle = read_bundle_summary(folder)
        _check_bundle(title, bundle)
    elif files.is_network:
        raise UserError(
            f"{title}: is a network trained from scratch, which cannot be exported; use it with "
            "serpipe, or export a bundle or a classifier of transformers"
        )
    model = load_model(title, encoder=encoder, revision=files.commit or revision)
    if say:
        for line in describe(model):
            say(line)
    if bundle:
        graph = _bundle_graph(folder, encoder, None if files.commit else revision)
    else:
        graph = _classifier_graph(title, files.commit or revision, model)
    clips = check_clips(model, graph.longest)
    expected, outputs = model.predictor.score(clips), model.predictor.outputs
    metadata = _metadata(model, graph, bundle)
    del model  # its weights, of which the graph has its own
    content = to_onnx(ready(graph), len(clips[0]), opset, metadata)
    difference = _largest_difference(content, clips, expected, outputs)
    if not difference <= TOLERANCE:  # nor if it is not a number
        raise UserError(
            f"{title}: scores of the graph differ by {difference:.1e} from those of torch, which "
            f"is more than {TOLERANCE:g}; nothing was written; use the model with serpipe"
        )
    target = out or EXPORTS / f"{_file_name(files)}.onnx"
    write_bytes(target, content)
    rate = int(metadata["sampling_rate"])
    seconds = tuple(len(clip) / rate for clip in clips)
    return Exported(target, len(content), difference, seconds, metadata)


def check_clips(model: Model, longest: int | None) -> list[Waveform]:
    """Return clips of the built-in sample for a model: float32, shape (n_samples,) each.

    They are a second of one, two whole ones, and three end to end, cut to ``longest`` samples.
    """
    _, (scan,) = find_data([SAMPLE])
    files = sorted(clip.file for clip in scan.clips)
    first, second, third = (model.read(file) for file in files[:: len(files) // 3][:3])
    middle = len(first) // 2
    half = model.sampling_rate // 2
    clips = [first[middle - half : middle + half], first, second, np.r_[first, second, third]]
    return [clip[:longest] for clip in clips]


def _check_bundle(title: str, bundle: BundleSummary) -> None:
    check_exportable(bundle.head)
    for key, _ in encoder_parts(bundle.encoder):
        trim, precision = key.get("trim_decibels"), key.get("precision", "float32")
        model_type = str(key.get("model_type"))
        if model_type in SUPPORTED and not family_of(model_type).is_exportable:
            raise UserError(
                f"{title}: its encoder, of model type {model_type!r}, cannot be exported; use the "
                "bundle with serpipe"
            )
        if trim is not None:
            raise UserError(
                f"{title}: trims the silent ends of clips at {trim} dB, which a graph cannot do; "
                "extract without --trim and fit again"
            )
        if precision not in ("float32", "tf32"):
            raise UserError(
                f"{title}: was fitted on embeddings in {precision}, and the graph computes in "
                "float32; extract with --precision float32 and fit again"
            )


def _bundle_graph(folder: Path, encoder: str | Path | None, revision: str | None) -> Graph:
    """Join the encoders and the head of a bundle, which :func:`load_model` has checked."""
    bundle = load_bundle(folder)
    summary = bundle.summary
    fitted: Any = bundle.fitted.model
    fitted = fitted["machine"] if isinstance(fitted, dict) else fitted
    labels = getattr(fitted, "classes_", None)
    if labels is not None and list(map(str, labels)) != list(summary.labels):
        raise UserError(
            f"{folder}: the order of labels in its head is not that of bundle.json; fit again"
        )
    parts = _needed_encoders(folder, summary, encoder, revision)
    front_ends = [each.checkpoint.front_end for each in parts]
    longest = [each.longest for each in parts if each.longest is not None]
    prepare = [prepare_module(each) for each in front_ends]
    embed = [PooledLayers(each.checkpoint, each.summary) for each in parts]
    is_single = len(parts) == 1
    return Graph(
        prepare[0] if is_single else nn.Identity(),
        embed[0] if is_single else SeveralEncoders(prepare, embed),
        head_module(summary.head, bundle.fitted, summary.temperature),
        max(each.minimum_samples for each in front_ends),
        min(longest, default=None),
        max(map(_two_frames, front_ends)),
    )


@dataclass(frozen=True)
class _EncoderPart:
    """An encoder of a bundle, of which the graph needs some layers.

    Attributes
    ----------
    checkpoint : Checkpoint
        The encoder.
    summary : BundleSummary
        That of the bundle, with the key and the layers of this encoder alone, as it names them.
    """

    checkpoint: Checkpoint
    summary: BundleSummary

    @property
    def longest(self) -> int | None:
        """Number of samples of the longest clip that is embedded in one piece."""
        front_end, seconds = self.checkpoint.front_end, self.summary.encoder.get("max_seconds")
        longest = math.floor(seconds * front_end.sampling_rate) if seconds else None
        return longest or front_end.maximum_samples


def _needed_encoders(
    folder: Path, summary: BundleSummary, encoder: str | Path | None, revision: str | None
) -> list[_EncoderPart]:
    """Load the encoders that have layers of the head, in the order of these layers."""
    parts = encoder_parts(summary.encoder)
    if len(parts) == 1:
        return [_load_part(folder, summary, encoder, revision)]
    sources = encoder_sources(folder, len(parts), encoder)
    used = list(summary.layer["layers"])
    needed: list[_EncoderPart] = []
    joined: list[str] = []
    for (key, names), source in zip(parts, sources, strict=True):
        own = [list(key["layers"])[names.index(layer)] for layer in used if layer in names]
        if not own:
            continue
        joined += [layer for layer in used if layer in names]
        how = "concat" if len(own) > 1 else "single"
        part = replace(summary, encoder=key, layer={"name": "", "layers": own, "how": how})
        needed.append(_load_part(folder, part, source, revision))
    if joined != used:
        raise UserError(
            f"{folder}: its layers are not ordered by encoder, as the graph needs them; fit again"
        )
    return needed


def _load_part(
    folder: Path, summary: BundleSummary, encoder: str | Path | None, revision: str | None
) -> _EncoderPart:
    """Load one encoder; raise UserError if it is none that a graph can compute."""
    source, revision = find_encoder(folder, summary.encoder, encoder, revision)
    if source.startswith(OPENSMILE):
        raise UserError(
            f"{folder}: needs openSMILE, which is no part of ONNX; predict with serpipe"
        )
    return _EncoderPart(load_checkpoint(source, revision), summary)


def _classifier_graph(name: str, revision: str | None, model: Model) -> Graph:
    from ...pipeline.finetune.classifier import load_classifier
    from ...pipeline.finetune.published_model import PublishedModel

    loaded = load_classifier(name, revision)
    if isinstance(loaded.checkpoint.model, PublishedModel):
        raise UserError(
            f"{name}: its head ({loaded.head}) cannot be exported; use it with serpipe, or export "
            "a bundle or a classifier of transformers"
        )
    front_end, outputs = loaded.checkpoint.front_end, model.predictor.outputs
    indices = [outputs.index(output) for output in loaded.outputs]
    return Graph(
        prepare_module(front_end),
        Logits(loaded.checkpoint.model),
        Probabilities(indices, model.predictor.is_rating),
        front_end.minimum_samples,
        front_end.maximum_samples,
        _two_frames(front_end),
    )


def _two_frames(front_end: FrontEnd) -> int:
    """Return the number of samples of the shortest clip that has two frames."""
    return next(n for n in count(front_end.minimum_samples) if front_end.frames(n) >= 2)


def _metadata(model: Model, graph: Graph, bundle: BundleSummary | None) -> dict[str, str]:
    """Return the metadata of the file, without anything of this machine or of the time of day."""
    predictor, card = model.predictor, model.card
    is_rating = predictor.is_rating
    facts = {
        "what": card["what"],
        "note": NOTE,
        "target": predictor.target,
        "kind": "ratings" if is_rating else "labels",
        "labels": list(predictor.outputs),
        "outputs": ["scores"] if is_rating else ["scores", "label_index"],
        "sampling_rate": predictor.front_end.sampling_rate,
        "minimum_samples": graph.shortest,
        "maximum_samples": graph.longest,
        "silence_peak": SILENCE_PEAK,
        "channels": predictor.channels,
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
        "encoder": dict(bundle.encoder) if bundle else {},
        "provenance": dict(bundle.provenance) if bundle else {},
    }
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }


def _largest_difference(
    content: bytes,
    clips: Sequence[Waveform],
    expected: Sequence[ClipScores],
    outputs: Sequence[str],
) -> float:
    """Compare with the scores of torch; another label is an infinite difference."""
    largest = 0.0
    for outs, (label, scores, _) in zip(run_onnx(content, clips), expected, strict=True):
        if label and outputs[int(outs[1][0])] != label:
            return math.inf
        differences = np.abs(outs[0][0] - scores) / np.maximum(1, np.abs(scores))
        largest = float(np.maximum(largest, differences.max()))  # NaN stays
    return largest


def _file_name(files: ModelFiles) -> str:
    if files.folder == DEFAULT_BUNDLE:
        return "default"
    if files.commit:
        return files.title.replace("/", "--")
    parts = files.folder.resolve().parts
    if parts[-2:-1] == ("bundles",):
        return "-".join(parts[-3::2])
    return parts[-2] if parts[-1] == "model" else parts[-1]
