"""Which layers are candidates, and the embeddings of each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from ..errors import UserError
from ..features.names import FINAL_NORM
from .calibration import label_weights

LAYERS = "all|3|6-9|3,6|mean|weighted|concat:3,6,9"
#: Inverse strength of the L2 penalty under which layer weights are learnt.
WEIGHTS_C = 0.01


@dataclass(frozen=True)
class Candidate:
    """What a head is fitted on: a layer, or several combined."""

    name: str  #: Name in tables and file names, such as ``"3"`` or ``"concat-3-6"``.
    layers: tuple[str, ...]
    how: str = "single"  #: ``"single"``, ``"mean"``, ``"concat"`` or ``"weighted"``.

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Read a candidate from its entry in ``bundle.json``."""
        return cls(str(entry["name"]), tuple(entry["layers"]), str(entry["how"]))

    def join(self, embeddings: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Combine the embeddings of its layers, shape (n_clips, n_features) each.

        The result has n_features times the number of layers for ``concat``. For ``weighted``, whose
        weights are learnt inside each fold, it has the shape (n_layers, n_clips, n_features).
        """
        if self.how == "concat":
            return np.concatenate(embeddings, axis=1)
        if self.how == "weighted":
            return np.stack(embeddings)
        if self.how == "mean":
            return np.mean(embeddings, axis=0, dtype=np.float32)  # type: ignore[no-any-return]
        (single,) = embeddings
        return single


def choose_layers(text: str, layers: Sequence[str]) -> tuple[Candidate, ...]:
    """Turn the value of ``--layers`` into candidates, in the order of the cache.

    It is ``"all"``; single layers and ranges joined by commas, such as ``"3"``, ``"6-9"`` or
    ``"3,6"``; ``"mean"`` and ``"weighted"`` over the encoder's input and all its blocks; or
    ``"concat:3,6,9"``. Raise UserError if it is not one of those or names a layer that does not
    exist.
    """
    # The state after the final norm is that of the last block again: in a sum it would count twice.
    states = tuple(layer for layer in layers if layer != FINAL_NORM)
    if text == "all":
        return tuple(Candidate(layer, (layer,)) for layer in layers)
    if text in ("mean", "weighted"):
        return (Candidate(text, states, text),)
    kind, _, listed = text.rpartition(":")
    chosen: list[str] = []
    for part in listed.split(","):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        chosen += map(str, range(int(span[1]), int(span[2]) + 1)) if span else [part]
    unknown = [layer for layer in chosen if layer not in layers]
    if unknown or not chosen or kind not in ("", "concat"):
        raise UserError(
            f"--layers {text}: {'no layer ' + unknown[0] if unknown else 'not understood'}; "
            f"use {LAYERS} with layers among {', '.join(layers)}"
        )
    ordered = tuple(layer for layer in layers if layer in chosen)
    if kind == "concat":
        return (Candidate("concat-" + "-".join(ordered), ordered, "concat"),)
    return tuple(Candidate(layer, (layer,)) for layer in ordered)


def weigh(X: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sum layers, shape (n_layers, n_clips, n_features), by weights from :func:`learn_weights`."""
    total = np.zeros(X.shape[1:], np.float32)
    for layer, weight in zip(X, weights, strict=True):
        total += np.float32(weight) * layer
    return total


def learn_weights(
    X: NDArray[np.float32],
    labels: NDArray[np.str_],
    row_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Learn how much each layer should count, together with a linear classifier on their sum.

    Minimises the cross-entropy of multinomial logistic regression on ``sum_l softmax(a)_l X_l /
    r_l`` over the classifier and ``a``, where ``r_l`` is the root mean square of the layer about
    its mean, so that a layer does not count more for being larger. The classifier is penalised like
    logistic regression with C = 0.01, and then discarded.

    Parameters
    ----------
    X : ndarray of float32, shape (n_layers, n_clips, n_features)
        Training clips alone.
    labels : ndarray of str, shape (n_clips,)
        Their labels.
    row_weights : ndarray of float64, shape (n_clips,), optional
        Their weights, as for :func:`~serpipe.pipeline.calibration.label_weights`.

    Returns
    -------
    ndarray of float64, shape (n_layers,)
        ``softmax(a)_l / r_l``, scaled to a sum of 1.

    References
    ----------
    Yang et al. (2021), *SUPERB: Speech processing Universal PERformance Benchmark*, Interspeech,
    section 3.2: the weighted sum of hidden states.
    """
    n_layers, n_clips, n_features = X.shape
    codes = np.unique(labels, return_inverse=True)[1]
    n_classes = int(codes.max()) + 1
    clip_weight = label_weights(labels, row_weights).astype(np.float32)
    centred = X - X.mean(axis=1, keepdims=True)
    size = np.sqrt(np.mean(centred**2, axis=(1, 2), dtype=np.float64))
    size[size == 0] = 1.0
    centred /= size[:, None, None].astype(np.float32)
    spread = centred.mean(axis=0).std(axis=0)
    centred /= np.where(spread > 0, spread, 1)
    penalty = 1 / (WEIGHTS_C * (n_clips if row_weights is None else float(row_weights.sum())))
    clips = np.arange(n_clips)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        share = softmax(flat[:n_layers])
        bias = flat[n_layers : n_layers + n_classes].astype(np.float32)
        W = flat[n_layers + n_classes :].reshape(n_features, n_classes).astype(np.float32)
        summed = weigh(centred, share)
        log_probability = log_softmax(summed @ W + bias, axis=1)
        value = -float(clip_weight @ log_probability[clips, codes])
        error = np.exp(log_probability)
        error[clips, codes] -= 1
        error *= clip_weight[:, None]
        by_feature = error @ W.T
        by_share = np.array([np.vdot(layer, by_feature) for layer in centred], dtype=np.float64)
        gradient = np.concatenate(
            [
                share * (by_share - share @ by_share),
                error.sum(axis=0),
                (summed.T @ error + penalty * W).ravel(),
            ]
        )
        return value + 0.5 * penalty * float(np.vdot(W, W)), gradient

    start = np.zeros(n_layers + n_classes + n_features * n_classes)
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-4})
    weights: NDArray[np.float64] = softmax(result.x[:n_layers]) / size
    weights /= weights.sum()
    return weights
