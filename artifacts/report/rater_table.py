"""The table of scores against the labels of several raters."""

from collections.abc import Mapping

import numpy as np

from ...pipeline.rater_scores import score_shares
from ...pipeline.votes import shares_of
from ..run.results import RunResults
from .probabilities import HeadProbabilities, interval_text, read_tied_probabilities
from .result_tables import flat, identity
from .table import Table


def raters_table(
    results: RunResults, probabilities: Mapping[str, HeadProbabilities]
) -> Table | None:
    """Return how well the probabilities of each head agree with the raters; None without raters."""
    shares = shares_of(results.clips, len(results.summary.labels))
    if shares is None or not probabilities:
        return None
    rows, records = [], []
    scored, tied = shares, 0
    for head, each in probabilities.items():
        values, scored, clusters = each.after, shares, results.clusters
        if with_ties := read_tied_probabilities(results, head):
            ties, of_ties = with_ties
            tied = len(of_ties)
            values = np.concatenate([values, of_ties])
            scored = np.concatenate([scored, ties.shares])
            clusters = np.concatenate([clusters, ties.clusters])
        scores = score_shares(values, scored, clusters)
        rows.append(
            (
                head, interval_text(scores.cross_entropy), interval_text(scores.divergence),
                interval_text(scores.f1),
            )
        )  # fmt: skip
        records.append(
            {
                **identity(results.summary), "head": head,
                "clips": len(scored), "clips_without_majority": tied,
                **flat({"cross_entropy": scores.cross_entropy}), "entropy": scores.entropy,
                **flat({"jensen_shannon": scores.divergence, "macro_f1": scores.f1}),
            }
        )  # fmt: skip
    agreed = int((scored.max(axis=1) == 1).sum())
    without = f"the {tied} without one as well" if tied else "no others"
    return Table(
        "raters",
        f"Probabilities and the labels of all raters, {results.result_kind} [95 % interval]",
        ("head", "cross-entropy", "Jensen-Shannon", "macro-F1 above 1/C"),
        tuple(rows),
        note=f"Over the {len(shares)} tested clips with a majority, and {without}; raters agreed "
        f"on {agreed}. "
        "Cross-entropy in nats: that of the shares of raters themselves is "
        f"{records[0]['entropy']:.3f}. Jensen-Shannon divergence in bits, 0 for equal shares. "
        f"Macro-F1: a clip has every label with a share, or a probability, above "
        f"1/{len(results.summary.labels)}.",
        records=tuple(records),
    )
