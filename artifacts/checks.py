"""What is wrong or to be known about a run, each with a code that docs/checks.md explains."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import CORPORA, Corpus
from ..features.recordings import UNCONFIRMED, copies
from ..pipeline.folds import NOTHING_TRAINED
from ..pipeline.holdout import holds_out
from ..pipeline.statistics import FEWEST_SPEAKERS
from .probe import against_probe, from_scratch, read_probe
from .results import RunResults, at_edge, chosen
from .table import score_text
from .tables import RESOLVED

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

#: Recordings whose copies a check names.
NAMED = 3


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


def trained_on(names: Iterable[str]) -> frozenset[str] | None:
    """Say on which corpora a checkpoint was trained.

    Parameters
    ----------
    names : iterable of str
        Its names: the hub id, or that of the checkpoint that it was made from.

    Returns
    -------
    frozenset of str, or None
        Names of corpora; ``None`` if nothing is known.
    """
    known = [TRAINED_ON[part] for name in names for part in TRAINED_ON if part in name]
    return frozenset[str]().union(*known) if known else None


def run_checks(results: RunResults, probe: RunResults | None = None) -> tuple[Check, ...]:
    """Check a run.

    Parameters
    ----------
    results : RunResults
        From :func:`~serpipe.artifacts.results.read_results`.
    probe : RunResults, optional
        Of a fine-tuned run: the frozen probe that stands beside it, where it is not the one that
        the run names.

    Returns
    -------
    tuple of Check
        What was found, the gravest first.
    """
    order = {"invalid": 0, "warning": 1, "note": 2}
    found = [*_protocol(results), *_data(results), *_search(results), *_probe(results, probe)]
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
        elif kind == "STREAMED":
            yield Check(
                "SER017", "note", warning.removeprefix("STREAMED: "),
                "with the memory for it, raise the limit and fit again",
            )  # fmt: skip
        elif kind == "CONTAMINATED":
            yield Check(
                "SER007", "invalid", "the model was trained on a corpus that is tested",
                "take a corpus that it has not heard, or only the speakers that were held out",
            )  # fmt: skip
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
    named = summary.split != NOTHING_TRAINED and not summary.trained
    if len(summary.layers) == 1 and named:
        yield Check(
            "SER006", "note", f"layer {summary.layers[0]} was named, not chosen inside",
            "name it before seeing the curve, or use --layers all",
        )  # fmt: skip


def _data(results: RunResults) -> Iterator[Check]:
    summary = results.summary
    corpora = set(results.clips.get("corpus", ()))
    heard = corpora & (trained_on([str(summary.encoder["encoder"])]) or set())
    if heard and summary.split != NOTHING_TRAINED:  # which is marked as CONTAMINATED instead
        yield Check(
            "SER007", "invalid",
            f"{summary.encoder['encoder']} was trained on {', '.join(sorted(heard))}",
            "use an encoder that has not heard these labels",
        )  # fmt: skip
    same = copies(results.clips)
    if same:
        named = "; ".join(" and ".join(paths) for paths in same[:NAMED])
        more = f"; {len(same) - NAMED} more recordings" if same[NAMED:] else ""
        yield Check(
            "SER008", "note",
            f"{sum(map(len, same))} clips are copies of one another: {named}{more}",
            "each recording is on one side of every fold; clips.csv gives it for every clip",
        )  # fmt: skip
    possible = results.clips.get(UNCONFIRMED, np.array([], dtype=str))
    rows = np.flatnonzero(possible != "")
    if len(rows):
        path = results.clips["path"][rows[0]]
        yield Check(
            "SER022", "warning",
            f"{len(rows)} clips may be copies of others, which could not be read to compare them, "
            f"the first {path} of {possible[rows[0]]}",
            "run `serpipe extract` again where it can read the audio, then fit again",
        )  # fmt: skip
    if not summary.changes and not holds_out(summary.split):  # what was trained on is not told
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
                if results.summary.trained
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


def _probe(results: RunResults, probe: RunResults | None) -> Iterator[Check]:
    summary, measure = results.summary, results.measure
    if not summary.trained:
        return
    probe = probe or read_probe(results)
    if probe:
        lost = [
            f"{score_text(-each.difference.value, measure)} to {each.second}"
            for each in against_probe(results, probe)
            if each.p_holm < RESOLVED and each.difference.value < 0
        ]
        if lost:
            how = "training from scratch" if from_scratch(summary) else "fine-tuning"
            points = "points of " if measure.in_percent else ""
            yield Check(
                "SER016", "warning",
                f"{how} lost to the frozen probe, in {points}{measure.title}: {', '.join(lost)}",
                "use the probe, or another recipe",
            )  # fmt: skip
    elif not from_scratch(summary):
        named = (
            f": {summary.probe} is not there, or of other clips, folds or weights"
            if summary.probe
            else ""
        )
        trial = any(warning.startswith("TRIAL") for warning in summary.warnings)
        yield Check(
            "SER015", "warning", f"no frozen probe beside it{named}",
            ("train all folds, then " if trial else "")
            + f"make one: serpipe extract --encoder {summary.encoder['encoder']}, serpipe fit "
            f"--split {summary.split} with the same clips and labels, serpipe report RUN PROBE_RUN",
        )  # fmt: skip
