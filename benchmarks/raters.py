"""What training on the labels of all raters is worth, with simulated raters of RAVDESS.

python benchmarks/raters.py --cache features/cache/ravdess-whisper-tiny.en.h5

Three to five raters label each clip. A rater gives the acted emotion with probability 0.5, of clips
of strong intensity 0.7; otherwise two times in three an emotion that is often confused with it, and
else any emotion. Heads are trained with each value of --labels on the same layer and folds. UAR is
over the clips with a majority, the other scores over all clips (--ties score).
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import serpipe
from serpipe.artifacts.report.probabilities import read_probabilities
from serpipe.artifacts.report.rater_table import raters_table
from serpipe.features.cache import Cache, open_cache
from serpipe.pipeline.options import Protocol

#: Emotions of RAVDESS that listeners confuse with each other.
CONFUSED = {
    "angry": "disgust", "calm": "neutral", "disgust": "angry", "fearful": "sad",
    "happy": "surprised", "neutral": "calm", "sad": "fearful", "surprised": "happy",
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--layer", default="3")
    parser.add_argument("--split", default="kfold:5")
    parser.add_argument("--heads", default="lr,lda")
    parser.add_argument("--labels", default="majority,soft,all")
    parser.add_argument("--out", type=Path, help="folder for the runs; by default temporary")
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache)
    print("| head | `--labels` | UAR | cross-entropy | Jensen-Shannon | macro-F1 above 1/C |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        votes = folder / "votes.csv"
        simulate(cache, votes)
        for labels in arguments.labels.split(","):
            protocol = Protocol(
                layers=arguments.layer, split=arguments.split, labels=labels, ties="score"
            )
            results = serpipe.fit(
                cache, arguments.heads, protocol, ratings=votes, out=folder / labels, jobs=1
            )
            table = raters_table(results, read_probabilities(results))
            assert table is not None
            for record in table.records:
                head = str(record["head"])
                uar = results.scores(head)["uar"].value
                print(
                    f"| `{head}` | `{labels}` | {100 * uar:.1f} | {record['cross_entropy']:.3f} | "
                    f"{record['jensen_shannon']:.3f} | {100 * float(record['macro_f1']):.1f} |",
                    flush=True,
                )
    print(f"entropy of the shares of raters: {record['entropy']:.3f}")


def simulate(cache: Cache, path: Path) -> None:
    """Write a table with the label of each rater."""
    draw = np.random.default_rng(0)
    clips = cache.clips
    emotions = np.unique(clips["emotion"]).tolist()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "rater", "perceived"])
        for name, acted, intensity in zip(
            clips["name"].tolist(), clips["emotion"].tolist(), clips["intensity"].tolist(),
            strict=True,
        ):  # fmt: skip
            for rater in range(draw.integers(3, 6)):
                label = acted
                if draw.random() >= (0.7 if intensity == "strong" else 0.5):
                    label = CONFUSED[acted]
                    if draw.random() >= 2 / 3:
                        label = emotions[draw.integers(len(emotions))]
                writer.writerow([name, f"rater {rater}", label])


if __name__ == "__main__":
    main()
