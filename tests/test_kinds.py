"""Kinds of splits and marks are read from names in one place; stages import only earlier stages."""

import ast

import pytest
from serpipe.pipeline.marks import Mark, MarkKind
from serpipe.pipeline.split_kind import SplitKind

from .conftest import ROOT

STAGES = ("corpora", "features", "pipeline", "artifacts", "serving")


@pytest.mark.parametrize(
    ("split", "kind"),
    [
        ("loso", SplitKind.LOSO),
        ("kfold:5", SplitKind.KFOLD),
        ("file:folds.csv", SplitKind.FILE),
        ("holdout:70/10/20", SplitKind.HOLDOUT),
        ("random:5", SplitKind.RANDOM_FOLDS),
        ("random:70/10/20", SplitKind.RANDOM_HOLDOUT),
        ("cross:emodb>ravdess", SplitKind.CROSS_CORPUS),
        ("none", SplitKind.NOTHING_TRAINED),
        ("of another version:7", SplitKind.OTHER),
        ("", SplitKind.OTHER),
    ],
)
def test_the_kind_of_a_split_follows_from_its_name(split: str, kind: SplitKind) -> None:
    assert SplitKind.of(split) is kind
    assert kind.holds_out is ("/" in split)
    assert kind.trains is (split != "none")


@pytest.mark.parametrize("name", [*MarkKind, "A MARK OF ANOTHER VERSION"])
def test_a_mark_survives_being_written_as_a_warning(name: str) -> None:
    mark = Mark(name, "MODEL: was trained on 8 clips; see SER007")
    assert Mark.parse(str(mark)) == mark


def test_a_stage_imports_only_from_earlier_stages() -> None:
    for number, stage in enumerate(STAGES):
        later = STAGES[number + 1 :]
        for path in (ROOT / stage).rglob("*.py"):
            levels_to_root = len(path.relative_to(ROOT).parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == levels_to_root:
                    assert (node.module or "").partition(".")[0] not in later, path
