"""Any saved model, ready for inference: a bundle, a model of transformers, or a small network."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import BadClipError, MachineError, UserError
from ...features.audio import (
    MAX_SECONDS,
    RATES,
    SILENCE_PEAK,
    Waveform,
    as_clip,
    check_length,
    check_sound,
    decode_waveform,
    hash_samples,
    read_clip,
)
from ...features.checkpoint_limits import CONFIGS
from ...features.in_order import in_order
from ...features.read_ahead import Content, read_ahead
from ...features.trim import trim
from ...progress import Track, no_track
from ...remote import Location, Remote, as_location
from .enrolment import SpeakerProfile
from .find import DEFAULT_BUNDLE as DEFAULT_BUNDLE
from .find import get_model_files
from .prediction import Prediction, Window
from .predictors import (
    ClipScores,
    Embeddings,
    Predictor,
    SpeakerAdapter,
    bundle_predictor,
    classifier_predictor,
    network_predictor,
)
from .windows import equal_windows, windows

_T = TypeVar("_T")

#: Windows that are scored between two updates of the progress.
_TRACKED_WINDOWS = 64
#: Limits of a group of files that are predicted together.
_GROUP_FILES, _GROUP_SECONDS = 32, 600.0

#: A file's name; its waveform and the hash of its audio, or the error.
_DecodedFile = tuple[str, tuple[Waveform, str] | BadClipError]


@dataclass(frozen=True)
class Recording:
    """A recording that was checked and cut into windows by :meth:`Model.cut`."""

    source: str  #: Its name.
    waveform: Waveform  #: Shape (n_samples,), mono, at the model's rate.
    #: First sample of each window, and the one after its last.
    windows: tuple[tuple[int, int], ...]
    is_cut: bool  #: Whether the prediction has a timeline.
    audio_sha256: str  #: Hash of the samples as they were decoded; empty if unknown.

    def piece(self, number: int) -> Waveform:
        """Return the samples of a window, without copying them."""
        start, end = self.windows[number]
        return self.waveform[start:end]


@dataclass(frozen=True)
class Model:
    """A saved model, loaded by :func:`load_model`. Several threads may call it."""

    name: str  #: What was loaded.
    labels: tuple[str, ...]  #: Empty for ratings.
    target: str  #: What it predicts, such as emotion; empty if unknown.
    sampling_rate: int  #: Of its input, in Hz.
    #: ``name``, ``kind``, ``what``, ``corpus``, ``score`` (with the protocol), ``probabilities``
    #: (whether they are calibrated; empty for ratings), ``warnings``, ``licence``, ``citation`` and
    #: ``normalises`` (whether each clip is scaled to zero mean and unit variance): JSON values. Of
    #: a model of the hub also ``revision``, its commit.
    card: Mapping[str, Any]
    predictor: Predictor = field(repr=False)  #: Scores windows.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def predict(
        self,
        audio: Location | str | NDArray[Any],
        rate: int | None = None,
        *,
        window: float | None = None,
        hop: float | None = None,
    ) -> Prediction:
        """Predict one recording.

        Parameters
        ----------
        audio : Path, Remote, str or ndarray of float, shape (n_samples,) or (n_samples, n_channels)
            A file or address; or samples of full scale 1.
        rate : int, optional
            Sampling rate of samples, in Hz.
        window, hop : float, optional
            See :meth:`predict_batch`.

        Returns
        -------
        Prediction

        Raises
        ------
        BadClipError
            If the recording cannot be used.
        UserError
            If the arguments do not fit.
        MachineError
            If the recording does not fit in memory.
        """
        if isinstance(audio, (str, Path, Remote)):
            file = as_location(audio)
            if rate is not None:
                raise UserError(f"{file}: a file has its own sampling rate; do not pass rate")
            source = printable_path(file)
            waveform, audio_sha256 = self.decode(read_clip(file), file)
        else:
            source = "array"
            waveform, audio_sha256 = self._from_samples(audio, rate)
        (prediction,) = self.predict_batch(
            [waveform], [source], audio_sha256=[audio_sha256], window=window, hop=hop
        )
        if isinstance(prediction, BadClipError):
            raise prediction
        return prediction

    def predict_batch(
        self,
        waveforms: Sequence[Waveform],
        sources: Sequence[str],
        *,
        audio_sha256: Sequence[str] | None = None,
        window: float | None = None,
        hop: float | None = None,
        track: Track[Any] = no_track,
    ) -> list[Prediction | BadClipError]:
        """Predict several recordings; the prediction of one does not depend on the others.

        Parameters
        ----------
        waveforms : sequence of ndarray of float32, shape (n_samples,)
            Mono, at ``sampling_rate``.
        sources : sequence of str
            Their names.
        audio_sha256 : sequence of str, optional
            Hashes of the decoded samples, as in ``AudioFacts``. Without them ``trained_on`` is
            unknown: a waveform may have been resampled.
        window, hop : float, optional
            Cut recordings into windows of this length and hop, in seconds (by default the hop is
            the window), each scored as if it were a clip; the scores of the recording are the mean
            of those of its windows. Without them a recording is scored as a whole, unless it is
            longer than the model accepts: then it is cut into as few equal windows as possible.
            Silent windows have no label and do not count.
        track : callable
            Shows progress over the windows.

        Returns
        -------
        list of Prediction or BadClipError
            In the order given; the error of a recording that cannot be used.

        Raises
        ------
        UserError
            If windows are longer or shorter than the model accepts, or leave gaps.
        MachineError
            If a recording does not fit in memory.
        """
        self.check_windows(window, hop)
        hashes = [""] * len(sources) if audio_sha256 is None else audio_sha256
        cut = [
            or_error(partial(self.cut, waveform, source, hash_, window, hop))
            for waveform, source, hash_ in zip(waveforms, sources, hashes, strict=True)
        ]
        recordings = [each for each in cut if isinstance(each, Recording)]
        pieces = [each.piece(number) for each in recordings for number in range(len(each.windows))]
        size = max(1, len(pieces)) if track is no_track else _TRACKED_WINDOWS
        groups = (pieces[start : start + size] for start in range(0, len(pieces), size))
        each_window = (score for group in groups for score in self.score(group))
        scored = iter(list(track(each_window, "scoring windows", len(pieces))))
        return [
            each
            if isinstance(each, BadClipError)
            else or_error(partial(self.combine, each, list(islice(scored, len(each.windows)))))
            for each in cut
        ]

    def enrol(self, clips: Iterable[Location | str | Waveform]) -> SpeakerProfile:
        """Learn the profile of a speaker from clips whose labels are not known.

        Parameters
        ----------
        clips : iterable of Path, Remote, str or ndarray of float32, shape (n_samples,)
            Files; or waveforms as :meth:`predict_batch` takes them. All must be of one speaker, and
            recorded like those to be predicted. Each window of a clip that is longer than the model
            accepts counts as a clip; silent clips do not count.

        Returns
        -------
        SpeakerProfile
            For :meth:`adapted`.

        Raises
        ------
        BadClipError
            If a clip cannot be used, or all are silent.
        UserError
            If the model cannot be adapted to speakers.
        """
        embedder = self.embedder()
        embedded: list[Embeddings] = []
        for number, clip in enumerate(clips, 1):
            file = as_location(clip) if isinstance(clip, (str, Path, Remote)) else None
            source = f"clip {number}" if file is None else printable_path(file)
            recording = self.cut(self.read(file) if file else np.asarray(clip), source)
            pieces = [recording.piece(number) for number in range(len(recording.windows))]
            embedded += embedder.combine(recording, embedder.score(pieces))
        return self.profile(embedded)

    def embedder(self) -> "WindowEmbedder":
        """Return what embeds windows of enrolled clips; raise UserError as :meth:`enrol` does."""
        read: Any = self.check_adapts().embed  # gives embeddings where others give scores
        return WindowEmbedder(replace(self, predictor=replace(self.predictor, score=read)))

    def profile(self, embedded: Sequence[Embeddings]) -> SpeakerProfile:
        """Return the profile of a speaker from the embeddings of all windows of enrolled clips."""
        if not embedded:
            raise BadClipError("the enrolled clips", "are missing", "at least one", "add clips")
        layers = embedded[0].keys()
        return self.check_adapts().profile(
            {layer: np.concatenate([each[layer] for each in embedded]) for layer in layers}
        )

    def check_adapts(self) -> SpeakerAdapter:
        """Return how the model is adapted to speakers; raise UserError if it cannot be."""
        if self.predictor.adapter is None:
            raise UserError(
                f"{self.name}: cannot be adapted to a speaker, as it has no enrolment; name a "
                "bundle from `serpipe fit --enrol 0,4,16` of a head for which enrolment pays"
            )
        return self.predictor.adapter

    def adapted(self, profile: SpeakerProfile) -> "Model":
        """Return this model for the speaker of a profile that :meth:`enrol` returned."""
        score = self.check_adapts().scorer(profile)
        return replace(self, predictor=replace(self.predictor, score=score))

    def cut(
        self,
        waveform: Waveform,
        source: str,
        audio_sha256: str = "",
        window: float | None = None,
        hop: float | None = None,
    ) -> Recording:
        """Check a recording and cut it into windows: the first of three steps of a prediction.

        The parameters are those of :meth:`predict_batch`, for one recording. Raise BadClipError if
        it cannot be used.
        """
        if waveform.ndim != 1 or waveform.dtype != np.float32 or not len(waveform):
            raise BadClipError(
                source,
                f"is of {waveform.dtype} in shape {waveform.shape}",
                "float32 samples of one channel",
                "convert it",
            )
        check_sound(source, waveform)
        n, rate = len(waveform), self.sampling_rate
        decibels, longest = self.predictor.trim_decibels, self.predictor.maximum_samples
        n_trimmed = n if decibels is None else len(trim(waveform, decibels))
        check_length(Path(source), n_trimmed, rate, self.predictor.front_end.minimum_samples, None)
        if window is not None:
            spans = windows(n, rate, window, window if hop is None else hop)
        elif longest is None or n_trimmed <= longest:
            spans = [(0, n)]
        else:
            spans = equal_windows(n, longest)
        is_cut = window is not None or len(spans) > 1
        return Recording(source, waveform, tuple(spans), is_cut, audio_sha256)

    def score(self, pieces: Sequence[Waveform]) -> list[ClipScores | None]:
        """Score windows, of one recording or several: the second step.

        The windows are from :meth:`Recording.piece`; silence has no scores. The scores of one do
        not depend on the others; on a CPU to the last bit. Raise MachineError if they do not fit in
        memory.
        """
        trimmed = [self._trim(piece) for piece in pieces]
        audible = [piece for piece in trimmed if piece is not None]
        try:
            with self._lock if self.predictor.lanes < 2 else contextlib.nullcontext():
                scored = iter(self.predictor.score(audible) if audible else [])
        except (MemoryError, RuntimeError) as error:
            is_typed = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if not is_typed and "allocate memory" not in str(error):  # torch's words on a CPU
                raise
            raise MachineError(
                "out of memory on a single recording; cut it into windows: --window 10"
            ) from None
        return [None if piece is None else next(scored) for piece in trimmed]

    def combine(self, recording: Recording, scored: Sequence[ClipScores | None]) -> Prediction:
        """Combine the scores of all windows of a recording, in their order: the last step.

        Raise BadClipError if all windows are silent, or a score is not finite.
        """
        rate = self.sampling_rate
        self.check_scores(recording.source, scored)
        timeline = tuple(
            Window(start / rate, end / rate, *self.label_and_scores(each))
            for (start, end), each in zip(recording.windows, scored, strict=True)
        )
        return Prediction(
            recording.source,
            len(recording.waveform) / rate,
            timeline=timeline if recording.is_cut else (),
            **self.whole(self.mean(scored), recording.audio_sha256),
        )

    def check_scores(self, source: str, scored: Sequence[ClipScores | None]) -> None:
        """Raise BadClipError if all windows of a recording are silent, or a score is not finite."""
        audible = [each for each in scored if each is not None]
        if not audible:
            raise BadClipError(
                source, "has no window with anything to hear", "speech", "take a longer --window"
            )
        if any(not np.isfinite(each.scores).all() for each in audible):
            raise BadClipError(
                source,
                "gets scores that are not finite numbers",
                "numbers",
                "remove it, or choose another --model",
            )

    def mean(
        self, scored: Sequence[ClipScores | None], weights: Sequence[float] | None = None
    ) -> ClipScores | None:
        """Return the mean of scores, with or without weights; None if all are of silence."""
        audible = [number for number, each in enumerate(scored) if each is not None]
        several = [each for each in scored if each is not None]
        if len(several) < 2:
            return several[0] if several else None
        kept = None if weights is None else [weights[number] for number in audible]
        scores = np.average([each.scores for each in several], axis=0, weights=kept)
        distance = float(np.average([each.distance for each in several], weights=kept))
        return ClipScores(
            self.labels[int(np.argmax(scores))] if self.labels else "", scores, distance
        )

    def label_and_scores(self, scored: ClipScores | None) -> tuple[str, dict[str, float]]:
        """Return a label and the scores by name; both are empty for silence."""
        return (scored.label, self._named(scored.scores)) if scored else ("", {})

    def whole(self, scored: ClipScores | None, audio_sha256: str) -> dict[str, Any]:
        """Return the fields of a prediction that are about the whole recording."""
        label, scores = self.label_and_scores(scored)
        training = self.predictor.training
        distance = math.nan if scored is None else scored.distance
        return {
            "label": label,
            "scores": scores,
            "trained_on": training.contains_clip(audio_sha256) if training else None,
            "unlike_training": None if math.isnan(distance) else distance > 1,
            "distance": None if math.isnan(distance) else distance,
        }

    def read(self, file: Location) -> Waveform:
        """Read a file, of any format that corpora may have, as :meth:`predict_batch` takes it.

        Raise BadClipError if it cannot be used.
        """
        return self.decode(read_clip(file), file)[0]

    def decode(self, content: bytes, file: Location) -> tuple[Waveform, str]:
        """Decode the content of a file, whose name is for messages.

        Return the waveform and the hash of the decoded samples before resampling. Raise
        BadClipError if it cannot be used.
        """
        rate, channels = self.sampling_rate, self.predictor.channels
        waveform, facts = decode_waveform(content, rate, channels, file=file)
        return waveform, facts.audio_sha256

    def check_windows(self, window: float | None, hop: float | None) -> None:
        """Refuse windows that cannot be cut or scored, before any work.

        Raise UserError if they are longer or shorter than the model accepts, leave gaps, or are too
        many.
        """
        if window is None:
            if hop is not None:
                raise UserError(f"--hop {hop:g}: needs --window; give both or none")
            return
        windows(1, self.sampling_rate, window, window if hop is None else hop)
        self.check_takes(f"--window {window:g}", round(window * self.sampling_rate))

    def check_takes(self, option: str, n_samples: float) -> None:
        """Refuse an option by which recordings are cut into parts that the model does not accept.

        Raise UserError if parts of ``n_samples`` are longer or shorter than the model accepts.
        """
        longest = self.predictor.maximum_samples
        shortest = self.predictor.front_end.minimum_samples
        if n_samples < shortest or (longest is not None and n_samples > longest):
            most = f" to {longest / self.sampling_rate:g}" if longest else ""
            raise UserError(
                f"{option}: {self.name} takes clips of at least "
                f"{shortest / self.sampling_rate:g}{most} s; choose a length in that range"
            )

    def _from_samples(self, samples: NDArray[Any], rate: int | None) -> tuple[Waveform, str]:
        given = np.asarray(samples)
        if rate is None or not RATES[0] <= rate <= RATES[1]:
            raise UserError(
                f"rate {rate}: pass the sampling rate of the samples, {RATES[0]} to {RATES[1]} Hz"
            )
        if given.dtype.kind != "f" or given.ndim not in (1, 2) or not given.size:
            raise UserError(
                f"array of {given.dtype}, shape {given.shape}: pass floats of full scale 1, shape "
                "(n_samples,) or (n_samples, n_channels)"
            )
        if len(given) > MAX_SECONDS * rate:
            raise BadClipError(
                "array",
                f"lasts {len(given) / rate:.0f} s",
                f"at most {MAX_SECONDS:.0f} s",
                "split it into utterances",
            )
        columns = given.astype(np.float32).reshape(len(given), -1)
        waveform = as_clip("array", columns, rate, self.sampling_rate, self.predictor.channels)
        return waveform, hash_samples(columns, rate)

    def _trim(self, piece: Waveform) -> Waveform | None:
        """Return what is scored of a window: None for silence."""
        if np.abs(piece).max() < SILENCE_PEAK:
            return None
        decibels = self.predictor.trim_decibels
        trimmed = piece if decibels is None else trim(piece, decibels)
        return trimmed if len(trimmed) >= self.predictor.front_end.minimum_samples else None

    def _named(self, scores: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.predictor.outputs, map(float, scores), strict=True))


@dataclass(frozen=True)
class WindowEmbedder:
    """Embeds enrolled clips in the steps in which a model predicts: see :meth:`Model.embedder`."""

    _model: Model

    def score(self, pieces: Sequence[Waveform]) -> list[Any]:
        """Embed windows as :meth:`Model.score` scores them; None for silence."""
        return list(self._model.score(pieces))

    def combine(self, recording: Recording, scored: Sequence[Any]) -> list[Embeddings]:
        """Return the embeddings of the windows of a recording that are not silent.

        Raise BadClipError if one is not finite.
        """
        embedded: list[Embeddings] = [each for each in scored if each is not None]
        if not all(np.isfinite(layer).all() for each in embedded for layer in each.values()):
            raise BadClipError(
                recording.source, "gets embeddings that are not finite", "numbers", "remove it"
            )
        return embedded


def load_model(
    name: str | Location | None = None,
    *,
    device: str = "cpu",
    encoder: str | Path | None = None,
    revision: str | None = None,
) -> Model:
    """Load a saved model, without running code from it.

    Parameters
    ----------
    name : str, Path or Remote, optional
        A bundle (``RUN/bundles/HEAD``), a run (its first bundle by name, or its ``model``), a
        folder or hub id of a trained audio classifier, a folder of a network, or the hub id of
        what ``serpipe push`` has published. By default the first bundle of the newest run in
        ``artifacts/runs`` that has any, else the one that ships with serpipe. A model in a store
        is fetched first.
    device : str
        Torch device.
    encoder : str or Path, optional
        For a bundle whose encoder was in a local folder: that folder. A built-in encoder, or one of
        the hub, is found by its name.
    revision : str, optional
        Branch, tag or commit of a hub id: of ``name``, or of the encoder of a local bundle.

    Returns
    -------
    Model

    Raises
    ------
    UserError
        If there is no such model, it is incomplete, or its encoder is another than it was fitted
        on.
    MachineError
        If the hub cannot be reached.
    """
    files = get_model_files(name, revision)
    folder = files.folder
    if encoder is not None and not files.is_bundle:
        raise UserError(f"--encoder {encoder}: is only for bundles, and {folder} is none; omit it")
    if files.is_bundle:
        # Of a bundle of the hub, the revision is that of the bundle, which names its encoder's.
        of_encoder = None if files.commit else revision
        predictor = bundle_predictor(folder, device, encoder, of_encoder)
    elif files.is_network:
        predictor = network_predictor(folder, device)
    elif not any((folder / each).is_file() for each in CONFIGS):
        raise UserError(
            f"{folder}: holds no model; name RUN, RUN/bundles/HEAD, or a saved model with --model"
        )
    else:
        source = files.title if files.commit else str(folder)
        predictor = classifier_predictor(source, device, files.commit or revision)
    if not all(each.isprintable() for each in (*predictor.outputs, predictor.target)):
        raise UserError(
            f"{folder}: its labels contain characters that cannot be printed; rename them"
        )
    title = "the built-in head" if folder == DEFAULT_BUNDLE else printable_path(files.title)
    card = {"name": title, **predictor.card, "normalises": predictor.front_end.normalise}
    if files.commit:
        card["revision"] = files.commit
    return Model(
        name=title,
        labels=() if predictor.is_rating else predictor.outputs,
        target=predictor.target,
        sampling_rate=predictor.front_end.sampling_rate,
        card=card,
        predictor=predictor,
    )


def predict_files(
    model: Model,
    files: Iterable[Location],
    total: int,
    *,
    window: float | None = None,
    hop: float | None = None,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> Iterator[Prediction | BadClipError]:
    """Predict files, a group at a time, with ``workers`` decoding threads, in their order.

    The other parameters and the errors are those of :meth:`Model.predict_batch`; ``track`` shows
    progress over the ``total`` files, or over the windows of a single file.
    """

    def read(item: tuple[Location, Content]) -> _DecodedFile:
        file, content = item
        return printable_path(file), or_error(lambda: model.decode(content(), file))

    track_windows = track if total == 1 else no_track

    def predict_all() -> Iterator[Prediction | BadClipError]:
        group: list[_DecodedFile] = []
        seconds = 0.0
        items = read_ahead(files, lambda file: file)
        for source, decoded in in_order(read, items, workers, ahead=workers):
            group.append((source, decoded))
            if not isinstance(decoded, BadClipError):
                seconds += len(decoded[0]) / model.sampling_rate
            if len(group) >= _GROUP_FILES or seconds >= _GROUP_SECONDS:
                yield from _predict_group(model, group, window, hop, track_windows)
                group, seconds = [], 0.0
        yield from _predict_group(model, group, window, hop, track_windows)

    if total == 1:
        yield from predict_all()
    else:
        yield from track(predict_all(), "predicting recordings", total)


def _predict_group(
    model: Model,
    group: Sequence[_DecodedFile],
    window: float | None,
    hop: float | None,
    track: Track[Any],
) -> Iterator[Prediction | BadClipError]:
    good = [(source, each) for source, each in group if not isinstance(each, BadClipError)]

    def predict(
        files: Sequence[tuple[str, tuple[Waveform, str]]],
    ) -> list[Prediction | BadClipError]:
        return model.predict_batch(
            [waveform for _, (waveform, _) in files],
            [source for source, _ in files],
            audio_sha256=[hash_ for _, (_, hash_) in files],
            window=window,
            hop=hop,
            track=track,
        )

    def one_by_one() -> Iterator[Prediction | BadClipError]:
        for each in good:
            yield from predict([each])

    try:
        predictions = iter(predict(good))
    except MachineError:  # keep the predictions before the file that is too long
        predictions = one_by_one()
    for _, each in group:
        yield each if isinstance(each, BadClipError) else next(predictions)


def or_error(function: Callable[[], _T]) -> _T | BadClipError:
    """Call a function, and return the error of a clip that cannot be used."""
    try:
        return function()
    except BadClipError as error:
        return error


def printable_path(path: Location | str) -> str:
    """Return a path as text that can be encoded: on POSIX systems it may be any bytes."""
    return str(path).encode(errors="backslashreplace").decode()
