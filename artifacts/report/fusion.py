"""The members of a fusion, and whether it is better than the best of them."""

from collections import defaultdict

import numpy as np

from ...pipeline.heads import BEST, FUSE
from ...pipeline.statistics import Comparison
from ..run.csv_files import NESTED
from ..run.results import RunResults
from .result_tables import RESOLVED, identity
from .table import Table


def members_table(results: RunResults) -> Table:
    """Return the weight of each head and layer in the fusion of a run, as a share of all weight."""
    choices = results.summary.heads[FUSE].choices
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for choice in choices:
        total = sum(member["weight"] for member in choice["members"])
        for member in choice["members"]:
            shares[member["head"], member["layer"]].append(member["weight"] / total)
    mean = {member: sum(each) / len(choices) for member, each in shares.items()}
    ordered = sorted(mean, key=lambda member: -mean[member])
    weight = np.mean([sum(member["weight"] for member in each["members"]) for each in choices])
    return Table(
        "members",
        "Members of the fusion",
        ("head and layer", "share of the weight in %", "folds"),
        tuple(
            (f"{head} {layer}", f"{100 * mean[head, layer]:.0f}", str(len(shares[head, layer])))
            for head, layer in ordered
        ),
        note="Weights were learnt on the training speakers of each fold. They sum to "
        f"{weight:.2f} on average: below 1, the members are too confident by themselves.",
        records=tuple(
            {
                **identity(results.summary),
                "head": head,
                "layer": layer,
                "mean_share": mean[head, layer],
                "folds": len(shares[head, layer]),
            }
            for head, layer in ordered
        ),
    )


def fusion_note(results: RunResults, comparisons: tuple[Comparison, ...]) -> str:
    """Say whether the fusion is resolved from the best of the single heads of a run."""
    measure = results.measure
    single = [head for head in results.heads if head not in (BEST, FUSE)]
    best = max(single, key=lambda head: results.scores(head, NESTED)[measure.key].value)
    (pair,) = (each for each in comparisons if {each.first, each.second} == {best, FUSE})
    difference = pair.difference.value * (1 if pair.first == FUSE else -1)
    amount = f"{measure.title} {measure.scale * difference:+.1f}"
    if pair.p_holm < RESOLVED:
        verdict = "better" if difference > 0 else "WORSE"
        return f"The fusion is {verdict} than {best}, the best single head: {amount}, resolved."
    return (
        f"The fusion is NOT resolved from {best}, the best single head ({amount}): it may be no "
        "better."
    )
