"""The kinds of split, read from the name of a split in one place."""

from enum import StrEnum


class SplitKind(StrEnum):
    """How a split divides the clips; its name begins with the value, up to the colon."""

    LOSO = "loso"
    KFOLD = "kfold"
    STANDARD = "standard"
    EMOBOX = "emobox"
    FILE = "file"
    HOLDOUT = "holdout"
    RANDOM_FOLDS = "random:N"
    RANDOM_HOLDOUT = "random:A/B/C"
    COLUMN = "column"
    PARTITION = "partition"
    CROSS_CORPUS = "cross"
    NOTHING_TRAINED = "none"
    OTHER = ""

    @classmethod
    def of(cls, split: str) -> "SplitKind":
        """Return the kind of a split from its name, such as ``"kfold:5"``.

        A name that this version does not know is ``OTHER``: runs of other versions still open.
        """
        kind, _, argument = split.partition(":")
        if kind == "random":
            return cls.RANDOM_HOLDOUT if "/" in argument else cls.RANDOM_FOLDS
        return cls(kind) if kind in set(cls) else cls.OTHER

    @property
    def holds_out(self) -> bool:
        """Whether there is a single division into training, validation and test clips."""
        return self in (SplitKind.HOLDOUT, SplitKind.RANDOM_HOLDOUT, SplitKind.PARTITION)

    @property
    def shares_speakers(self) -> bool:
        """Whether speakers are on both sides, so that scores are inflated."""
        return self in (SplitKind.RANDOM_FOLDS, SplitKind.RANDOM_HOLDOUT, SplitKind.COLUMN)

    @property
    def can_hold_out_column(self) -> bool:
        """Whether its folds keep speakers apart and test every clip, so that a column can, too."""
        return self in (
            SplitKind.LOSO,
            SplitKind.KFOLD,
            SplitKind.STANDARD,
            SplitKind.EMOBOX,
            SplitKind.FILE,
        )

    @property
    def draws_by_seed(self) -> bool:
        """Whether the folds depend on the seed."""
        return self in (
            SplitKind.KFOLD,
            SplitKind.HOLDOUT,
            SplitKind.RANDOM_FOLDS,
            SplitKind.RANDOM_HOLDOUT,
        )

    @property
    def keeps_groups(self) -> bool:
        """Whether groups of speakers are kept together by construction."""
        return self in (SplitKind.LOSO, SplitKind.KFOLD, SplitKind.HOLDOUT)

    @property
    def trains(self) -> bool:
        """Whether anything is trained on the clips."""
        return self is not SplitKind.NOTHING_TRAINED
