"""The options of a run: what is predicted, how clips are divided, and what is fitted.

They import nothing heavy: the command line reads its options, their defaults and their help here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import UserError

#: What ``labels`` adds to a description of what heads are trained on.
_LABELS_IN_WORDS = {
    "soft": ", weighted by the share of raters of each label",
    "all": ", once for every label that a rater gave",
}
#: Options of :class:`Protocol` that its first version did not have.
_LATER_OPTIONS = ("hold_out", "enrol", "augment", "labels", "ties")


def trained_on(options: Mapping[str, Any]) -> str:
    """Describe what heads are trained on; empty if that is the clips alone, with one label each.

    ``options`` are those of a :class:`Protocol`, as a run records them. Raise TypeError if they
    have other types.
    """
    augment, labels = options.get("augment", ()), options.get("labels", "")
    copies = f" and perturbed copies of each ({', '.join(augment)})" if augment else ""
    weighted = _LABELS_IN_WORDS.get(labels, "")
    return f"the training clips{copies}{weighted}" if copies or weighted else ""


@dataclass(frozen=True)
class TargetOptions:
    """What is predicted, and which speakers are the same person.

    Attributes
    ----------
    target : str
        Column to predict: emotion, sex, intensity, ...; a column of numbers, such as valence, holds
        ratings and is regressed. By default emotion, or the only other column.
    task : {"auto", "labels", "ratings"}
        How the target is read: by default numbers are ratings and words are labels.
    merge : mapping of str to str
        Count a label as another, such as ``calm=neutral``.
    keep : sequence of str
        Labels to keep, after ``merge``, such as ``angry,happy,neutral,sad``; by default all.
    speakers_per_corpus : bool
        Treat a speaker id that occurs in several corpora of a manifest as a different person in
        each; by default it is one person.
    similar_speakers : {"refuse", "merge", "separate"}
        What to do with speaker ids that differ only in spelling, such as Actor1 and actor01.
    """

    target: str = ""
    task: str = "auto"
    merge: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    speakers_per_corpus: bool = False
    similar_speakers: str = "refuse"

    def __post_init__(self) -> None:
        """Refuse text in place of several values, which would be taken letter by letter."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.default == () and isinstance(value, str):
                raise UserError(f"{each.name}={value!r}: is text; give a list of values")
        if not isinstance(self.merge, Mapping):
            raise UserError(f"merge={self.merge!r}: is no mapping; give a dict of labels")

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON values, which name a run."""
        return asdict(self)


@dataclass(frozen=True)
class FoldOptions(TargetOptions):
    """What is predicted, and how clips are divided into folds.

    The options of :class:`TargetOptions` and:

    Attributes
    ----------
    split : str
        ``loso``: leave one speaker out; ``kfold:N``: N folds grouped by speaker; ``standard``: the
        usual folds of each corpus; ``emobox``: the folds published by EmoBox; ``file:FOLDS.csv``: a
        table with the columns fold and speaker, or fold and path; ``holdout:70/10/20``: per cent of
        the speakers, drawn once, to train, validate and test on; ``random:N``,
        ``random:70/10/20``: speakers are shared on purpose, to show how much that inflates scores;
        ``column:NAME``: the values of a column in up to five parts, speakers shared as well;
        ``partition:TEST``: the partitions that the corpus publishes (the column split), such as
        ``partition:Test1`` of MSP-Podcast.
    group : str, optional
        Keep the speakers of each value of this column, such as a session or a dialogue, on one side
        of every fold. By default the session for IEMOCAP, otherwise each speaker alone.
    seed : int
        Seed of folds, heads, new weights and shuffles.
    labels : {"majority", "soft", "all"}
        How labels of several raters are trained on: the label that most raters gave; the share of
        raters of each label, where every clip counts alike; or every label that a rater gave (not
        in fine-tuning). Scores are against the majority.
    """

    split: str = "loso"
    group: str | None = None
    seed: int = 0
    labels: str = "majority"


@dataclass(frozen=True)
class Protocol(FoldOptions):
    """All options of a run of heads, besides the heads.

    The options of :class:`TargetOptions`, those of :class:`FoldOptions` and:

    Attributes
    ----------
    layers : str
        Layers to select from inside each fold (``all``, ``3``, ``6-9``, ``3,6``), or a combination
        of layers: ``mean``, ``weighted`` (weights learnt inside each fold), or ``concat:3,6,9``.
    pooling : str, optional
        Which of the cached poolings to use, joined by commas; by default all.
    normalise : {"none", "speaker"}
        ``speaker`` standardises the clips of each speaker separately. This is transductive: it
        assumes many clips of a new speaker, and the scores are marked accordingly.
    permute_labels : bool
        Shuffle labels within speakers: scores must drop to chance.
    train_on : sequence of str
        Corpora of the cache to train on; by default all.
    test_on : sequence of str
        Corpora of the cache to test on, over the labels that both sides have; by default those
        trained on, divided by ``split``.
    hold_out : str, optional
        Also hold out the values of this column, such as statement (the sentence): clips are tested
        by heads that were trained on other speakers with other values. More than five values are
        divided into five parts. For the splits loso, kfold:N, standard, emobox and file.
    enrol : sequence of int
        Also measure what so many unlabelled clips of each test speaker are worth, such as
        0,1,2,4,8,16,32: the heads are adapted to them and scored on the speaker's other clips.
        Bundles of heads for which this pays can then be adapted to a speaker.
    augment : sequence of str
        Also train on perturbed copies of the training clips, such as noise:20 or telephone, which
        ``serpipe extract --augment`` has cached. Only the clips themselves are tested.
    ties : {"omit", "score"}
        What to do with test clips without a majority of raters: leave them out of all scores;
        or predict them as well, and include them in the scores of probabilities against the labels
        of all raters, but not in those against the majority, such as UAR.
    """

    layers: str = "all"
    pooling: str | None = None
    normalise: str = "none"
    permute_labels: bool = False
    train_on: Sequence[str] = ()
    test_on: Sequence[str] = ()
    hold_out: str | None = None
    enrol: Sequence[int] = ()
    augment: Sequence[str] = ()
    ties: str = "omit"

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON values, which name a run.

        Options that did not exist in earlier versions are omitted if they are not used, so that
        runs keep their names.
        """
        options = asdict(self)
        for name in _LATER_OPTIONS:
            if options[name] in (getattr(Protocol, name), []):
                del options[name]
        return options
