"""Initialise the head of a model with the solution of the frozen probe.

The head of the standard class is linear: a weighted sum of layers, a projection, the mean over
frames, a classifier. So a linear probe on the mean of one layer is a special case of it, and can be
written into its weights.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...features.names import FINAL_NORM
from ..heads import HEADS, Params
from .data import Examples
from .options import TrainingOptions
from .train import run_batches

#: The heads whose solution can be written into the model.
LINEAR = ("lr", "ridge")
#: Difference between the weight of the probe's layer and those of the others before the softmax:
#: each other layer counts 1/22026 of it, and can still grow.
LAYER_GAP = 10.0


@dataclass(frozen=True)
class ProbeChoice:
    """The choices of the frozen probe in a fold."""

    head: str  #: One of ``LINEAR``.
    layer: str  #: Name of a single layer.
    params: Params

    @property
    def identity(self) -> dict[str, Any]:
        """The choice as it enters the name of a run; its keys must not change."""
        return {"head": self.head, "layer": self.layer, "point": dict(self.params)}


def layer_index(layer: str, n_blocks: int) -> int:
    """Return the index of a layer, named as in a cache, among the states that transformers sums.

    0 is the input of the first block. Where a norm follows the last of the ``n_blocks`` blocks,
    transformers has only one state for the two: the output of the block, and for Whisper that of
    the norm.
    """
    return n_blocks if layer == FINAL_NORM else int(layer)


def pooled_states(
    model: Any, examples: Examples, options: TrainingOptions, device: str
) -> NDArray[np.float32]:
    """Return the mean over time of each layer of the encoder, as the head of the class computes it.

    The model is from :meth:`EncoderWithHead.build`; of the options only the batch size is used.
    Shape (n_layers, n_clips, width), in the order of the examples. For Whisper the mean is over its
    whole window.
    """
    pooled: NDArray[np.float32] | None = None
    in_float32 = replace(options, precision="float32")
    batches = run_batches(model, examples, in_float32, device, output_hidden_states=True)
    for rows, inputs, outputs in batches:
        states = torch.stack(outputs.hidden_states)
        mask = inputs.get("attention_mask")
        if mask is None:
            means = states.mean(dim=2)
        else:
            frames = model._get_feature_vector_attention_mask(states.shape[2], mask)
            share = frames[None, :, :, None].to(states.dtype)
            means = (states * share).sum(dim=2) / share.sum(dim=2)
        if pooled is None:
            pooled = np.empty((len(states), len(examples), means.shape[-1]), np.float32)
        pooled[:, rows] = means.float().cpu().numpy()
    assert pooled is not None
    return pooled


def start_from_probe(
    model: Any,
    choice: ProbeChoice,
    states: NDArray[np.float32],
    labels: NDArray[Any],
    scale: tuple[float, float],
    seed: int,
    weights: NDArray[np.float64] | None = None,
) -> None:
    """Fit the probe to the training clips, and write it into the head of a model.

    Parameters
    ----------
    model : PreTrainedModel
        From :meth:`EncoderWithHead.build`; afterwards its scores are the probe's, except for the
        small weights of the other layers.
    choice : ProbeChoice
        Head, layer and hyper-parameters.
    states : ndarray of float32, shape (n_layers, n_clips, width)
        From :func:`pooled_states`, of the training clips alone.
    labels : ndarray of str or float64, shape (n_clips,)
        Their labels or ratings.
    scale : (float, float)
        Mean and deviation by which ratings are standardised for the training.
    seed : int
        Of the probe.
    weights : ndarray of float64, shape (n_clips,), optional
        Weights of the clips, where they have a row for each label that raters gave.
    """
    index = layer_index(choice.layer, len(states) - 1)
    speakers = np.full(len(labels), "")
    given: dict[str, Any] = {} if weights is None else {"weights": weights}
    probe = HEADS[choice.head](choice.params, seed).fit(states[index], labels, speakers, **given)
    scaler, linear = probe.model[0], probe.model[-1]
    names = [model.config.id2label[n] for n in range(model.config.num_labels)]
    rows, bias = _of_each_output(linear, labels, names, scale)
    rows = rows / scaler.scale_
    bias = bias - rows @ scaler.mean_
    n_outputs = len(rows)
    with torch.no_grad():
        model.layer_weights.zero_()
        model.layer_weights[index] = LAYER_GAP
        # The first rows of the projection are the probe; the others stay random, and have no effect
        # until the classifier learns to use them.
        model.projector.weight[:n_outputs] = torch.tensor(rows, dtype=torch.float32)
        model.projector.bias[:n_outputs] = torch.tensor(bias, dtype=torch.float32)
        model.classifier.weight.zero_()
        model.classifier.weight[:, :n_outputs] = torch.eye(n_outputs)
        model.classifier.bias.zero_()


def _of_each_output(
    linear: Any, labels: NDArray[Any], names: list[str], scale: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights and biases of each output of the model, for standardised states."""
    if labels.dtype.kind == "f":
        mean, deviation = scale
        return linear.coef_[None, :] / deviation, (np.array([linear.intercept_]) - mean) / deviation
    weights, bias = np.asarray(linear.coef_), np.asarray(linear.intercept_)
    if len(weights) == 1:  # for two labels scikit-learn has only the difference
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    rows = np.searchsorted(names, linear.classes_)
    all_weights = np.zeros((len(names), weights.shape[1]))
    biases = np.full(len(names), bias.min() - 20.0)  # for labels that no training clip has
    all_weights[rows], biases[rows] = weights, bias
    return all_weights, biases
