"""A bundle: a fitted head in a folder, with everything that inference needs.

======================== ======================================================================
``bundle.json``          encoder and its hashes, pooling, layers and their weights, target,
                         labels, head and hyper-parameters, scores, versions; and the
                         SHA-256 hashes of the files below and of its own text
``head.skops``           the classifier with its scaler, by skops; or
``head.lgbm.json``       the trees, in LightGBM's own text format; or
``head.zip``             the members of a fusion and their weights
``training_record.json`` hashes of the clips and speakers that the head was fitted on
``enrolled_head.skops``  if enrolment was measured: the head that is adapted to speakers (with
                         the suffix of the head above), and
``enrolment.npy``        what it needs for that, see :mod:`serpipe.artifacts.models.enrolment`
``novelty.skops``        mean and main directions of the training embeddings, to recognise
                         recordings that are unlike them
======================== ======================================================================

Loading runs no code from the folder, and no entry of ``bundle.json`` is used as a path. Hashes
detect damage and edits; they are not a signature: whoever changes a bundle on purpose can change
its hashes as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError, counted, first_line
from ...features.training_record import FILE_NAME, TrainingRecord, read_record, write_record
from ...integrity import check_files, check_listed, hash_files, read_record_json, write_sealed_json
from ...pipeline.calibration import TEMPERATURE_SCALED, apply_temperature
from ...pipeline.heads import FUSE, HEADS, Head, saved_head
from ...pipeline.layers import Candidate, weigh
from ...pipeline.measures import MEASURES, Measure
from ...pipeline.novelty import NoveltyDetector
from ...pipeline.statistics import Interval
from ...schema import from_json
from ..run.encoder_key import encoder_parts, poolings_of, read_encoder_key
from .enrolment import (
    BundleEnrolment,
    SpeakerProfile,
    enrolment_files,
    load_enrolment,
    save_enrolment,
)

#: The file of the :class:`~serpipe.pipeline.novelty.NoveltyDetector`.
NOVELTY_FILE = "novelty.skops"
FORMAT_VERSION = 2
#: The format before files were hashed: still read; only its head has a hash.
_UNHASHED_VERSION = 1
#: Files that a bundle may lack.
_OPTIONAL = (FILE_NAME, NOVELTY_FILE)
_REMEDY = "name a folder RUN/bundles/HEAD that `serpipe fit` made"


@dataclass(frozen=True)
class BundleSummary:
    """The content of ``bundle.json``."""

    head: str
    parameters: Mapping[str, int | float]  #: Hyper-parameters of the head.
    #: The key of the cache: checkpoint, revision and hash of the weights, and everything else that
    #: embeddings depend on.
    encoder: Mapping[str, Any]
    pooling: str  #: Poolings, joined by commas.
    #: ``name``, ``layers`` and ``how``, as in :class:`~serpipe.pipeline.layers.Candidate`.
    layer: Mapping[str, Any]
    layer_weights: Sequence[float]  #: Learnt weights of these layers, if any.
    target: str  #: The predicted column.
    changes: Sequence[str]  #: Labels that were merged or dropped.
    labels: Sequence[str]  #: In the order of the probabilities; empty for ratings.
    #: ``"speaker"``: the embeddings of each speaker must be standardised by themselves.
    normalise: str
    converged: bool  #: Whether the classifier reached its optimum.
    #: Nested UAR, accuracy and macro-F1, with intervals, from 0 to 1: the scores of the protocol
    #: that made this head, on held-out speakers.
    result: Mapping[str, Any]
    warnings: Sequence[str]  #: Marks of these scores.
    corpus: str  #: Of the training clips.
    licence: str  #: Of the training clips.
    citation: str  #: Of the training clips.
    content: str  #: Hash of these clips, their labels and the cache's key.
    head_sha256: str  #: Hash of the file of the classifier.
    provenance: Mapping[str, Any]  #: Command, versions, machine.
    #: Whether and how they are calibrated; empty for ratings. By default from the head.
    probabilities: str = ""
    #: SHA-256 hashes of the bundle's other files, by name. None in bundles of earlier versions.
    files: Mapping[str, str] | None = None
    #: Fields of :class:`~serpipe.artifacts.models.enrolment.EnrolmentSummary`; None if the bundle
    #: is not adapted to speakers.
    enrolment: Mapping[str, Any] | None = None
    #: The temperature of the probabilities. None: those of the head itself.
    temperature: float | None = None
    #: What the head was trained on besides clips with one label each, in words; empty if nothing.
    trained_on: str = ""

    @property
    def measure(self) -> Measure:
        """The measure of its scores."""
        return MEASURES["classification" if self.labels else "regression"]

    def interval(self, key: str) -> Interval:
        """Return a score in ``result`` with its interval, NaN where there is none.

        Raise KeyError, TypeError, ValueError or AttributeError if ``result`` has no such score.
        """
        ends = self.result[key].items()
        return Interval(**{end: math.nan if value is None else float(value) for end, value in ends})


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle."""

    summary: BundleSummary  #: Its ``bundle.json``.
    fitted: Head
    #: The training clips of the head; None if the bundle is older than such records.
    training: TrainingRecord | None = None
    enrolment: BundleEnrolment | None = None  #: Adapts it to speakers, if it can be.
    #: Recognises recordings unlike the training clips; None in bundles of earlier versions.
    novelty: NoveltyDetector | None = None

    @property
    def candidate(self) -> Candidate:
        """The layers that it uses."""
        return Candidate.of(self.summary.layer)

    def layers(self, profile: SpeakerProfile | None = None) -> tuple[str, ...]:
        """Return the layers whose embeddings :meth:`predict` and :meth:`distances` need."""
        if self.enrolment and profile and profile.is_adapted:
            of_distances = self.candidate.layers if self.novelty else ()
            return tuple(dict.fromkeys((*self.enrolment.candidate.layers, *of_distances)))
        return self.candidate.layers

    def predict(
        self, embeddings: Mapping[str, NDArray[np.float32]], profile: SpeakerProfile | None = None
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Predict clips from their embeddings.

        Parameters
        ----------
        embeddings : mapping of str to ndarray of float32, shape (n_clips, n_features)
            By layer, pooled as the bundle says: at least those of :meth:`layers`.
        profile : SpeakerProfile, optional
            The speaker of the clips, to whom the bundle is adapted.

        Returns
        -------
        predicted : ndarray of str or float64, shape (n_clips,)
            Labels or ratings.
        probabilities : ndarray of float64, shape (n_clips, n_labels)
            In the order of ``summary.labels``.
        """
        X, head = self._join(embeddings, profile), self.fitted
        temperature = self.summary.temperature
        if self.enrolment and profile and profile.is_adapted:
            head = self.enrolment.fitted
            temperature = self.enrolment.summary.temperature(profile.n_clips) or temperature
        predicted = head.predict(X)
        if self.summary.labels and not set(predicted.tolist()) <= set(self.summary.labels):
            raise UserError(
                f"head {self.summary.head}: predicts a label that bundle.json does not have; get "
                "the bundle again, or fit again"
            )
        if temperature is None:
            return predicted, head.predict_proba(X)
        scores = head.decision_scores(X)
        return predicted, apply_temperature(scores, temperature, head.scores_are)

    def distances(self, embeddings: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return how far clips are from the training clips, as they are without any profile.

        Parameters
        ----------
        embeddings : mapping of str to ndarray of float32, shape (n_clips, n_features)
            By layer: at least ``candidate.layers``.

        Returns
        -------
        ndarray of float64, shape (n_clips,)
            Above 1 for clips that are unlike the training clips; NaN if the bundle does not know.
        """
        if not self.novelty:
            return np.full(len(next(iter(embeddings.values()))), np.nan)
        return self.novelty.distances(self._join(embeddings))

    def _join(
        self,
        embeddings: Mapping[str, NDArray[np.float32]],
        profile: SpeakerProfile | None = None,
    ) -> NDArray[np.float32]:
        if self.enrolment and profile and profile.is_adapted:
            return self.enrolment.join(embeddings) - profile.shift
        X = self.candidate.join([embeddings[layer] for layer in self.candidate.layers])
        return weigh(X, np.array(self.summary.layer_weights)) if X.ndim == 3 else X


def save_bundle(
    folder: Path,
    fitted: Head,
    *,
    training: TrainingRecord | None = None,
    enrolment: BundleEnrolment | None = None,
    novelty: NoveltyDetector | None = None,
    temperature: float | None = None,
    **fields: Any,
) -> None:
    """Write a bundle: a fitted head, and what is known of its and the encoder's training clips.

    ``enrolment`` adapts the head to speakers. ``temperature`` calibrates the probabilities of the
    head, unless the head does so itself. ``fields`` are the other fields of :class:`BundleSummary`,
    except ``head_sha256``, ``probabilities`` and ``files``.
    """
    path = _head_path(folder, fields["head"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if training:
        write_record(folder, training)
    fitted.save(path)
    optional = [(FILE_NAME, training), (NOVELTY_FILE, novelty)]
    names = [path.name, *(name for name, content in optional if content)]
    if novelty:
        novelty.save(folder / NOVELTY_FILE)
    if enrolment:
        names += save_enrolment(folder, enrolment)
        fields["enrolment"] = asdict(enrolment.summary)
    files = hash_files(folder, names)
    summary = BundleSummary(
        **fields,
        head_sha256=files[path.name],
        probabilities=fitted.probabilities_are if temperature is None else TEMPERATURE_SCALED,
        files=files,
        temperature=temperature,
    )
    content = {"serpipe_bundle": FORMAT_VERSION, **asdict(summary)}
    if enrolment is None:  # as in bundles of earlier versions
        del content["enrolment"]
    write_sealed_json(folder / "bundle.json", content)


def read_bundle_summary(folder: Path) -> BundleSummary:
    """Read the ``bundle.json`` of a bundle, without its head.

    Raise UserError if it is missing, incomplete, changed, or of another format version.
    """
    path = folder / "bundle.json"
    try:
        content = read_record_json(path, "bundle", FORMAT_VERSION, _UNHASHED_VERSION, _REMEDY)
        summary = from_json(BundleSummary, content)
        candidate, key = from_json(Candidate, summary.layer), read_encoder_key(summary.encoder)
        if not key.width:
            raise ValueError("encoder has no width")
        if key.layers and not set(candidate.layers) <= set(key.layers):
            raise ValueError("its layers are none of the encoder")
        if summary.enrolment is not None:
            layers = from_json(Candidate, summary.enrolment["layer"]).layers
            if key.layers and not set(layers) <= set(key.layers):
                raise ValueError("the layers for enrolment are none of the encoder")
        if len(set(summary.labels)) < len(summary.labels):
            raise ValueError("a label occurs twice")
        if summary.temperature is not None and not 0 < summary.temperature < math.inf:
            raise ValueError("temperature is not a positive number")
        if not summary.probabilities and summary.head in HEADS:
            summary = replace(summary, probabilities=saved_head(summary.head).probabilities_are)
    except FileNotFoundError:
        raise UserError(f"{folder}: not a bundle, it has no bundle.json; {_REMEDY}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a bundle.json ({error}); {_REMEDY}") from error
    bundles = folder.resolve().parent
    if bundles.name == "bundles":
        name = f"bundles/{folder.resolve().name}/bundle.json"
        check_listed(bundles.parent, name, "move it out of the run, or fit again")
    return summary


def file_names(summary: BundleSummary) -> list[str]:
    """Return the names, set by serpipe, of all files of a bundle except ``bundle.json``."""
    names = [_head_path(Path(), summary.head).name]
    names += [name for name in _OPTIONAL if name in _hashes(summary)]
    if summary.enrolment is not None:
        names += enrolment_files(saved_head(summary.head))
    return names


def _hashes(summary: BundleSummary) -> Mapping[str, str]:
    """Return the hashes of a bundle's files; in earlier versions only the head has one."""
    if summary.files is None:
        return {_head_path(Path(), summary.head).name: summary.head_sha256}
    return summary.files


def load_bundle(folder: Path) -> Bundle:
    """Load ``RUN/bundles/HEAD`` from any source, without running code from it.

    Raise UserError if it is incomplete, was changed, or would need code.
    """
    summary = read_bundle_summary(folder)
    if summary.head not in HEADS and summary.head != FUSE:
        raise UserError(
            f"{folder / 'bundle.json'}: its head {summary.head!r} is not one of "
            f"{', '.join(HEADS)}; use the version of serpipe that made it, or install the package "
            "that registers this head"
        )
    head_file = _head_path(folder, summary.head)
    remedy = "get the bundle again, or fit again"
    files = _hashes(summary)
    head = saved_head(summary.head)
    check_files(folder, {name: files.get(name, "") for name in file_names(summary)}, remedy)
    for name in _OPTIONAL:
        if name not in files and summary.files is not None and (folder / name).exists():
            raise UserError(f"{folder / name}: is not part of this bundle; {remedy}")
    training = read_record(folder / FILE_NAME)
    novelty = NoveltyDetector.load(folder / NOVELTY_FILE) if NOVELTY_FILE in files else None
    bundle = Bundle(summary, head.load(head_file), training, novelty=novelty)
    try:
        if summary.enrolment is not None:
            enrolment = load_enrolment(folder, head, summary.enrolment)
            bundle = replace(bundle, enrolment=enrolment)
        zeros = {
            layer: np.zeros(
                (1, int(key["width"]) * len(poolings_of(key, summary.pooling))), np.float32
            )
            for key, names in encoder_parts(summary.encoder)
            for layer in names or bundle.candidate.layers
        }
        profiles: list[SpeakerProfile | None] = [None]
        if bundle.enrolment:
            layers = bundle.enrolment.candidate.layers
            clip = {layer: zeros[layer] for layer in layers}
            profiles.append(replace(bundle.enrolment.profile(clip), is_adapted=True))
        for profile in profiles:
            layers = bundle.layers(profile)
            embeddings = {layer: zeros[layer] for layer in layers}
            _, probabilities = bundle.predict(embeddings, profile)
            if bundle.novelty:
                bundle.distances(embeddings)
            if probabilities.shape != (1, len(summary.labels)):
                raise ValueError(
                    f"{probabilities.shape[1]} probabilities, "
                    f"{counted(len(summary.labels), 'label')}"
                )
    except UserError:  # of a damaged file
        raise
    except Exception as error:  # whatever an object that is not a classifier raises
        raise UserError(
            f"{head_file}: does not predict as a {summary.head} that fits bundle.json "
            f"({first_line(error)}); {_REMEDY}"
        ) from None
    return bundle


def _head_path(folder: Path, head: str) -> Path:
    return folder / f"head{saved_head(head).suffix}"
