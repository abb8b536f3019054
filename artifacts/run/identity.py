"""What makes two runs the same: hashes of their data and settings, and the name of the folder."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...pipeline.folds import Fold
from ...pipeline.split_kind import SplitKind

#: Part of the settings that name a run: raised when they are written down differently.
SETTINGS_VERSION = 2


def content_hash(
    key: Mapping[str, Any], checksums: Mapping[str, str], clips: Mapping[str, NDArray[Any]]
) -> str:
    """Return the SHA-256 hash of a cache's key, its checksums and the clip table."""
    table = {name: column.tolist() for name, column in clips.items()}
    text = json.dumps([key, checksums, table], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def column_hash(*columns: Sequence[Any]) -> str:
    """Return the SHA-256 hash of columns of a clip table, whatever the order of the clips."""
    rows = sorted(tuple(map(str, row)) for row in zip(*columns, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def tested_hashes(
    clips: Mapping[str, NDArray[Any]], labels: NDArray[Any], folds: Sequence[Fold]
) -> dict[str, Any]:
    """Return the fields ``tested`` and ``folds`` of a run summary, from the tested clips."""
    paths = clips["path"].tolist()
    return {
        "tested": column_hash(paths, labels.tolist()),
        "folds": column_hash(paths, folds_of_tested(folds)),
    }


def folds_of_tested(folds: Sequence[Fold]) -> list[str]:
    """Return the fold of each tested clip, in the order of the clips."""
    fold_of = {int(row): fold.name for fold in folds for row in fold.test}
    return [fold_of[row] for row in sorted(fold_of)]


def run_name(cache: Path, split: str, heads: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return the name of a run's folder: the same command on the same data has the same name.

    It consists of cache, split, heads and a hash of ``settings``: JSON values of everything else
    that the results depend on.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    kind, _, argument = split.partition(":")
    split_kind = SplitKind.of(split)
    if split_kind in (SplitKind.CROSS_CORPUS, SplitKind.PARTITION):  # names from manifests
        argument = "-" + re.sub(r"[^A-Za-z0-9]+", "-", argument)[:60]
    elif split_kind.holds_out:
        argument = argument.replace("/", "-")
    elif not argument.isdecimal():
        argument = ""
    return f"{cache.stem}-{kind}{argument}-{'+'.join(heads)}-{digest}"
