"""Small networks trained from scratch: what a frozen encoder is to be compared with.

``build(n_outputs, seed, **sizes)`` makes a network on the CPU, in training mode.
``n_outputs`` is the number of labels, or 1 for a rating; ``seed`` is of the first weights (the same
seed gives the same weights, and torch's own random numbers go on as if none had been drawn); the
sizes are each network's own, and all have defaults.

``network(waveforms, lengths)`` takes float32 waveforms at 16 kHz, shape (n_clips, n_samples),
padded at their ends with anything, and the number of samples of each clip, int64, shape (n_clips,).
It returns logits or ratings, float32, shape (n_clips, n_outputs). In evaluation mode a clip's
logits depend neither on the padding nor, but for rounding, on the other clips of the batch.
"""

from collections.abc import Callable, Mapping

from torch import nn

from . import cnn, s4

#: What makes each network, by name.
NETWORKS: Mapping[str, Callable[..., nn.Module]] = {"cnn": cnn.build, "s4": s4.build}
