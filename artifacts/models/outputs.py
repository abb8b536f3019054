"""Match the outputs of a trained model with the labels of clips, or with their rating."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ...corpora.emotions import shared_word
from ...errors import UserError

#: Description of the probabilities of :func:`label_probabilities`.
SOFTMAX = "not calibrated (softmax of the model's outputs, usually overconfident)"
#: How transformers names outputs that have no name.
_UNNAMED = re.compile(r"label_\d+", re.IGNORECASE)


def rename_outputs(outputs: Sequence[str], changes: Mapping[str, str]) -> tuple[str, ...]:
    """Rename outputs of a model, given old and new names; several may get the same name.

    Raise UserError if the model has no such output.
    """
    for old, new in changes.items():
        if old not in outputs:
            raise UserError(
                f"--model-map {old}={new}: the model has no label {old!r}; choose one of "
                f"{', '.join(outputs)}"
            )
    return tuple(changes.get(name, name) for name in outputs)


def match_labels(outputs: Sequence[str], labels: Sequence[str]) -> NDArray[np.intp]:
    """Find the label of the clips that each output of a model stands for.

    Return indices into ``labels``, shape (n_outputs,): of the same name in any case, else of the
    same shared word for an emotion; -1 if there is none. Several outputs may stand for one label.
    Raise UserError if no output stands for a label, an output could stand for two, or outputs have
    no names.
    """
    remedy = "rename labels of the model with --model-map"
    indices = np.full(len(outputs), -1)
    for number, output in enumerate(outputs):
        word = shared_word(output.lower())
        matches = [n for n, label in enumerate(labels) if label.lower() == output.lower()] or [
            n for n, label in enumerate(labels) if shared_word(label.lower()) == word
        ]
        if len(matches) > 1:
            both = " and ".join(labels[index] for index in matches)
            raise UserError(
                f"the model's label {output} could be {both} of the clips; join these with --map, "
                f"or {remedy}"
            )
        if matches:
            indices[number] = matches[0]
        elif _UNNAMED.fullmatch(output):
            raise UserError(
                f"the model's label {output} is only a number; look up the meaning of its "
                f"{len(outputs)} labels, and name each: --model-map {output}={labels[0]}"
            )
    missing = [label for index, label in enumerate(labels) if index not in indices]
    if missing:
        raise UserError(
            f"label {missing[0]} of the clips: the model has only {', '.join(outputs)}; omit it "
            f"with --keep, count it as another with --map, or {remedy}"
        )
    return indices


def find_rating(outputs: Sequence[str], target: str) -> int:
    """Return the index of the output that gives a rating.

    Raise UserError unless exactly one output has the name of the target, in any case.
    """
    matches = [n for n, output in enumerate(outputs) if output.lower() == target.lower()]
    if len(matches) != 1:
        raise UserError(
            f"--target {target}: {len(matches)} outputs of the model ({', '.join(outputs)}) have "
            f"that name; name one with --model-map {outputs[0]}={target}"
        )
    return matches[0]


def label_probabilities(
    logits: NDArray[np.float64], indices: NDArray[np.intp], n_labels: int
) -> NDArray[np.float64]:
    """Return the probability of each label of the clips, shape (n_clips, n_labels).

    It is the softmax over all outputs, of shape (n_clips, n_outputs), summed by label; ``indices``
    are from :func:`match_labels`. A row sums to less than one where outputs stand for no label.
    """
    of_outputs = softmax(logits, axis=1)
    probabilities = np.zeros((len(logits), n_labels))
    for output, index in enumerate(indices.tolist()):
        if index >= 0:
            probabilities[:, index] += of_outputs[:, output]
    return probabilities
