"""Begin where probing ended: the head of the model as the frozen probe's solution.

The head of the standard class is linear up to its scores: a weighted sum of layers, a projection,
the mean over frames, a classifier. So a linear probe on the mean of one layer is a special case of
it, and can be written into its weights.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...features.names import FINAL_NORM
from ..heads import HEADS, Params
from .data import Collator, Examples
from .options import TrainingOptions
from .train import deterministic, enough_memory

#: The heads whose solution can be written into the model.
LINEAR = ("lr", "ridge")
#: Between the weight of the probe's layer and those of the others, before the softmax: each other
#: layer counts 1/22026 of it, and can still grow.
LAYER_GAP = 10.0


@dataclass(frozen=True)
class ProbeChoice:
    """What the frozen probe chose for a fold.

    Attributes
    ----------
    head : str
        One of ``LINEAR``.
    layer : str
        Name of a single layer.
    params : mapping of str to float
        Its hyper-parameters.
    """

    head: str
    layer: str
    params: Params


def place_of_layer(layer: str, n_blocks: int) -> int:
    """Return where a layer is among the states that transformers sums.

    Parameters
    ----------
    layer : str
        As in a cache.
    n_blocks : int
        Of the encoder.

    Returns
    -------
    int
        From 0, the input of the first block. Where a norm follows the last block, transformers has
        only one of the two, which stands for both: what comes out of the block, and for Whisper
        what comes out of the norm.
    """
    return n_blocks if layer == FINAL_NORM else int(layer)


def pooled_states(
    model: Any, examples: Examples, options: TrainingOptions, device: str
) -> NDArray[np.float32]:
    """Run the encoder over clips and take the mean of each layer, as the head of the class does.

    Parameters
    ----------
    model : PreTrainedModel
        From :meth:`EncoderWithHead.build`.
    examples : Examples
        The clips.
    options : TrainingOptions
        Of these, the batch size is used.
    device : str
        In torch's words.

    Returns
    -------
    ndarray of float32, shape (n_layers, n_clips, width)
        In the order of the examples. Of Whisper the mean over its whole window.
    """
    collate = Collator(examples.sounds.front_end)
    order = np.argsort(-np.asarray(examples.seconds), kind="stable")
    found: NDArray[np.float32] | None = None
    model.to(device).eval()
    with deterministic(), enough_memory(options), torch.inference_mode():
        for start in range(0, len(order), options.batch_size):
            places = order[start : start + options.batch_size].tolist()
            batch = collate([examples[place] for place in places])
            del batch["labels"]
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            states = model(**inputs, output_hidden_states=True).hidden_states
            stacked = torch.stack(states)
            mask = inputs.get("attention_mask")
            if mask is None:
                means = stacked.mean(dim=2)
            else:
                frames = model._get_feature_vector_attention_mask(stacked.shape[2], mask)
                share = frames[None, :, :, None].to(stacked.dtype)
                means = (stacked * share).sum(dim=2) / share.sum(dim=2)
            if found is None:
                found = np.empty((len(states), len(order), means.shape[-1]), np.float32)
            found[:, places] = means.float().cpu().numpy()
    assert found is not None
    return found


def start_from_probe(
    model: Any,
    choice: ProbeChoice,
    states: NDArray[np.float32],
    labels: NDArray[Any],
    scale: tuple[float, float],
    seed: int,
) -> None:
    """Fit the probe to the training clips, and write it into the head of a model.

    Parameters
    ----------
    model : PreTrainedModel
        From :meth:`EncoderWithHead.build`; its scores are the probe's afterwards, but for what the
        other layers still count.
    choice : ProbeChoice
        Head, layer and hyper-parameters.
    states : ndarray of float32, shape (n_layers, n_clips, width)
        From :func:`pooled_states`, of the training clips alone.
    labels : ndarray of str or float64, shape (n_clips,)
        Theirs.
    scale : (float, float)
        Mean and deviation by which ratings are standardised for the training.
    seed : int
        Of the probe.
    """
    place = place_of_layer(choice.layer, len(states) - 1)
    everyone = np.full(len(labels), "")
    probe = HEADS[choice.head](choice.params, seed).fit(states[place], labels, everyone)
    scaler, linear = probe.model[0], probe.model[-1]
    names = [model.config.id2label[n] for n in range(model.config.num_labels)]
    weights, bias = _of_each_output(linear, labels, names, scale)
    weights = weights / scaler.scale_
    bias = bias - weights @ scaler.mean_
    n_outputs = len(weights)
    with torch.no_grad():
        model.layer_weights.zero_()
        model.layer_weights[place] = LAYER_GAP
        # The first rows of the projection are the probe; the others stay random, and count for
        # nothing until the classifier takes them up.
        model.projector.weight[:n_outputs] = torch.tensor(weights, dtype=torch.float32)
        model.projector.bias[:n_outputs] = torch.tensor(bias, dtype=torch.float32)
        model.classifier.weight.zero_()
        model.classifier.weight[:, :n_outputs] = torch.eye(n_outputs)
        model.classifier.bias.zero_()


def _of_each_output(
    linear: Any, labels: NDArray[Any], names: list[str], scale: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a row of weights and a bias for each output of the model, of standardised states."""
    if labels.dtype.kind == "f":
        mean, deviation = scale
        return linear.coef_[None, :] / deviation, (np.array([linear.intercept_]) - mean) / deviation
    weights, bias = np.asarray(linear.coef_), np.asarray(linear.intercept_)
    if len(weights) == 1:  # of two labels scikit-learn has the difference alone
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    rows = np.searchsorted(names, linear.classes_)
    found = np.zeros((len(names), weights.shape[1]))
    biases = np.full(len(names), bias.min() - 20.0)  # labels that no training clip has
    found[rows], biases[rows] = weights, bias
    return found, biases
