"""Which output of a trained model stands for which label of the clips, or for their rating."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora.emotions import shared_word
from ..errors import UserError

#: What is said of the probabilities of a network, :func:`label_shares`.
SOFTMAX = "not calibrated (softmax of the model's outputs, usually overconfident)"
#: What transformers calls outputs that nobody has named.
_NAMELESS = re.compile(r"label_\d+", re.IGNORECASE)


def rename_outputs(outputs: Sequence[str], changes: Mapping[str, str]) -> tuple[str, ...]:
    """Give outputs of a model other names; several may have the same.

    Parameters
    ----------
    outputs : sequence of str
        As the model calls them.
    changes : mapping of str to str
        Old name to new name.

    Returns
    -------
    tuple of str

    Raises
    ------
    UserError
        If the model has no such output.
    """
    for old, new in changes.items():
        if old not in outputs:
            raise UserError(
                f"--model-map {old}={new}: the model has no label {old!r}; expected one of "
                f"{', '.join(outputs)}; mend it"
            )
    return tuple(changes.get(name, name) for name in outputs)


def match_labels(outputs: Sequence[str], labels: Sequence[str]) -> NDArray[np.intp]:
    """Find the label of the clips that each output stands for.

    Parameters
    ----------
    outputs : sequence of str
        Of the model.
    labels : sequence of str
        Of the clips.

    Returns
    -------
    ndarray of int, shape (n_outputs,)
        Place among ``labels``: of the one with the same name, in whatever case; else of the one
        with the same shared word for an emotion; -1 if no clip has it. Several outputs may stand
        for one label.

    Raises
    ------
    UserError
        If no output stands for a label, an output could stand for two, or outputs have no names.
    """
    fix = "rename labels of the model with --model-map"
    places = np.full(len(outputs), -1)
    for number, output in enumerate(outputs):
        named = [place for place, label in enumerate(labels) if label.lower() == output.lower()]
        word = shared_word(output.lower())
        found = named or [n for n, label in enumerate(labels) if shared_word(label.lower()) == word]
        if len(found) > 1:
            both = " and ".join(labels[place] for place in found)
            raise UserError(
                f"the model's label {output} could be {both} of the clips; expected one of them; "
                f"join these with --map, or {fix}"
            )
        if found:
            places[number] = found[0]
        elif _NAMELESS.fullmatch(output):
            raise UserError(
                f"the model calls a label {output}, which says nothing; expected names; find in "
                f"its description what its {len(outputs)} labels are, and name each: "
                f"--model-map {output}={labels[0]}"
            )
    unsaid = [label for place, label in enumerate(labels) if place not in places]
    if unsaid:
        raise UserError(
            f"label {unsaid[0]} of the clips: the model cannot say it; expected one of "
            f"{', '.join(outputs)}; leave it out with --keep, count it as another with --map, or "
            f"{fix}"
        )
    return places


def find_rating(outputs: Sequence[str], target: str) -> int:
    """Find the output that gives a rating, and return its place.

    Parameters
    ----------
    outputs : sequence of str
        Of the model.
    target : str
        The column of ratings.

    Raises
    ------
    UserError
        If there is not one output of that name, in whatever case.
    """
    found = [n for n, output in enumerate(outputs) if output.lower() == target.lower()]
    if len(found) != 1:
        raise UserError(
            f"--target {target}: {len(found)} outputs of the model have that name; expected one "
            f"among {', '.join(outputs)}; name it with --model-map {outputs[0]}={target}"
        )
    return found[0]


def label_shares(
    logits: NDArray[np.float64], places: NDArray[np.intp], n_labels: int
) -> NDArray[np.float64]:
    """Return the probability of each label of the clips.

    Parameters
    ----------
    logits : ndarray of float64, shape (n_clips, n_outputs)
        Of the model.
    places : ndarray of int, shape (n_outputs,)
        From :func:`match_labels`.
    n_labels : int
        How many labels the clips have.

    Returns
    -------
    ndarray of float64, shape (n_clips, n_labels)
        The softmax over all outputs, added up by label. What goes to outputs that stand for none
        is missing from the sum of a row.
    """
    shares: NDArray[Any] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    of_label = np.zeros((len(logits), n_labels))
    for output, place in enumerate(places.tolist()):
        if place >= 0:
            of_label[:, place] += shares[:, output]
    return of_label
