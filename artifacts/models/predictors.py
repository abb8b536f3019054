"""Bundles, models of transformers and networks as predictors, behind one interface."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...choices import CHANNELS, check_choice
from ...errors import UserError, counted
from ...features.audio import CHANNEL_POLICY, Waveform
from ...features.batching import Lane
from ...features.encoder import PRECISIONS, Encoder, load_encoder
from ...features.front_end import FrontEnd, prepare
from ...features.in_order import in_order
from ...features.names import BUILT_IN, ENGINE_ERROR, OPENSMILE, POOLINGS
from ...features.options import ExtractOptions
from ...features.training_record import FILE_NAME, TrainingRecord, read_record, unite
from ...integrity import hash_file
from ...pipeline.marks import Mark, MarkKind
from ...pipeline.measures import Measure
from ...pipeline.statistics import Interval
from ...provenance import cores
from ..run.encoder_key import encoder_parts, is_on_hub, poolings_of
from ..run.results import read_results
from ..score_text import interval_text
from .bundle import Bundle, BundleSummary, load_bundle
from .enrolment import SpeakerProfile
from .outputs import SOFTMAX, label_probabilities


class ClipScores(NamedTuple):
    """What a model says of a clip."""

    label: str  #: Empty for ratings.
    #: Float64, shape (n_outputs,); NaN where the model gives no numbers.
    scores: NDArray[np.float64]
    #: How far it is from the training clips: above 1 it is unlike them. NaN if unknown.
    distance: float = math.nan


Scorer = Callable[[Sequence[Waveform]], list[ClipScores]]
#: By layer, float32, shape (n_clips, n_features).
Embeddings = Mapping[str, NDArray[np.float32]]
_T = TypeVar("_T")

#: Clips per batch of a whole model on a GPU.
_BATCH_SIZE = 8
#: Fields in which an encoder must equal the one that a head was fitted on.
_SAME = ("weights_sha256", "model_type", "sampling_rate", "normalise", "layers", "width")


@dataclass(frozen=True)
class SpeakerAdapter:
    """How a model is adapted to a speaker with enrolled clips."""

    fewest: int  #: With fewer clips the model stays as it is.
    #: From clips as :attr:`Predictor.score` takes them to their embeddings by layer.
    embed: Callable[[Sequence[Waveform]], list[Embeddings]]
    #: From the embeddings of all enrolled clips to the profile of their speaker.
    profile: Callable[[Embeddings], SpeakerProfile]
    #: From a profile to what takes the place of :attr:`Predictor.score`.
    scorer: Callable[[SpeakerProfile], Scorer]


@dataclass(frozen=True)
class Predictor:
    """A model that scores clips."""

    outputs: tuple[str, ...]  #: Names of the scores: labels or ratings.
    is_rating: bool  #: Whether they are ratings.
    target: str  #: The predicted column; empty if unknown.
    front_end: FrontEnd  #: Its sampling rate, shortest clip, and whether each clip is normalised.
    maximum_samples: int | None  #: The longest clip.
    channels: str  #: How several channels become one.
    trim_decibels: float | None  #: Level below which the ends of a clip are trimmed.
    card: Mapping[str, Any]  #: Description, scores, calibration, warnings, licence.
    #: From clips, mono float32 at its rate and within its limits, to their scores. The scores of a
    #: clip do not depend on the other clips; on a CPU to the last bit.
    score: Scorer
    #: Its training clips, those of its encoder included; None if nothing is known.
    training: TrainingRecord | None
    #: Threads that may each score one clip at the same time, which is fastest on a CPU; 0 on a GPU,
    #: where one thread scores batches.
    lanes: int = 1
    adapter: SpeakerAdapter | None = None  #: Adapts the model to speakers, if it can be.
    #: Hash of its weights; for a bundle, of the file that holds the hashes of all its files.
    sha256: str = ""


def bundle_predictor(
    folder: Path, device: str, encoder: str | Path | None, revision: str | None
) -> Predictor:
    """Load a bundle and its encoder, see :func:`find_encoder`, onto a torch device.

    Raise UserError if the bundle is incomplete or needs many clips of each speaker, or the encoder
    is missing or another one; MachineError if the hub cannot be reached.
    """
    bundle = load_bundle(folder)
    summary, key = bundle.summary, bundle.summary.encoder
    if summary.normalise != "none":
        raise UserError(
            f"{folder}: was fitted on embeddings standardised for each {summary.normalise}, so it "
            "needs many clips of one; fit with --normalise none"
        )
    loaded, warnings = _load_its_encoders(folder, summary, device, encoder, revision)
    longest = [each.maximum_samples for each in loaded if each.maximum_samples is not None]
    trim, channels = key.get("trim_decibels"), key.get("channels", CHANNEL_POLICY)
    check_choice("channels", channels, CHANNELS)
    return Predictor(
        outputs=tuple(map(str, summary.labels)) or (summary.target,),
        is_rating=not summary.labels,
        target=summary.target,
        # What the others need as well follows from it: rates are equal, and the longest of the
        # shortest clips counts.
        front_end=max((each.front_end for each in loaded), key=lambda each: each.minimum_samples),
        maximum_samples=min(longest, default=None),
        channels=channels,
        trim_decibels=None if trim is None else float(trim),
        card=_bundle_card(summary, warnings),
        score=_bundle_scorer(bundle, loaded),
        training=_bundle_training(bundle, loaded),
        lanes=cores() if loaded[0].device.type == "cpu" else 0,
        adapter=_speaker_adapter(bundle, loaded),
        sha256=hash_file(folder / "bundle.json"),  # which holds the hashes of all else
    )


def classifier_predictor(name: str, device: str, revision: str | None) -> Predictor:
    """Load a model of transformers, from a folder or by hub id and revision.

    Raise UserError if it is missing or incomplete, or gives several labels to a clip; MachineError
    if the hub cannot be reached.
    """
    from ...pipeline.finetune.classifier import load_classifier

    loaded = load_classifier(name, revision)
    checkpoint, kind = loaded.checkpoint, loaded.problem_type
    if kind not in ("", "single_label_classification", "regression"):
        raise UserError(
            f"{name}: was trained for {kind}, not for one label of a clip, or ratings; choose "
            "another --model"
        )
    config: Any = checkpoint.model.config
    what = f"{checkpoint.model_type} classifier, revision {checkpoint.revision}"
    predictor = _whole_model(
        checkpoint.model,
        checkpoint.front_end,
        loaded.outputs,
        kind == "regression" or (not kind and len(loaded.outputs) == 1),
        device,
        Path(name),
        what,
        getattr(config, "serpipe", None),
        checkpoint.training,
    )
    return replace(predictor, sha256=checkpoint.weights_sha256)


def network_predictor(folder: Path, device: str) -> Predictor:
    """Load a network that ``serpipe finetune --network`` saved.

    Raise UserError if it is incomplete.
    """
    from ...pipeline.finetune.network_model import load_network, network_front_end

    network = load_network(folder)
    predictor = _whole_model(
        network,
        network_front_end(),
        network.outputs,
        len(network.outputs) == 1,
        device,
        folder,
        f"{network.name} network, trained from scratch",
        network.about,
        read_record(folder / FILE_NAME),
    )
    return replace(predictor, sha256=hash_file(folder / "model.safetensors"))


def find_encoder(
    folder: Path, key: Mapping[str, Any], given: str | Path | None, revision: str | None
) -> tuple[str, str | None]:
    """Find the encoder that a key names; the key was read from a folder.

    ``given`` and ``revision`` are what the user stated instead, if anything. Return its built-in
    name, local folder or hub id, and for a hub id the revision. Raise UserError if it is in a local
    folder that is not given.
    """
    name, recorded = str(key.get("encoder")), str(key.get("revision"))
    is_hub = is_on_hub(key)
    if given is not None:
        return str(given), revision
    if name.startswith(OPENSMILE):
        return name, None
    if (recorded == "built-in" and name in BUILT_IN) or (is_hub and not Path(name).exists()):
        # A bundle may come from anybody: its entry is used as a name, never as a path.
        return name, recorded if is_hub else None
    raise UserError(
        f"{folder}: was fitted on the encoder {name!r} from a local folder; name that folder with "
        "--encoder DIR"
    )


def encoder_sources(
    folder: Path, n_encoders: int, given: str | Path | None
) -> list[str | Path | None]:
    """Return what the user gave for each encoder of a bundle; ``given`` separates them by commas.

    Raise UserError if their number is not that of the encoders.
    """
    if given is None or n_encoders == 1:
        return [given] * n_encoders
    sources: list[str | Path | None] = [*str(given).split(",")]
    if len(sources) != n_encoders:
        raise UserError(
            f"--encoder {given}: {folder} needs {n_encoders} encoders; name all of them, joined by "
            "commas, in the order of bundle.json"
        )
    return sources


def _load_its_encoders(
    folder: Path, bundle: BundleSummary, device: str, given: str | Path | None, revision: str | None
) -> tuple[list[Encoder], list[str]]:
    """Load the encoders of a bundle, usually one, and return warnings with them.

    Of several, ``given`` names all, joined by commas.
    """
    keys = [key for key, _ in encoder_parts(bundle.encoder)]
    encoders, warnings = [], []
    for key, source in zip(keys, encoder_sources(folder, len(keys), given), strict=True):
        part = replace(bundle, encoder=key)
        encoder, of_encoder = _load_its_encoder(folder, part, device, source, revision)
        encoders.append(encoder)
        warnings += of_encoder
    return encoders, warnings


def _load_its_encoder(
    folder: Path, bundle: BundleSummary, device: str, given: str | Path | None, revision: str | None
) -> tuple[Encoder, list[str]]:
    """Load the encoder of a bundle, and refuse another one; return warnings with it."""
    key = bundle.encoder
    source, revision = find_encoder(folder, key, given, revision)
    poolings, precision = poolings_of(key, bundle.pooling), key.get("precision", "float32")
    if not set(poolings) <= set(POOLINGS) or precision not in PRECISIONS:
        raise UserError(
            f"{folder / 'bundle.json'}: this version of serpipe does not know pooling "
            f"{bundle.pooling!r} in {precision!r}; use the version that made the bundle"
        )
    encoder = load_encoder(
        source,
        revision=revision,
        poolings=poolings,
        device=device,
        precision=precision,
        max_seconds=key.get("max_seconds"),
    )
    for field in _SAME:
        value = getattr(encoder.identity, field)
        if key.get(field) != (list(value) if isinstance(value, tuple) else value):
            raise UserError(
                f"{source}: is not the encoder {key.get('encoder')} that {folder} was fitted on "
                f"({field} differs); name the folder of the same weights with --encoder DIR"
            )
    reasons = []
    if key.get("config_sha256") != encoder.identity.config_sha256:
        reasons.append(
            f"that of {source} differs from what the head was fitted with, in itself or by another "
            "version of transformers: scores may differ"
        )
    if "engine" in key:
        reasons.append(
            f"the head was fitted on embeddings by {key['engine']}, with an error of "
            f"{key.get(ENGINE_ERROR)}; here torch runs {source}: scores may differ"
        )
    return encoder, [str(Mark(MarkKind.CONFIGURATION, each)) for each in reasons]


def _bundle_training(bundle: Bundle, encoders: Sequence[Encoder]) -> TrainingRecord | None:
    """Return the training clips of head and encoders."""
    # An older bundle names its data, but lists no clips of them.
    corpora = frozenset({bundle.summary.corpus})
    of_head = bundle.training or TrainingRecord(corpora=corpora, unlisted=corpora)
    return unite([of_head, *(encoder.training for encoder in encoders)])


def _speaker_adapter(bundle: Bundle, encoders: Sequence[Encoder]) -> SpeakerAdapter | None:
    enrolment = bundle.enrolment
    if enrolment is None:
        return None

    def embed(pooled: Sequence[Embeddings], column: int) -> Embeddings:
        return _embeddings_of(bundle.summary, enrolment.candidate.layers, pooled, column)

    return SpeakerAdapter(
        enrolment.summary.fewest,
        _for_each_clip(encoders, embed),
        enrolment.profile,
        partial(_bundle_scorer, bundle, encoders),
    )


def _embeddings_of(
    summary: BundleSummary,
    used: Sequence[str],
    pooled: Sequence[Embeddings],
    column: int,
) -> Embeddings:
    """Return the embeddings of a clip as a cache holds them, shape (1, n_features), by layer.

    ``pooled`` are the pooled hidden states of a batch by each encoder.
    """
    embeddings = {}
    for (key, layers), states in zip(encoder_parts(summary.encoder), pooled, strict=True):
        poolings = poolings_of(key, summary.pooling)
        dtype = np.float16 if key.get("dtype") == "float16" else np.float32
        for layer in set(used) & set(layers):
            parts = [states[pooling][layers.index(layer), [column]] for pooling in poolings]
            embeddings[layer] = np.concatenate(parts, axis=1).astype(dtype).astype(np.float32)
    return embeddings


def _bundle_scorer(
    bundle: Bundle, encoders: Sequence[Encoder], profile: SpeakerProfile | None = None
) -> Scorer:
    summary = bundle.summary

    def classify(pooled: Sequence[Embeddings], column: int) -> ClipScores:
        embeddings = _embeddings_of(summary, bundle.layers(profile), pooled, column)
        if not all(np.isfinite(each).all() for each in embeddings.values()):
            return ClipScores("", np.full(len(summary.labels) or 1, math.nan))
        predicted, probabilities = bundle.predict(embeddings, profile)
        distance = float(bundle.distances(embeddings)[0])
        if not summary.labels:
            return ClipScores("", np.asarray(predicted[:1], np.float64), distance)
        # The chosen label is not always the most probable one: an SVM chooses by votes.
        return ClipScores(str(predicted[0]), probabilities[0], distance)

    return _for_each_clip(encoders, classify)


def _for_each_clip(
    encoders: Sequence[Encoder], read: Callable[[Sequence[Embeddings], int], _T]
) -> Callable[[Sequence[Waveform]], list[_T]]:
    """Return a function that embeds clips and applies ``read`` to each.

    ``read`` takes the pooled hidden states of a batch, by encoder and pooling, and the number of
    the clip in it.
    """
    rate = encoders[0].identity.sampling_rate

    def on_cpu(waveforms: Sequence[Waveform]) -> list[_T]:
        # As in extraction: each clip alone, by one thread, so that the bits are those of a cache.
        def one(waveform: Waveform) -> _T:
            torch.set_num_threads(1)
            return read([encoder.embed([waveform]) for encoder in encoders], 0)

        threads = torch.get_num_threads()
        workers = max(1, min(len(waveforms), cores()))
        try:
            if workers == 1:
                return [one(waveform) for waveform in waveforms]
            return list(in_order(one, waveforms, workers, ahead=workers))
        finally:
            torch.set_num_threads(threads)

    lanes = [Lane(encoder) for encoder in encoders]

    def on_gpu(waveforms: Sequence[Waveform]) -> list[_T]:
        scored: list[_T] = []
        capacity = int(ExtractOptions.batch_seconds * rate)
        while len(scored) < len(waveforms):
            remaining = waveforms[len(scored) :]
            longest = np.maximum.accumulate([len(waveform) for waveform in remaining])
            n_clips = int(np.sum(longest * np.arange(1, len(remaining) + 1) <= capacity))
            batch = list(remaining[: max(1, n_clips)])
            pooled = [lane.embed(batch) for lane in lanes]
            scored += [read(pooled, column) for column in range(len(batch))]
        return scored

    return on_cpu if encoders[0].device.type == "cpu" else on_gpu


def _whole_model(
    module: nn.Module,
    front_end: FrontEnd,
    names: Sequence[str],
    is_rating: bool,
    device: str,
    folder: Path,
    what: str,
    about: Any,
    training: TrainingRecord | None,
) -> Predictor:
    """Return a predictor of a model with its own head; ``about`` is its untrusted description."""
    module.to(device).eval()
    about = about if isinstance(about, Mapping) else {}
    outputs = tuple(dict.fromkeys(names))  # several may have one name: they are summed
    indices = np.array([outputs.index(name) for name in names])
    size = 1 if torch.device(device).type == "cpu" else _BATCH_SIZE

    def read(logits: NDArray[np.float64]) -> ClipScores:
        if is_rating:
            return ClipScores("", logits[0])
        probabilities = label_probabilities(logits, indices, len(outputs))[0]
        return ClipScores(outputs[int(np.argmax(probabilities))], probabilities)

    def score(waveforms: Sequence[Waveform]) -> list[ClipScores]:
        scored: list[ClipScores] = []
        for start in range(0, len(waveforms), size):
            batch = [prepare(front_end, each) for each in waveforms[start : start + size]]
            inputs = {name: each.to(device) for name, each in front_end.inputs(batch).items()}
            with torch.inference_mode():
                logits = module(**inputs)["logits"].float().cpu().numpy().astype(np.float64)
            scored += [read(logits[[row]]) for row in range(len(batch))]
        return scored

    return Predictor(
        outputs=outputs,
        is_rating=is_rating,
        target=str(about.get("target", "")),
        front_end=front_end,
        maximum_samples=front_end.maximum_samples,
        channels=CHANNEL_POLICY,
        trim_decibels=None,
        card=_model_card(folder, what, about, is_rating),
        score=score,
        training=training,
        lanes=int(torch.device(device).type == "cpu"),
    )


def _bundle_card(bundle: BundleSummary, warnings: Sequence[str]) -> dict[str, Any]:
    layer = bundle.layer.get("name")
    return {
        "kind": "bundle",
        "what": f"{bundle.head} on layer {layer} of {bundle.encoder.get('encoder')}",
        "corpus": bundle.corpus,
        "score": _bundle_score(bundle),
        "probabilities": bundle.probabilities if bundle.labels else "",
        "result": dict(bundle.result),
        "warnings": [*map(str, bundle.warnings), *warnings],
        "licence": bundle.licence,
        "citation": bundle.citation,
    }


def _bundle_score(bundle: BundleSummary) -> str:
    measure = bundle.measure
    result = bundle.result
    try:
        return _score_line(
            measure,
            bundle.interval(measure.key),
            result["split"],
            result["clips"],
            result["speakers"],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return "not known"


def _score_line(
    measure: Measure, interval: Interval, split: str, n_clips: int, n_speakers: int
) -> str:
    unit = " %" if measure.in_percent else ""
    return (
        f"{measure.title} {interval_text(interval, measure)}{unit}, {split}, "
        f"{counted(n_clips, 'clip')} of {counted(n_speakers, 'speaker')}"
    )


def _model_card(
    folder: Path, what: str, about: Mapping[str, Any], is_rating: bool
) -> dict[str, Any]:
    """Return what a trained model says of itself, and the score of its run if that exists."""
    score = "not known: `serpipe evaluate` scores it on a corpus"
    warnings = about.get("warnings")
    corpora = about.get("corpora")
    cache: Any = {}
    run = folder.resolve().parent
    if folder.is_dir() and folder.resolve().name == "model" and (run / "run.json").is_file():
        try:
            results = read_results(run)
            summary, measure = results.summary, results.measure
            score = _score_line(
                measure,
                results.scores(results.heads[0])[measure.key],
                summary.split_title,
                summary.clips,
                len(summary.speakers),
            )
            cache = summary.provenance.get("cache")
        except (UserError, IndexError, KeyError):
            pass  # the model predicts without its run
    provenance = cache if isinstance(cache, Mapping) else {}
    return {
        "kind": "model",
        "what": what,
        "corpus": ", ".join(map(str, corpora)) if isinstance(corpora, list) else "not known",
        "score": score,
        "probabilities": "" if is_rating else SOFTMAX,
        "warnings": list(map(str, warnings)) if isinstance(warnings, list) else [],
        "licence": str(provenance.get("licence", "not known")),
        "citation": str(provenance.get("citation", "")),
    }
