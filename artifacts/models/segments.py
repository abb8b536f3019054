"""Predict recordings of any length in segments: between pauses, or the turns of speakers.

A recording is decoded twice, block by block: first to check it and to find the speech in it, then
to score the segments. Memory is bounded by the longest segment, not by the recording.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ...errors import BadClipError
from ...features.in_order import in_order
from ...features.options import SegmentOptions
from ...features.speech import RATE, find_segments
from ...features.streaming import AudioStream, cut_out
from ...features.turns import SpeakerTurn, check_turns
from ...progress import Track, no_track
from ...remote import Location
from .prediction import Prediction, PredictionBySpeaker, Segment, SpeakerSummary, Turn
from .predictors import ClipScores
from .saved_model import Model, or_error, printable_path
from .windows import equal_windows

_T = TypeVar("_T")

#: Seconds of the segments that are scored together.
_BATCH_SECONDS = 60.0

#: First sample of a span, and the one after its last, at the rate of the model.
_Span = tuple[int, int]


@dataclass(frozen=True)
class Segmenter:
    """Cuts recordings into segments and predicts these; made by :func:`make_segmenter`."""

    model: Model
    options: SegmentOptions
    detector: str  #: What finds speech; empty if the turns of speakers are given.
    turns: Sequence[SpeakerTurn]  #: Who speaks when; empty if ``detector`` is used.

    def predict(
        self,
        file: Location,
        *,
        together: bool = True,
        stopped: threading.Event | None = None,
        track: Track[Any] = no_track,
    ) -> Prediction:
        """Predict one recording.

        Parameters
        ----------
        file : Path or Remote
            The recording.
        together : bool
            Whether segments are scored several at once, on all cores.
        stopped : Event, optional
            If it is set meanwhile, CancelledError is raised.
        track : callable
            Shows progress over the segments.

        Returns
        -------
        Prediction
            With a timeline of segments; a :class:`PredictionBySpeaker` if speakers are given. The
            scores of the whole are the mean of those of the segments, weighted by duration.

        Raises
        ------
        BadClipError
            If the recording cannot be used, or contains no speech.
        UserError
            If the turns of speakers do not fit the recording.
        MachineError
            If a segment does not fit in memory, or the process of the detector cannot run.
        """
        source, rate = printable_path(file), self.model.sampling_rate
        stream = AudioStream(file, RATE, self.model.predictor.channels)
        blocks = _until(stopped, stream)
        if self.turns:
            for _ in blocks:  # the recording is checked, and its samples are counted
                pass
            duration = stream.n_samples / RATE
            check_turns(Path(str(self.options.speakers)), self.turns, duration)
            seconds = [(turn.start, turn.end) for turn in self.turns]
        else:
            found = find_segments(
                blocks, self.detector, self.options.pause, self.options.longest_segment
            )
            if not found:
                raise BadClipError(
                    source,
                    f"contains no speech that --vad {self.detector} finds",
                    "speech",
                    "listen to it; without --vad it is predicted as a whole",
                )
            duration = stream.n_samples / RATE
            seconds = [(start / RATE, end / RATE) for start, end in found]
        spans = _spans(seconds, rate, duration)
        scored = self._score(file, spans, together, stopped, track)
        self.model.check_scores(source, scored)
        weights = [float(end - start) for start, end in spans]
        whole = self.model.whole(self.model.mean(scored, weights), stream.audio_sha256)
        if not self.turns:
            timeline = tuple(
                Segment(start / rate, end / rate, *self.model.label_and_scores(each))
                for (start, end), each in zip(spans, scored, strict=True)
            )
            return Prediction(source, duration, timeline=timeline, **whole)
        names = [turn.speaker for turn in self.turns]
        return PredictionBySpeaker(
            source,
            duration,
            timeline=tuple(
                Turn(start / rate, end / rate, *self.model.label_and_scores(each), name)
                for (start, end), each, name in zip(spans, scored, names, strict=True)
            ),
            speakers=self._summaries(names, weights, scored),
            **whole,
        )

    def _score(
        self,
        file: Location,
        spans: Sequence[_Span],
        together: bool,
        stopped: threading.Event | None,
        track: Track[Any],
    ) -> list[ClipScores | None]:
        """Score spans, ordered by their start, each as if it were a clip."""
        rate = self.model.sampling_rate
        longest = round(self.options.longest_segment * rate)
        # Where each part of a span is, and which span it is of.
        parts = sorted(
            (start + first, start + last, number)
            for number, (start, end) in enumerate(spans)
            for first, last in equal_windows(end - start, longest)
        )
        blocks = iter(AudioStream(file, rate, self.model.predictor.channels))
        pieces = cut_out(blocks, [(start, end) for start, end, _ in parts])
        size = _BATCH_SECONDS * rate if together else 0.0

        def score_all() -> Iterator[ClipScores | None]:
            batch: list[Any] = []
            for piece in _until(stopped, pieces):
                if not len(piece):
                    raise BadClipError(
                        str(file), "has changed while it was read", "", "run the command again"
                    )
                batch.append(piece)
                if sum(map(len, batch)) >= size:
                    yield from self.model.score(batch)
                    batch = []
            yield from self.model.score(batch)

        by_span: dict[int, list[tuple[float, ClipScores | None]]] = defaultdict(list)
        scored: Iterable[ClipScores | None] = track(score_all(), "scoring segments", len(parts))
        for (start, end, number), each in zip(parts, scored, strict=True):
            by_span[number].append((float(end - start), each))
        return [
            self.model.mean([each for _, each in by_span[number]], [w for w, _ in by_span[number]])
            for number in range(len(spans))
        ]

    def _summaries(
        self, names: Sequence[str], weights: Sequence[float], scored: Sequence[ClipScores | None]
    ) -> tuple[SpeakerSummary, ...]:
        """Return the prediction for each speaker, by name, from those of the turns."""
        of_speaker: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(names):
            of_speaker[name].append(number)
        summaries = []
        for name, numbers in sorted(of_speaker.items()):
            own = [weights[number] for number in numbers]
            mean = self.model.mean([scored[number] for number in numbers], own)
            seconds = sum(own) / self.model.sampling_rate
            summaries.append(
                SpeakerSummary(name, len(numbers), seconds, *self.model.label_and_scores(mean))
            )
        return tuple(summaries)


def predict_in_segments(
    segmenter: Segmenter, files: Iterable[Location], total: int, workers: int, track: Track[Any]
) -> Iterator[Prediction | BadClipError]:
    """Predict files in their order, ``workers`` at the same time.

    ``track`` shows progress over the ``total`` files, or over the segments of a single file. What
    is yielded for a file that cannot be used is its error; raise the other errors of
    :meth:`Segmenter.predict`.
    """
    if total == 1:
        for file in files:
            yield or_error(partial(segmenter.predict, file, track=track))
        return
    stopped = threading.Event()
    # On a CPU every thread scores by itself; on a GPU one scores a batch at a time.
    together = segmenter.model.predictor.lanes == 0

    def predict(file: Location) -> Prediction | BadClipError:
        return or_error(partial(segmenter.predict, file, together=together, stopped=stopped))

    predicted = in_order(predict, files, workers, ahead=workers, on_end=stopped.set)
    yield from track(predicted, "predicting recordings", total)


def _until(stopped: threading.Event | None, items: Iterable[_T]) -> Iterator[_T]:
    """Yield items until an event is set; then raise CancelledError."""
    for item in items:
        if stopped is not None and stopped.is_set():
            raise CancelledError
        yield item


def _spans(seconds: Sequence[tuple[float, float]], rate: int, duration: float) -> list[_Span]:
    """Return spans in samples, each of at least one and none beyond the end of the recording."""
    last = max(1, round(duration * rate))
    starts = [min(round(start * rate), last - 1) for start, _ in seconds]
    return [
        (start, max(start + 1, min(round(end * rate), last)))
        for start, (_, end) in zip(starts, seconds, strict=True)
    ]


def make_segmenter(
    model: Model, options: SegmentOptions, detector: str, turns: Sequence[SpeakerTurn] = ()
) -> Segmenter:
    """Return what predicts recordings in segments.

    ``detector`` is from :func:`serpipe.features.speech.find_detector`; empty for turns of speakers,
    which are from :func:`serpipe.features.turns.read_turns`. Raise UserError if the longest segment
    is longer or shorter than the model accepts.
    """
    longest = options.longest_segment
    model.check_takes(f"--longest-segment {longest:g}", longest * model.sampling_rate)
    return Segmenter(model, options, detector, turns)
