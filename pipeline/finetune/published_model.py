"""Trained models of others, of architectures that transformers does not have."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class PublishedConfig:
    """What is read from the configuration of a model, with the names of transformers."""

    hidden_size: int
    #: The name of each output.
    id2label: Mapping[int, str]
    #: ``"single_label_classification"`` or ``"regression"``.
    problem_type: str


class PublishedModel(nn.Module):
    """A trained model that serpipe implements itself.

    Padding in a batch changes no score. ``head`` describes the head for the records of runs.
    """

    def __init__(self, config: PublishedConfig, head: str) -> None:
        super().__init__()
        self.config, self.head = config, head

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return ``logits`` or ratings, shape (n_clips, n_outputs).

        ``input_values``, shape (n_clips, n_samples), are padded at the end where
        ``attention_mask``, of the same shape, is 0.
        """
        raise NotImplementedError
