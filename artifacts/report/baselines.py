"""Published results for comparison: not reproduced here, each with its source."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...pipeline.statistics import Interval
from ..run.results import RunResults
from ..score_text import percent_interval
from .table import Table

_HSN = (
    "hsn07pk/ravdess-speaker-independent-ser, results/table_all.csv: LOSO, layer and C chosen "
    "inside, silence trimmed, logistic regression"
)
_EMOBOX = (
    "Ma et al. (2024), EmoBox, Table 4: last layer, two-layer head; how the epoch was chosen is "
    "not said"
)
#: Labels and number of clips of each corpus, as the sources use it.
_CLIPS = {
    "ravdess": (
        ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"), 1440
    ),
    "savee": (
        ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"), 480
    ),
    # Excited counts as happiness.
    "iemocap": (("anger", "happiness", "neutral", "sadness"), 5531),
}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """One published result."""

    corpus: str  #: Its name in serpipe.
    split: str  #: Its name in serpipe.
    labels: frozenset[str]
    clips: int  #: Number of scored clips.
    features: str  #: The encoder or features.
    uar: Interval  #: From 0 to 1; NaN for an interval that was not published.
    source: str  #: The source, and further differences.


def _published(
    corpus: str, split: str, source: str, rows: dict[str, tuple[float, ...]]
) -> tuple[Baseline, ...]:
    labels, clips = _CLIPS[corpus]
    return tuple(
        Baseline(
            corpus, split, frozenset(labels), clips, features,
            Interval(*(value / 100 for value in (*numbers, np.nan, np.nan)[:3])), source,
        )
        for features, numbers in rows.items()
    )  # fmt: skip


BASELINES = (
    *_published("ravdess", "loso", _HSN, {
        "XLS-R 300M": (81.90, 77.80, 85.94), "WavLM large": (81.32, 77.08, 85.22),
        "Whisper large-v3": (80.21, 75.78, 84.31), "HuBERT large": (77.80, 72.46, 82.62),
        "emotion2vec base, last layer": (66.67, 62.30, 70.83),
        "ComParE 2016": (63.61, 58.98, 68.42), "eGeMAPS": (53.06, 49.54, 56.45),
    }),
    *_published("ravdess", "emobox", _EMOBOX, {
        "Whisper large-v3": (75.32,), "WavLM large": (72.00,), "data2vec2 large": (71.15,),
        "HuBERT large": (70.00,), "HuBERT base": (65.43,), "data2vec2 base": (64.66,),
        "WavLM base": (61.56,), "data2vec large": (59.30,), "wav2vec2 base": (54.33,),
        "data2vec base": (51.92,),
    }),
    *_published("savee", "emobox", _EMOBOX, {
        "data2vec2 large": (75.75,), "data2vec base": (75.65,), "Whisper large-v3": (74.07,),
        "data2vec2 base": (72.65,), "HuBERT large": (71.91,), "data2vec large": (68.01,),
        "WavLM large": (66.74,), "WavLM base": (63.57,), "HuBERT base": (58.90,),
        "wav2vec2 base": (44.89,),
    }),
    *_published("iemocap", "emobox", _EMOBOX, {
        "Whisper large-v3": (73.54,), "WavLM large": (69.47,), "HuBERT large": (67.42,),
        "HuBERT base": (63.87,), "WavLM base": (62.92,), "wav2vec2 base": (58.27,),
        "data2vec2 large": (57.30,), "data2vec2 base": (54.40,), "data2vec base": (54.19,),
        "data2vec large": (52.56,),
    }),
)  # fmt: skip


def baselines_for(results: RunResults) -> tuple[Baseline, ...]:
    """Return the published results that are comparable with a run.

    They are of the same corpus, split, label set and number of clips; none is comparable with a
    marked run, whose numbers mean something else.
    """
    summary = results.summary
    return tuple(
        each
        for each in BASELINES
        if set(results.clips["corpus"].tolist()) == {each.corpus}
        and summary.target == "emotion"
        and summary.split == each.split
        and not summary.hold_out
        and set(summary.labels) == each.labels
        and not summary.changes
        and not summary.warnings
        and summary.clips == each.clips
    )


def baseline_table(results: RunResults) -> Table:
    """Return the published results that are comparable with a run as a table."""
    return published_table(baselines_for(results))


def published_table(published: Iterable[Baseline]) -> Table:
    """Return published results as a table, the highest first, with their sources below."""
    baselines = sorted(published, key=lambda each: -each.uar.value)
    return Table(
        "baselines",
        "Published, not reproduced here",
        ("features", "UAR [95 %]"),
        tuple((each.features, percent_interval(each.uar)) for each in baselines),
        note="; ".join(dict.fromkeys(each.source for each in baselines)) + ".",
        records=tuple(
            {"features": each.features, "uar": each.uar.value, "uar_low": each.uar.low,
             "uar_high": each.uar.high, "reproduced": False, "source": each.source}
            for each in baselines
        ),
    )  # fmt: skip
