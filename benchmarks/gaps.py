"""How often a gap between groups is called significant where there is none, and where there is one.

    python benchmarks/gaps.py
    python benchmarks/gaps.py --repeat 2000 --seed 1

Simulates speakers who differ in skill, and their predictions of four labels; group labels say
nothing about the predictions, or lower the recall in one group. Printed are the share of
simulations with p below 0.05, and the share in which the 95 % interval of the difference of two
groups holds the true one.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from serpipe.pipeline.gaps import largest_gap

N_LABELS = 4
LABELS = [f"label {n}" for n in range(N_LABELS)]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name : str
        What is simulated.
    speakers : tuple of int
        Number of speakers of each group; for ``within``, all speakers have clips in every group.
    clips : int
        Clips of each speaker and label.
    within : bool
        Whether the group differs between the clips of a speaker.
    loss : float
        By how much the recall of the last group is lower.
    uneven : bool
        Whether the last group has clips of some labels more often than others.
    """

    name: str
    speakers: tuple[int, ...]
    clips: int = 8
    within: bool = False
    loss: float = 0.0
    uneven: bool = False


CASES = (
    Case("by speaker, no gap", (12, 12)),
    Case("by speaker, no gap", (5, 19)),
    Case("by speaker, no gap", (5, 5)),
    Case("by speaker, no gap", (6, 6, 6, 6)),
    Case("by speaker, no gap", (40, 40)),
    Case("by speaker, gap 10 points", (12, 12), loss=0.1),
    Case("by speaker, gap 10 points", (40, 40), loss=0.1),
    Case("within speakers, no gap", (12, 12), within=True),
    Case("within speakers, no gap, unequal labels", (12, 12), within=True, uneven=True),
    Case("within speakers, gap 10 points", (12, 12), within=True, loss=0.1),
)  # fmt: skip


def simulate(case: Case, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    """Draw truth, predictions, groups and speakers of the clips."""
    n, n_groups = sum(case.speakers), len(case.speakers)
    speaker = np.repeat(np.arange(n), N_LABELS * case.clips)
    truth = np.tile(np.repeat(np.arange(N_LABELS), case.clips), n)
    if case.within:
        share = 0.2 + 0.2 * truth if case.uneven else 0.5
        group = (rng.random(len(truth)) < share).astype(int)
    else:
        group = np.repeat(np.arange(n_groups), case.speakers)[speaker]
    recall = rng.beta(6, 4, n)[speaker] - case.loss * (group == n_groups - 1)
    right = rng.random(len(truth)) < recall
    wrong = (truth + rng.integers(1, N_LABELS, len(truth))) % N_LABELS
    names = np.array(LABELS)
    predicted = names[np.where(right, truth, wrong)]
    return names[truth], predicted, group.astype(str), speaker.astype(str)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=500, help="simulations for each row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| groups | speakers | p < 0.05 | interval contains the gap |\n|---|---:|---:|---:|")
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([options.seed, number])
        significant, covered, intervals = 0, 0, 0
        for _ in range(options.repeat):
            truth, predicted, groups, speakers = simulate(case, rng)
            gap = largest_gap(truth, predicted, groups, speakers, speakers, LABELS)
            assert gap
            significant += gap.p < 0.05
            last = str(len(case.speakers) - 1)
            true = case.loss * ((gap.lowest == last) - (gap.highest == last))
            covered += gap.difference.low <= true <= gap.difference.high
            intervals += not np.isnan(gap.difference.low)
        share = f"{100 * covered / intervals:.1f} %" if len(case.speakers) == 2 else ""
        sizes = " and ".join(map(str, case.speakers)) if not case.within else sum(case.speakers)
        print(f"| {case.name} | {sizes} | {100 * significant / options.repeat:.1f} % | {share} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
