"""What is wrong or to be known about a run, each with a code that docs/checks.md explains."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import CORPORA, Corpus
from ..pipeline.statistics import FEWEST_SPEAKERS
from .results import RunResults, at_edge, chosen
from .run import RunSummary

#: Checkpoints that were trained on emotions of these corpora, by a part of their name. Sources:
#: their model cards; for emotion2vec+, which lists EmoBox, its README and issues 46 and 77.
TRAINED_ON: Mapping[str, frozenset[str]] = {
    "emotion2vec_plus": frozenset(
        {"ravdess", "savee", "emodb", "cremad", "tess", "shemo", "iemocap"}
    ),
    "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition": frozenset({"ravdess"}),
    "r-f/wav2vec-english-speech-emotion-recognition": frozenset({"savee", "ravdess", "tess"}),
    "firdhokk/speech-emotion-recognition": frozenset({"ravdess", "savee", "tess"}),
    "Dpngtm/wav2vec2-emotion-recognition": frozenset({"tess", "cremad", "savee", "ravdess"}),
    "superb-er": frozenset({"iemocap"}),
}


@dataclass(frozen=True)
class Check:
    """One thing that was found.

    Attributes
    ----------
    code : str
        As in docs/checks.md.
    severity : str
        ``"invalid"``: the number does not mean what it seems to; ``"warning"``: it may mislead;
        ``"note"``: to be known.
    found : str
        What was found.
    advice : str
        What to do about it.
    """

    code: str
    severity: str
    found: str
    advice: str


def run_checks(results: RunResults) -> tuple[Check, ...]:
    """Check a run.

    Parameters
    ----------
    results : RunResults
        From :func:`~serpipe.artifacts.results.read_results`.

    Returns
    -------
    tuple of Check
        What was found, the gravest first.
    """
    order = {"invalid": 0, "warning": 1, "note": 2}
    found = [*_protocol(results), *_data(results), *_search(results)]
    return tuple(sorted(found, key=lambda check: (order[check.severity], check.code)))


def _protocol(results: RunResults) -> Iterator[Check]:
    summary = results.summary
    for warning in summary.warnings:
        kind = warning.partition(":")[0]
        if kind == "INFLATED":
            yield Check(
                "SER001", "invalid", f"speakers on both sides of {summary.split}",
                "fit with --split loso or kfold:N, and report that",
            )  # fmt: skip
        elif kind == "TRANSDUCTIVE":
            yield Check(
                "SER002", "invalid",
                "each speaker's clips were normalised by themselves, test speakers included",
                "say so with the number, or fit without --normalise",
            )  # fmt: skip
        elif kind == "PERMUTED LABELS":
            yield Check(
                "SER003", "invalid", "labels were shuffled", "expect chance, and nothing else"
            )
    if len(summary.speakers) < FEWEST_SPEAKERS:
        yield Check(
            "SER004", "warning", f"{len(summary.speakers)} speakers: too few for an interval",
            "show each speaker; do not claim differences",
        )  # fmt: skip
    left = [head for head in summary.planned if head not in summary.heads]
    if left:
        yield Check(
            "SER005", "warning", f"NOT WHOLE: {', '.join(left)} not fitted yet",
            "run the same command again",
        )  # fmt: skip
    if len(summary.layers) == 1 and not _trained_end_to_end(summary):
        yield Check(
            "SER006", "note", f"layer {summary.layers[0]} was named, not chosen inside",
            "name it before seeing the curve, or use --layers all",
        )  # fmt: skip


def _trained_end_to_end(summary: RunSummary) -> bool:
    """Say whether epochs were chosen instead of layers and hyper-parameters of heads."""
    return all(set(told.grid) == {"epoch"} for told in summary.heads.values())


def _data(results: RunResults) -> Iterator[Check]:
    summary = results.summary
    corpora = set(results.clips.get("corpus", ()))
    for part, trained_on in TRAINED_ON.items():
        if part in str(summary.encoder["encoder"]) and corpora & trained_on:
            yield Check(
                "SER007", "invalid",
                f"{summary.encoder['encoder']} was trained on {', '.join(corpora & trained_on)}",
                "use an encoder that has not heard these labels",
            )  # fmt: skip
    times = Counter(results.clips.get("sha256", ()))
    same = sum(n for n in times.values() if n > 1)
    if same:
        yield Check(
            "SER008", "note", f"{same} clips are copies of one another",
            "none is on two sides of a fold; `serpipe extract` names them",
        )  # fmt: skip
    if not summary.changes:
        for name in sorted(corpora & set(CORPORA)):
            rows = results.clips["corpus"] == name
            expected = sum(_part(name, results.clips, rows).expected.values())
            n = int(rows.sum())
            if n < expected:
                yield Check(
                    "SER014", "note", f"{name}: {n} of the {expected} clips of the release",
                    "say so with the number; `serpipe extract` tells what is missing or left out",
                )  # fmt: skip
    made: Mapping[str, Any] = summary.provenance.get("cache", {}).get("versions", {})
    here: Mapping[str, Any] = summary.provenance.get("versions", {})
    other = [
        f"{name} {made[name]}, here {here[name]}"
        for name in ("serpipe", "torch", "transformers")
        if made.get(name, here.get(name)) != here.get(name)
    ]
    if other:
        yield Check(
            "SER009", "note", f"the cache was made with {'; '.join(other)}",
            "compare only runs on caches of the same versions",
        )  # fmt: skip


def _part(name: str, clips: Mapping[str, NDArray[np.str_]], rows: NDArray[np.bool_]) -> Corpus:
    """Return the part of a corpus that some clips are of: RAVDESS speech, song, or both."""
    channels = set(clips.get("vocal_channel", np.array([""] * len(rows)))[rows].tolist())
    if name == "ravdess" and "song" in channels:
        return CORPORA["ravdess-all" if "speech" in channels else "ravdess-song"]
    return CORPORA[name]


def _search(results: RunResults) -> Iterator[Check]:
    layers = list(results.summary.layers)
    for head, told in results.summary.heads.items():
        folds = len(told.choices)
        for name, counted in at_edge(told).items():
            times = ", ".join(f"{name}={value} in {n}" for value, n in counted.items())
            yield Check(
                "SER010", "note",
                f"{head}: chosen at the edge of its grid, {times} of {folds} folds",
                "train for other numbers of epochs, with --epochs and --patience"
                if _trained_end_to_end(results.summary)
                else f"widen it with --grid {head}.{name}=...",
            )  # fmt: skip
        ends = {layer: chosen(told)["layer"][layer] for layer in (layers[0], layers[-1])}
        last = {layer: n for layer, n in ends.items() if 2 * n > folds}
        if last and len(layers) > 2:
            yield Check(
                "SER011", "note", f"{head}: layer {next(iter(last))}, at the end, was chosen most",
                "look at the curve: a better layer may lie outside",
            )  # fmt: skip
        failed = sum(len(names) for names in told.not_converged.values())
        inner = told.fits["inner_not_converged"]
        if failed or inner:
            yield Check(
                "SER012", "warning",
                f"{head}: {failed} tested and {inner} inner fits did not converge",
                "raise max_iter, or leave out the weakest penalties",
            )  # fmt: skip
        pruned, points = told.fits["pruned"], told.fits["points"]
        if pruned:
            yield Check(
                "SER013", "note", f"{head}: the search left out {pruned} of {points} grid points",
                f"see search/{head}.csv",
            )  # fmt: skip
