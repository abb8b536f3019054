"""Any saved model, ready to predict: a bundle, a model of transformers, or a small network."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BadClipError, MachineError, UserError
from ..features.audio import (
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
from ..features.in_order import in_order
from ..features.read_ahead import Content, read_ahead
from ..features.trim import trim
from ..pipeline.predict import Prediction, Window, equal_windows, windows
from ..progress import Track, no_track
from ..remote import Place, Remote, place
from .latest import DEFAULT_BUNDLE as DEFAULT_BUNDLE
from .latest import find_model
from .listeners import Listener, Scored, open_bundle, open_classifier, open_network

#: Windows that are scored between two signs of progress.
_TRACKED_WINDOWS = 64
#: Files that are predicted together: so many, or so much of them.
_GROUP_FILES, _GROUP_SECONDS = 32, 600.0

_Window = tuple[int, int]
#: A file's name; its waveform and the hash of its audio, or what is wrong with it.
_Opened = tuple[str, tuple[Waveform, str] | BadClipError]


@dataclass(frozen=True)
class Recording:
    """A recording that was checked and cut into windows, to be scored. Made by :meth:`Model.cut`.

    Attributes
    ----------
    source : str
        What it is called.
    waveform : ndarray of float32, shape (n_samples,)
        Mono, at the model's rate.
    windows : tuple of (int, int)
        First sample of each window, and the one after its last.
    is_cut : bool
        Whether the prediction has a timeline.
    audio_sha256 : str
        Hash of the samples as they were decoded; empty if it is not known.
    """

    source: str
    waveform: Waveform
    windows: tuple[_Window, ...]
    is_cut: bool
    audio_sha256: str

    def piece(self, number: int) -> Waveform:
        """Return the samples of a window, without copying them."""
        start, end = self.windows[number]
        return self.waveform[start:end]


@dataclass(frozen=True)
class Model:
    """A saved model. Made by :func:`load_model`.

    It may be called from several threads.

    Attributes
    ----------
    name : str
        What was loaded.
    labels : tuple of str
        What it tells apart; empty for ratings.
    target : str
        What it tells, such as emotion; empty where that is not known.
    sampling_rate : int
        The rate of what it hears, in Hz.
    card : mapping
        ``name``, ``kind``, ``what``, ``corpus``, ``score`` (how it scored, by which protocol),
        ``probabilities`` (whether they are calibrated; empty for ratings), ``warnings``,
        ``licence``, ``citation`` and ``normalises`` (whether each clip is brought to zero mean and
        unit variance first): JSON values.
    """

    name: str
    labels: tuple[str, ...]
    target: str
    sampling_rate: int
    card: Mapping[str, Any]
    listener: Listener = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def predict(
        self,
        audio: Place | str | NDArray[Any],
        rate: int | None = None,
        *,
        window: float | None = None,
        hop: float | None = None,
    ) -> Prediction:
        """Predict one recording.

        Parameters
        ----------
        audio : Path, Remote, str or ndarray of float, shape (n_samples,) or (n_samples, n_channels)
            A file, or the address of one elsewhere; or samples, of which full scale is 1.
        rate : int, optional
            Of samples, in Hz.
        window, hop : float, optional
            As :meth:`predict_batch` takes them.

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
            If memory does not hold it.
        """
        if isinstance(audio, (str, Path, Remote)):
            file = place(audio)
            if rate is not None:
                raise UserError(f"{file}: a file has its own sampling rate; do not pass rate")
            source = text(file)
            waveform, audio_sha256 = self.decode(read_clip(file), file)
        else:
            source = "array"
            waveform, audio_sha256 = self._from_samples(audio, rate)
        (found,) = self.predict_batch(
            [waveform], [source], audio_sha256=[audio_sha256], window=window, hop=hop
        )
        if isinstance(found, BadClipError):
            raise found
        return found

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
        """Predict several recordings; what is said of one does not depend on the others.

        Parameters
        ----------
        waveforms : sequence of ndarray of float32, shape (n_samples,)
            Mono, at ``sampling_rate``.
        sources : sequence of str
            What each is called.
        audio_sha256 : sequence of str, optional
            Hash of the decoded samples of each, as in ``AudioFacts``. Without it ``trained_on`` is
            not known: a waveform may have been resampled.
        window, hop : float, optional
            Cut recordings into windows of so many seconds, so many seconds apart (by default side
            by side), and hear each as if it were a clip of its own: scores of the whole are the
            mean of those of its windows. Without them a recording is heard at once, unless it is
            longer than the model takes: then it is cut into equal windows, as few as can be.
            Windows with nothing to hear have no label and count for nothing.
        track : callable
            Shows progress over the windows.

        Returns
        -------
        list of Prediction or BadClipError
            In the order given. One that cannot be used has its error in its place.

        Raises
        ------
        UserError
            If windows are longer or shorter than the model takes, or leave gaps.
        MachineError
            If memory does not hold a recording.
        """
        self.check_windows(window, hop)
        hashes = [""] * len(sources) if audio_sha256 is None else audio_sha256
        cut: list[Recording | BadClipError] = []
        for waveform, source, hash_ in zip(waveforms, sources, hashes, strict=True):
            try:
                cut.append(self.cut(waveform, source, hash_, window, hop))
            except BadClipError as error:
                cut.append(error)
        recordings = [each for each in cut if isinstance(each, Recording)]
        pieces = [each.piece(number) for each in recordings for number in range(len(each.windows))]
        size = max(1, len(pieces)) if track is no_track else _TRACKED_WINDOWS
        groups = (pieces[start : start + size] for start in range(0, len(pieces), size))
        each_window = (score for group in groups for score in self.score(group))
        scored = iter(list(track(each_window, "scoring windows", len(pieces))))
        found: list[Prediction | BadClipError] = []
        for each in cut:
            if isinstance(each, BadClipError):
                found.append(each)
                continue
            scores = list(islice(scored, len(each.windows)))
            try:
                found.append(self.combine(each, scores))
            except BadClipError as error:
                found.append(error)
        return found

    def cut(
        self,
        waveform: Waveform,
        source: str,
        audio_sha256: str = "",
        window: float | None = None,
        hop: float | None = None,
    ) -> Recording:
        """Check a recording and cut it into windows: the first of three steps of a prediction.

        Parameters
        ----------
        waveform : ndarray of float32, shape (n_samples,)
            Mono, at ``sampling_rate``.
        source : str
            What it is called.
        audio_sha256 : str
            As in :meth:`predict_batch`.
        window, hop : float, optional
            As :meth:`predict_batch` takes them.

        Returns
        -------
        Recording

        Raises
        ------
        BadClipError
            If it cannot be used.
        """
        cut = tuple(self._cut(waveform, source, window, hop))
        return Recording(source, waveform, cut, window is not None or len(cut) > 1, audio_sha256)

    def score(self, pieces: Sequence[Waveform]) -> list[Scored | None]:
        """Score windows, of one recording or several: the second step.

        Parameters
        ----------
        pieces : sequence of ndarray of float32, shape (n_samples,)
            From :meth:`Recording.piece`. The scores of one do not depend on the others; on a CPU to
            the last bit.

        Returns
        -------
        list of (str, ndarray of float64) or None
            In the order given; None where there is nothing to hear.

        Raises
        ------
        MachineError
            If memory does not hold them.
        """
        heard = [self._hear(piece) for piece in pieces]
        audible = [piece for piece in heard if piece is not None]
        try:
            with self._lock if self.listener.lanes < 2 else contextlib.nullcontext():
                scored = iter(self.listener.score(audible) if audible else [])
        except (MemoryError, RuntimeError) as error:
            told = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if not told and "allocate memory" not in str(error):  # torch's words on a CPU
                raise
            raise MachineError(
                "memory does not hold a recording at once; expected it to; cut it: --window 10"
            ) from None
        return [None if piece is None else next(scored) for piece in heard]

    def combine(self, recording: Recording, scored: Sequence[Scored | None]) -> Prediction:
        """Put the scores of all windows of a recording together: the last step.

        Parameters
        ----------
        recording : Recording
            From :meth:`cut`.
        scored : sequence of (str, ndarray of float64) or None
            From :meth:`score`, one for each window, in their order.

        Returns
        -------
        Prediction

        Raises
        ------
        BadClipError
            If no window has anything to hear, or a score is not a finite number.
        """
        source = recording.source
        audible = [each for each in scored if each is not None]
        if not audible:
            raise _nothing_heard(source)
        if any(not np.isfinite(each[1]).all() for each in audible):
            raise _no_numbers(source)
        label, scores = audible[0]
        if len(audible) > 1:
            scores = np.mean([each for _, each in audible], axis=0)
            label = self.labels[int(np.argmax(scores))] if self.labels else ""
        rate, training = self.sampling_rate, self.listener.training
        timeline = tuple(
            Window(
                start / rate, end / rate, *((each[0], self._named(each[1])) if each else ("", {}))
            )
            for (start, end), each in zip(recording.windows, scored, strict=True)
        )
        return Prediction(
            source,
            len(recording.waveform) / rate,
            label,
            self._named(scores),
            timeline if recording.is_cut else (),
            training.contains_clip(recording.audio_sha256) if training else None,
        )

    def read(self, file: Place) -> Waveform:
        """Read a file as :meth:`predict_batch` takes it.

        Parameters
        ----------
        file : Path or Remote
            Of any format that corpora may have.

        Returns
        -------
        ndarray of float32, shape (n_samples,)

        Raises
        ------
        BadClipError
            If it cannot be used.
        """
        return self.decode(read_clip(file), file)[0]

    def decode(self, content: bytes, file: Place) -> tuple[Waveform, str]:
        """Decode what a file holds, as :meth:`read` does.

        Parameters
        ----------
        content : bytes
            What it holds.
        file : Path or Remote
            What messages call it.

        Returns
        -------
        waveform : ndarray of float32, shape (n_samples,)
        audio_sha256 : str
            Hash of the samples as they were decoded, before they were resampled.

        Raises
        ------
        BadClipError
            If it cannot be used.
        """
        rate, channels = self.sampling_rate, self.listener.channels
        waveform, facts = decode_waveform(content, rate, channels, file=file)
        return waveform, facts.audio_sha256

    def check_windows(self, window: float | None, hop: float | None) -> None:
        """Refuse windows that cannot be cut or heard, before any work.

        Parameters
        ----------
        window, hop : float or None
            As :meth:`predict_batch` takes them.

        Raises
        ------
        UserError
            If they are longer or shorter than the model takes, leave gaps, or are too many.
        """
        if window is None:
            if hop is not None:
                raise UserError(f"--hop {hop:g}: expected --window with it; give both or none")
            return
        windows(1, self.sampling_rate, window, window if hop is None else hop)
        longest = self.listener.maximum_samples
        shortest = self.listener.front_end.minimum_samples
        size = round(window * self.sampling_rate)
        if size < shortest or (longest is not None and size > longest):
            most = f" to {longest / self.sampling_rate:g}" if longest else ""
            raise UserError(
                f"--window {window:g}: {self.name} hears clips of at least "
                f"{shortest / self.sampling_rate:g}{most} s; choose a length in that range"
            )

    def _from_samples(self, samples: NDArray[Any], rate: int | None) -> tuple[Waveform, str]:
        given = np.asarray(samples)
        if rate is None or not RATES[0] <= rate <= RATES[1]:
            raise UserError(f"rate {rate}: expected that of the samples, {RATES[0]} to {RATES[1]}")
        if given.dtype.kind != "f" or given.ndim not in (1, 2) or not given.size:
            raise UserError(
                f"array of {given.dtype}, shape {given.shape}; expected floats of full scale 1, "
                "shape (n_samples,) or (n_samples, n_channels)"
            )
        if len(given) > MAX_SECONDS * rate:
            raise BadClipError(
                "array",
                f"lasts {len(given) / rate:.0f} s",
                f"at most {MAX_SECONDS:.0f} s",
                "split it into utterances",
            )
        columns = given.astype(np.float32).reshape(len(given), -1)
        waveform = as_clip("array", columns, rate, self.sampling_rate, self.listener.channels)
        return waveform, hash_samples(columns, rate)

    def _cut(
        self, waveform: Waveform, source: str, window: float | None, hop: float | None
    ) -> list[_Window]:
        """Check a recording and cut it, if it must be."""
        if waveform.ndim != 1 or waveform.dtype != np.float32 or not len(waveform):
            raise BadClipError(
                source,
                f"is of {waveform.dtype} in shape {waveform.shape}",
                "float32 samples of one channel",
                "convert it",
            )
        check_sound(source, waveform)
        n, rate = len(waveform), self.sampling_rate
        decibels, longest = self.listener.trim_decibels, self.listener.maximum_samples
        left = n if decibels is None else len(trim(waveform, decibels))
        check_length(Path(source), left, rate, self.listener.front_end.minimum_samples, None)
        if window is not None:
            return windows(n, rate, window, window if hop is None else hop)
        return [(0, n)] if longest is None or left <= longest else equal_windows(n, longest)

    def _hear(self, piece: Waveform) -> Waveform | None:
        """Return what is heard of a window: None if there is nothing."""
        if np.abs(piece).max() < SILENCE_PEAK:
            return None
        decibels = self.listener.trim_decibels
        heard = piece if decibels is None else trim(piece, decibels)
        return heard if len(heard) >= self.listener.front_end.minimum_samples else None

    def _named(self, scores: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.listener.outputs, map(float, scores), strict=True))


def load_model(
    name: str | Place | None = None,
    *,
    device: str = "cpu",
    encoder: str | Path | None = None,
    revision: str | None = None,
) -> Model:
    """Load a saved model; no code that it brings along is run.

    Parameters
    ----------
    name : str, Path or Remote, optional
        A bundle (``RUN/bundles/HEAD``), a run (its first bundle by name, or its ``model``), a
        folder or hub id of an audio classifier of transformers, or a folder of a network. By
        default the first bundle of the newest run in ``artifacts/runs`` that has any, else the
        one that ships with serpipe. What has the address of a store is fetched first.
    device : str
        Where it runs, in torch's words.
    encoder : str or Path, optional
        For a bundle: where its encoder is. One that is built in or on the hub is found by its name;
        of one from a local folder, this must be told.
    revision : str, optional
        Branch, tag or commit of a hub id: of ``encoder``, or of ``name``.

    Returns
    -------
    Model

    Raises
    ------
    UserError
        If there is no such model, it is not whole, or its encoder is another than it was fitted on.
    MachineError
        If the hub cannot be reached.
    """
    found = find_model(name)
    if encoder is not None and not (found / "bundle.json").is_file():
        raise UserError(
            f"--encoder {encoder}: {found} is no bundle; expected one, which needs an encoder; "
            "leave it out"
        )
    if (found / "bundle.json").is_file():
        listener = open_bundle(found, device, encoder, revision)
    elif (found / "network.json").is_file():
        listener = open_network(found, device)
    elif found.is_dir() and not (found / "config.json").is_file():
        raise UserError(
            f"{found}: holds no model; expected RUN/bundles/HEAD, RUN, or a model that was saved; "
            "name one with --model"
        )
    else:
        listener = open_classifier(
            str(name) if not found.exists() else str(found), device, revision
        )
    _check_names(found, listener)
    where = found if name is None or isinstance(place(name), Path) else place(name)
    title = "the built-in head" if found == DEFAULT_BUNDLE else text(where)
    return Model(
        name=title,
        labels=() if listener.is_rating else listener.outputs,
        target=listener.target,
        sampling_rate=listener.front_end.sampling_rate,
        card={"name": title, **listener.card, "normalises": listener.front_end.normalise},
        listener=listener,
    )


def predict_files(
    model: Model,
    files: Sequence[Place],
    *,
    window: float | None = None,
    hop: float | None = None,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> Iterator[Prediction | BadClipError]:
    """Predict files, a group at a time.

    Parameters
    ----------
    model : Model
        From :func:`load_model`.
    files : iterable of Path or Remote
        What to predict.
    window, hop : float, optional
        As :meth:`Model.predict_batch` takes them.
    workers : int
        Threads that decode.
    track : callable
        Shows progress: over the files, or over the windows if there is one file.

    Yields
    ------
    Prediction or BadClipError
        One for each file, in their order.

    Raises
    ------
    UserError, MachineError
        As :meth:`Model.predict_batch` raises them.
    """

    def read(item: tuple[Place, Content]) -> _Opened:
        file, content = item
        try:
            return text(file), model.decode(content(), file)
        except BadClipError as error:
            return text(file), error

    of_windows = track if len(files) == 1 else no_track

    def predict_all() -> Iterator[Prediction | BadClipError]:
        group: list[_Opened] = []
        seconds = 0.0
        items = read_ahead(files, lambda file: file)
        for source, opened in in_order(read, items, workers, ahead=workers):
            group.append((source, opened))
            if not isinstance(opened, BadClipError):
                seconds += len(opened[0]) / model.sampling_rate
            if len(group) >= _GROUP_FILES or seconds >= _GROUP_SECONDS:
                yield from _predict_group(model, group, window, hop, of_windows)
                group, seconds = [], 0.0
        yield from _predict_group(model, group, window, hop, of_windows)

    if len(files) == 1:
        yield from predict_all()
    else:
        yield from track(predict_all(), "predicting recordings", len(files))


def _predict_group(
    model: Model,
    group: Sequence[_Opened],
    window: float | None,
    hop: float | None,
    track: Track[Any],
) -> Iterator[Prediction | BadClipError]:
    good = [(source, each) for source, each in group if not isinstance(each, BadClipError)]

    def predict(
        some: Sequence[tuple[str, tuple[Waveform, str]]],
    ) -> list[Prediction | BadClipError]:
        return model.predict_batch(
            [waveform for _, (waveform, _) in some],
            [source for source, _ in some],
            audio_sha256=[hash_ for _, (_, hash_) in some],
            window=window,
            hop=hop,
            track=track,
        )

    def one_by_one() -> Iterator[Prediction | BadClipError]:
        for each in good:
            yield from predict([each])

    try:
        said = iter(predict(good))
    except MachineError:  # those before the one that is too long are not lost
        said = one_by_one()
    for _, each in group:
        yield each if isinstance(each, BadClipError) else next(said)


def text(path: Place | str) -> str:
    """Return a path as text that can be written: on POSIX systems it may be any bytes."""
    return str(path).encode(errors="backslashreplace").decode()


def _check_names(found: Path, listener: Listener) -> None:
    """Refuse names that would do something to a terminal."""
    if not all(name.isprintable() for name in (*listener.outputs, listener.target)):
        raise UserError(
            f"{found}: its labels contain characters that cannot be printed; rename them"
        )


def _nothing_heard(source: str) -> BadClipError:
    return BadClipError(
        source, "has no window with anything to hear", "speech", "take a longer --window"
    )


def _no_numbers(source: str) -> BadClipError:
    return BadClipError(
        source,
        "gets scores that are not finite numbers",
        "numbers",
        "remove it, or choose another --model",
    )
