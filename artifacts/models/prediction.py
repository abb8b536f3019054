"""The prediction of a model for a recording."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...display import Displayed, ShortTable, data_frame
from ..score_columns import score_columns

#: Shown beside a recording that the model was trained on.
TRAINED_ON = "TRAINED ON"
#: Shown beside a recording that is unlike those that the model was trained on.
UNLIKE_TRAINING = "UNLIKE TRAINING"


@dataclass(frozen=True)
class Window:
    """The prediction for a window of a recording."""

    part: ClassVar[str] = "window"  #: What it is, in tables.

    start: float  #: In seconds.
    end: float  #: In seconds.
    label: str  #: The chosen label; empty for ratings, and for silence.
    #: Probability of each label, or value of each rating; empty for silence.
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Segment(Window):
    """The prediction for a part of a recording between two pauses."""

    part: ClassVar[str] = "segment"


@dataclass(frozen=True)
class Turn(Window):
    """The prediction for a turn of a speaker."""

    part: ClassVar[str] = "turn"

    speaker: str


@dataclass(frozen=True)
class SpeakerSummary:
    """The prediction for all turns of a speaker in a recording."""

    speaker: str
    turns: int  #: Their number.
    seconds: float  #: Their duration.
    label: str  #: The chosen label; empty for ratings, and if all are silent.
    #: The mean of the scores of the turns, weighted by duration; empty if all are silent.
    scores: Mapping[str, float]


@dataclass(frozen=True, repr=False)
class Prediction(Displayed):
    """The prediction for a recording."""

    source: str  #: Name of the recording.
    seconds: float  #: Its duration.
    label: str  #: The chosen label; empty for ratings.
    scores: Mapping[str, float]  #: Probability of each label, or value of each rating.
    timeline: tuple[Window, ...]  #: Its windows; empty if it was not cut.
    #: Whether the model was trained on this very recording, so that the prediction says nothing
    #: about others. None if unknown.
    trained_on: bool | None = None
    #: Whether it is unlike all training clips, so that no score on such clips applies to it. None
    #: if unknown.
    unlike_training: bool | None = None
    #: How far it is from the training clips, the mean over its windows: it is unlike them above 1.
    distance: float | None = None

    def abstained(self) -> "Prediction":
        """Return the prediction without labels if the recording is unlike the training clips."""
        if not self.unlike_training:
            return self
        timeline = tuple(replace(window, label="") for window in self.timeline)
        return replace(self, label="", timeline=timeline)

    @property
    def parts(self) -> list[tuple[str, Window]]:
        """The rows of the prediction as a table: ``"whole"``, then each part of the timeline."""
        whole = Window(0.0, self.seconds, self.label, self.scores)
        return [("whole", whole), *((each.part, each) for each in self.timeline)]

    def short_table(self) -> ShortTable:
        """Return the scores, or the timeline."""
        title = f"{self.source}, {self.seconds:.2f} s"
        title += f": {self.label}" if self.label else ""
        title += f", {TRAINED_ON}" if self.trained_on else ""
        title += f", {UNLIKE_TRAINING}" if self.unlike_training else ""
        scores = sorted(self.scores.items(), key=lambda score: -score[1])
        if not self.timeline:
            kind = "probability" if self.label else "rating"
            rows = [(name, f"{value:.3f}") for name, value in scores]
            return ShortTable(title, ("label" if self.label else "", kind), rows)

        def cells(window: Window) -> list[str]:
            if self.label:
                return [window.label, f"{window.scores[window.label]:.3f}" if window.label else ""]
            return [f"{window.scores[name]:.3f}" if window.scores else "" for name in self.scores]

        windows = [(f"{each.start:.2f} - {each.end:.2f} s", *cells(each)) for each in self.timeline]
        columns = ("label", "probability") if self.label else tuple(self.scores)
        return ShortTable(title, ("window", *columns), windows)

    def to_pandas(self) -> Any:
        """Return a pandas data frame with a row for the whole recording and one for each part.

        Returns
        -------
        pandas.DataFrame
            Columns ``source``; ``part`` (``whole``, ``window``, ``segment``, ``speaker`` or
            ``turn``); ``start`` and ``end`` in seconds; ``label``; ``speaker``, if speakers are
            known; and ``score_NAME`` for each score, NaN for silence.

        Raises
        ------
        UserError
            If pandas is not installed.
        """
        columns = dict(zip(self.scores, score_columns(list(self.scores)), strict=True))
        by_speaker = isinstance(self, PredictionBySpeaker)
        return data_frame(
            [
                {
                    "source": self.source,
                    "part": part,
                    "start": each.start,
                    "end": each.end,
                    "label": each.label,
                    **({"speaker": speaker_of(each)} if by_speaker else {}),
                    **{column: each.scores.get(name, math.nan) for name, column in columns.items()},
                }
                for part, each in self.parts
            ]
        )


@dataclass(frozen=True)
class PredictionBySpeaker(Prediction):
    """The prediction for a recording whose speakers are known."""

    speakers: tuple[SpeakerSummary, ...] = ()  #: By name.

    def abstained(self) -> "PredictionBySpeaker":
        """Return the prediction without labels if the recording is unlike the training clips."""
        if not self.unlike_training:
            return self
        speakers = tuple(replace(each, label="") for each in self.speakers)
        return replace(self, label="", timeline=super().abstained().timeline, speakers=speakers)

    @property
    def parts(self) -> list[tuple[str, Window]]:
        """The rows of the prediction: ``"whole"``, each ``"speaker"``, then each ``"turn"``."""
        whole, *turns = super().parts
        first, last = dict[str, float](), dict[str, float]()
        for _, turn in turns:
            speaker = speaker_of(turn)
            first.setdefault(speaker, turn.start)
            last[speaker] = max(turn.end, last.get(speaker, 0.0))
        summaries = [
            (
                "speaker",
                Turn(
                    first[each.speaker],
                    last[each.speaker],
                    each.label,
                    each.scores,
                    each.speaker,
                ),
            )
            for each in self.speakers
        ]
        return [whole, *summaries, *turns]


def speaker_of(window: Window) -> str:
    """Return who speaks in a window; empty if that is not known."""
    return window.speaker if isinstance(window, Turn) else ""


def csv_columns(outputs: Sequence[str]) -> list[str]:
    """Return the columns of predictions as CSV, on the command line and from the server.

    They are the source; the part, such as ``"whole"`` or ``"window"``; its start and end in
    seconds; the label; whether the model was trained on the recording; whether the recording is
    unlike all training clips; and the scores of ``outputs``.
    """
    first = ["source", "part", "start", "end", "label", "trained_on", "unlike_training"]
    return [*first, *score_columns(outputs)]
