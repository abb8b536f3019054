"""The three kinds of model that tell something from clips, behind one interface."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import UserError, counted
from ..features.audio import CHANNEL_POLICY, Waveform, check_channels
from ..features.batching import GPU_BATCH_SECONDS, Lane
from ..features.checkpoint import BUILT_IN
from ..features.encoder import PRECISIONS, Encoder, load_encoder
from ..features.front_end import FrontEnd, prepare
from ..features.in_order import in_order
from ..features.names import HUB_ID, POOLINGS
from ..features.training_record import FILE_NAME, TrainingRecord, read_record, unite
from ..files import read_bytes
from ..integrity import MAX_JSON_BYTES, parse_json
from ..pipeline.measures import MEASURES
from ..pipeline.outputs import SOFTMAX, label_shares
from ..pipeline.statistics import Interval
from ..provenance import cores
from .bundle import Bundle, BundleSummary, load_bundle
from .results import read_results
from .table import interval_text

#: Of a clip: its label, empty for ratings, and its scores, shape (n_outputs,). NaN where the model
#: gives no numbers.
Scored = tuple[str, NDArray[np.float64]]
Scorer = Callable[[Sequence[Waveform]], list[Scored]]

#: Clips that share a batch of a whole model on a GPU.
_BATCH_SIZE = 8
#: What an encoder must have in common with the one that a head was fitted on.
_SAME = ("weights_sha256", "model_type", "sampling_rate", "normalise", "layers", "width")


@dataclass(frozen=True)
class Listener:
    """What scores clips.

    Attributes
    ----------
    outputs : tuple of str
        Names of the scores: labels or ratings.
    is_rating : bool
        Which of the two.
    target : str
        What is told, as far as is known.
    front_end : FrontEnd
        Its rate, its shortest clip, and whether each clip is brought to one loudness.
    maximum_samples : int or None
        The longest clip.
    channels : {"mean", "left", "right"}
        How several channels become one.
    trim_decibels : float or None
        Below which the ends of a clip are trimmed.
    card : mapping
        What it is, how it scored, whether its probabilities are calibrated, warnings, licence.
    score : callable
        From clips, mono float32 at its rate and within its limits, to what it says of each. What it
        says of a clip does not depend on the others; on a CPU to the last bit.
    training : TrainingRecord or None
        What it was trained on, its encoder included; None if nothing is known.
    lanes : int
        Threads that may each score one clip at the same time, which is fastest on a CPU; 0 on a
        GPU, where one thread scores batches.
    """

    outputs: tuple[str, ...]
    is_rating: bool
    target: str
    front_end: FrontEnd
    maximum_samples: int | None
    channels: str
    trim_decibels: float | None
    card: Mapping[str, Any]
    score: Scorer
    training: TrainingRecord | None
    lanes: int = 1


def open_bundle(
    folder: Path, device: str, encoder: str | Path | None, revision: str | None
) -> Listener:
    """Load a fitted head and the encoder that it was fitted on.

    Parameters
    ----------
    folder : Path
        The bundle.
    device : str
        Where the encoder runs, in torch's words.
    encoder : str or Path, optional
        Where the encoder is, if it is neither built in nor on the hub.
    revision : str, optional
        Of that encoder.

    Returns
    -------
    Listener

    Raises
    ------
    UserError
        If the bundle is not whole or needs many clips of each speaker, or the encoder is not there
        or is another one.
    MachineError
        If the hub cannot be reached.
    """
    bundle = load_bundle(folder)
    told, key = bundle.summary, bundle.summary.encoder
    if told.normalise != "none":
        raise UserError(
            f"{folder}: was fitted on embeddings that are standardised for each {told.normalise}: "
            "it needs many clips of one, not a clip; expected a head that hears clips as they are; "
            "fit with --normalise none"
        )
    loaded, warnings = _load_its_encoder(folder, told, device, encoder, revision)
    trim, channels = key.get("trim_decibels"), key.get("channels", CHANNEL_POLICY)
    check_channels(channels)
    return Listener(
        outputs=tuple(map(str, told.labels)) or (told.target,),
        is_rating=not told.labels,
        target=told.target,
        front_end=loaded.front_end,
        maximum_samples=loaded.maximum_samples,
        channels=channels,
        trim_decibels=None if trim is None else float(trim),
        card=_bundle_card(told, warnings),
        score=_bundle_scorer(bundle, loaded),
        training=_bundle_training(bundle, loaded),
        lanes=cores() if loaded.device.type == "cpu" else 0,
    )


def open_classifier(name: str, device: str, revision: str | None) -> Listener:
    """Load a model of transformers.

    Parameters
    ----------
    name : str
        Folder or hub id.
    device : str
        In torch's words.
    revision : str, optional
        Of a hub id.

    Returns
    -------
    Listener

    Raises
    ------
    UserError
        If it is not there, not whole, or tells several labels of one clip.
    MachineError
        If the hub cannot be reached.
    """
    from ..pipeline.finetune.classifier import load_classifier

    loaded = load_classifier(name, revision)
    checkpoint, kind = loaded.checkpoint, loaded.problem_type
    if kind not in ("", "single_label_classification", "regression"):
        raise UserError(
            f"{name}: was trained for {kind}; expected one label of a clip, or ratings; choose "
            "another --model"
        )
    config: Any = checkpoint.model.config
    about = _about(getattr(config, "serpipe", None))
    is_rating = kind == "regression" or (not kind and len(loaded.outputs) == 1)
    what = f"{checkpoint.model_type} classifier, revision {checkpoint.revision}"
    return _whole_model(
        checkpoint.model,
        checkpoint.front_end,
        loaded.outputs,
        is_rating,
        device,
        _model_card(Path(name), what, about, is_rating),
        str(about.get("target", "")),
        checkpoint.training,
    )


def open_network(folder: Path, device: str) -> Listener:
    """Load a network that was trained from scratch.

    Parameters
    ----------
    folder : Path
        That ``serpipe finetune --network`` saved.
    device : str
        In torch's words.

    Returns
    -------
    Listener

    Raises
    ------
    UserError
        If it is not whole.
    """
    from ..pipeline.finetune.network_model import load_network, network_front_end

    network = load_network(folder)
    content = parse_json(read_bytes(folder / "network.json", MAX_JSON_BYTES))
    about = _about(content.get("serpipe"))
    is_rating = len(network.outputs) == 1
    return _whole_model(
        network,
        network_front_end(),
        tuple(network.outputs),
        is_rating,
        device,
        _model_card(folder, f"{network.name} network, trained from scratch", about, is_rating),
        str(about.get("target", "")),
        read_record(folder / FILE_NAME),
    )


def find_encoder(
    folder: Path, told: BundleSummary, given: str | Path | None, revision: str | None
) -> tuple[str, str | None]:
    """Find the encoder of a bundle by name.

    Parameters
    ----------
    folder : Path
        The bundle.
    told : BundleSummary
        What it says.
    given : str, Path or None
        Where the encoder is, if it is neither built in nor on the hub.
    revision : str or None
        Of that encoder.

    Returns
    -------
    source : str
        Built-in name, local folder or hub id.
    revision : str or None
        Of a hub id.

    Raises
    ------
    UserError
        If it is of a local folder that is not given.
    """
    name, recorded = str(told.encoder.get("encoder")), str(told.encoder.get("revision"))
    is_hub = recorded not in ("local", "built-in") and HUB_ID.fullmatch(name)
    if given is not None:
        return str(given), revision
    if (recorded == "built-in" and name in BUILT_IN) or (is_hub and not Path(name).exists()):
        # What a bundle says is a name, never a path: it may come from anybody.
        return name, recorded if is_hub else None
    raise UserError(
        f"{folder}: was fitted on the encoder {name!r} of a local folder; expected to be told "
        "where that is; name it with --encoder DIR"
    )


def _load_its_encoder(
    folder: Path,
    told: BundleSummary,
    device: str,
    given: str | Path | None,
    revision: str | None,
) -> tuple[Encoder, list[str]]:
    """Load the encoder of a bundle by name, and refuse another one."""
    key, name = told.encoder, str(told.encoder.get("encoder"))
    source, revision = find_encoder(folder, told, given, revision)
    poolings, precision = told.pooling.split(","), key.get("precision", "float32")
    if not set(poolings) <= set(POOLINGS) or precision not in PRECISIONS:
        raise UserError(
            f"{folder / 'bundle.json'}: pooling {told.pooling!r} in {precision!r}; expected what "
            "this serpipe knows; use the version of serpipe that made it"
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
        here = getattr(encoder.identity, field)
        if key.get(field) != (list(here) if isinstance(here, tuple) else here):
            raise UserError(
                f"{source}: is not the encoder {name} that {folder} was fitted on ({field} "
                "differs); expected the very same weights; name their folder with --encoder DIR"
            )
    if key.get("config_sha256") == encoder.identity.config_sha256:
        return encoder, []
    return encoder, [
        f"CONFIGURATION: that of {source} differs from what the head was fitted with, in itself or "
        "by another version of transformers: scores may differ"
    ]


def _bundle_training(bundle: Bundle, encoder: Encoder) -> TrainingRecord | None:
    """Return what head and encoder were trained on."""
    # An older bundle names its data, and lists no clip of them.
    corpora = frozenset({bundle.summary.corpus})
    of_head = bundle.training or TrainingRecord(corpora=corpora, unlisted=corpora)
    return unite([of_head, encoder.training])


def _bundle_scorer(bundle: Bundle, encoder: Encoder) -> Scorer:
    told, key = bundle.summary, bundle.summary.encoder
    rate, places = encoder.identity.sampling_rate, list(key["layers"])
    stored = np.float16 if key.get("dtype") == "float16" else np.float32
    # By its own name: one with labels says which it chose, which is not always the likeliest.
    is_rating = not told.labels

    def classify(pooled: Mapping[str, NDArray[np.float32]], column: int) -> Scored:
        layers = {}
        for layer in bundle.candidate.layers:
            parts = [pooled[p][places.index(layer), [column]] for p in told.pooling.split(",")]
            layers[layer] = np.concatenate(parts, axis=1).astype(stored).astype(np.float32)
        if not all(np.isfinite(layer).all() for layer in layers.values()):
            return "", np.full(len(told.labels) or 1, math.nan)
        predicted, probabilities = bundle.predict(layers)
        if is_rating:
            return "", np.asarray(predicted[:1], np.float64)
        return str(predicted[0]), probabilities[0]

    def on_cpu(waveforms: Sequence[Waveform]) -> list[Scored]:
        # As in extraction: each clip alone, by one thread, so that the bits are those of a cache.
        def one(waveform: Waveform) -> Scored:
            torch.set_num_threads(1)
            return classify(encoder.embed([waveform]), 0)

        threads = torch.get_num_threads()
        workers = max(1, min(len(waveforms), cores()))
        try:
            if workers == 1:
                return [one(waveform) for waveform in waveforms]
            return list(in_order(one, waveforms, workers, ahead=workers))
        finally:
            torch.set_num_threads(threads)

    lane = Lane(encoder)

    def on_gpu(waveforms: Sequence[Waveform]) -> list[Scored]:
        scored: list[Scored] = []
        room = int(GPU_BATCH_SECONDS * rate)
        while len(scored) < len(waveforms):
            left = waveforms[len(scored) :]
            longest = np.maximum.accumulate([len(waveform) for waveform in left])
            fits = int(np.sum(longest * np.arange(1, len(left) + 1) <= room))
            batch = list(left[: max(1, fits)])
            pooled = lane.embed(batch)
            scored += [classify(pooled, column) for column in range(len(batch))]
        return scored

    return on_cpu if encoder.device.type == "cpu" else on_gpu


def _whole_model(
    module: nn.Module,
    front_end: FrontEnd,
    names: Sequence[str],
    is_rating: bool,
    device: str,
    card: Mapping[str, Any],
    target: str,
    training: TrainingRecord | None,
) -> Listener:
    module.to(device).eval()
    outputs = tuple(dict.fromkeys(names))  # several may have one name: they are added up
    places = np.array([outputs.index(name) for name in names])
    size = 1 if torch.device(device).type == "cpu" else _BATCH_SIZE

    def read(logits: NDArray[np.float64]) -> Scored:
        if is_rating:
            return "", logits[0]
        shares = label_shares(logits, places, len(outputs))[0]
        return outputs[int(np.argmax(shares))], shares

    def score(waveforms: Sequence[Waveform]) -> list[Scored]:
        scored: list[Scored] = []
        for start in range(0, len(waveforms), size):
            batch = [prepare(front_end, each) for each in waveforms[start : start + size]]
            inputs = {name: each.to(device) for name, each in front_end.inputs(batch).items()}
            with torch.inference_mode():
                logits = module(**inputs)["logits"].float().cpu().numpy().astype(np.float64)
            scored += [read(logits[[row]]) for row in range(len(batch))]
        return scored

    return Listener(
        outputs, is_rating, target, front_end, front_end.maximum_samples, CHANNEL_POLICY, None,
        card, score, training, lanes=int(torch.device(device).type == "cpu"),
    )  # fmt: skip


def _bundle_card(told: BundleSummary, warnings: Sequence[str]) -> dict[str, Any]:
    layer = told.layer.get("name")
    return {
        "kind": "bundle",
        "what": f"{told.head} on layer {layer} of {told.encoder.get('encoder')}",
        "corpus": told.corpus,
        "score": _bundle_score(told),
        "probabilities": told.probabilities if told.labels else "",
        "result": dict(told.result),
        "warnings": [*map(str, told.warnings), *warnings],
        "licence": told.licence,
        "citation": told.citation,
    }


def _bundle_score(told: BundleSummary) -> str:
    measure = MEASURES["classification" if told.labels else "regression"]
    try:
        numbers = {
            part: math.nan if value is None else float(value)
            for part, value in told.result[measure.key].items()
        }
        said = interval_text(Interval(**numbers), measure)
        unit = " %" if measure.in_percent else ""
        return (
            f"{measure.title} {said}{unit}, {told.result['split']}, "
            f"{counted(told.result['clips'], 'clip')} of "
            f"{counted(told.result['speakers'], 'speaker')}"
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return "not known"


def _model_card(
    folder: Path, what: str, about: Mapping[str, Any], is_rating: bool
) -> dict[str, Any]:
    """Tell of a trained model what it says of itself, and how its run scored if that is here."""
    score = "not known: `serpipe evaluate` scores it on a corpus"
    warnings = about.get("warnings")
    corpora = about.get("corpora")
    provenance: Mapping[str, Any] = {}
    run = folder.resolve().parent
    if folder.is_dir() and folder.resolve().name == "model" and (run / "run.json").is_file():
        try:
            results = read_results(run)
            head, measure = results.heads[0], results.measure
            said = interval_text(results.scores(head)[measure.key], measure)
            unit = " %" if measure.in_percent else ""
            score = (
                f"{measure.title} {said}{unit}, {results.summary.split_title}, "
                f"{counted(results.summary.clips, 'clip')} of "
                f"{counted(len(results.summary.speakers), 'speaker')}"
            )
            provenance = _about(results.summary.provenance.get("cache"))
        except (UserError, IndexError, KeyError):
            pass  # the model predicts without the run that it comes from
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


def _about(told: Any) -> Mapping[str, Any]:
    return told if isinstance(told, Mapping) else {}
