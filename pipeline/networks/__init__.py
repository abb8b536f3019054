"""Small networks trained from scratch: what a frozen encoder is to be compared with.

``NETWORKS[name](n_outputs, seed)`` makes a network on the CPU, in training mode. ``n_outputs`` is
the number of labels, or 1 for a rating.

``network(waveforms, lengths)`` takes float32 waveforms at 16 kHz, shape (n_clips, n_samples),
padded at their ends with anything, and the number of samples of each clip, int64, shape (n_clips,).
It returns logits or ratings, float32, shape (n_clips, n_outputs). In evaluation mode a clip's
logits depend neither on the padding nor, except for rounding, on the other clips of the batch.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from .cnn import Cnn
from .s4 import S4Network


def _seeded(network: Callable[[int], nn.Module], n_outputs: int, seed: int) -> nn.Module:
    """Make a network with weights drawn by a seed; torch's own random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return network(n_outputs)


#: What makes each network, by name.
NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "cnn": partial(_seeded, Cnn),
    "s4": partial(_seeded, S4Network),
}
