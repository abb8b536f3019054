"""emotion2vec+: the encoder, the mean over the frames, and a linear layer for the labels.

The published code is the module ``Emotion2vec`` of FunASR, whose labels are lines of
``tokens.txt``. No published weights have been loaded here: that the files of the hub have this form
is known from that code, and from descriptions of the checkpoint of emotion2vec+ large.
"""

import torch
from torch import nn

from ...errors import UserError
from ...features.checkpoint_files import CheckpointFiles, Loaded, hash_config
from ...features.emotion2vec_files import MODEL_TYPE, is_funasr, read_emotion2vec
from ...features.emotion2vec_network import Emotion2vec
from ...features.families import family_of
from ...files import read_text
from .published_model import PublishedConfig, PublishedModel

HEAD = "mean, linear"
_LABELS_FILE = "tokens.txt"
_MAX_LABEL_BYTES = 1 << 16
#: Labels with this prefix are never chosen.
_UNUSED = "unuse"


class Emotion2vecPlus(PublishedModel):
    """An encoder of emotion2vec with the layer of its labels."""

    def __init__(self, encoder: Emotion2vec, linear: nn.Linear, labels: list[str]) -> None:
        config = PublishedConfig(
            encoder.config.width, dict(enumerate(labels)), "single_label_classification"
        )
        super().__init__(config, HEAD)
        self.encoder, self.proj = encoder, linear

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the ``logits`` of the labels, shape (n_clips, n_labels)."""
        states = self.encoder(input_values, attention_mask)
        if attention_mask is None:
            pooled = states.mean(dim=1)
        else:
            valid = self.encoder.valid_frames(attention_mask, states.shape[1])[:, :, None]
            pooled = torch.where(valid, states, 0.0).sum(dim=1) / valid.sum(dim=1)
        return {"logits": self.proj(pooled)}


def load_emotion2vec_plus(files: CheckpointFiles) -> Loaded | None:
    """Load an emotion2vec+ in the layout of FunASR; None if the files have another layout.

    Raise UserError if it lacks weights or labels, or has no layer of labels, as emotion2vec.
    """
    if not is_funasr(files):
        return None
    labels = _read_labels(files)
    encoder, weights = read_emotion2vec(files)
    # An output that is never chosen is as good as none.
    kept = [row for row, label in enumerate(labels) if not label.startswith(_UNUSED)]
    shapes = {"weight": (len(labels), encoder.config.width), "bias": (len(labels),)}
    own = {}
    for name, shape in shapes.items():
        tensor = weights.get(f"proj.{name}")
        if tensor is None or tensor.shape != shape or not tensor.is_floating_point():
            state = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise UserError(
                f"{files.name}: proj.{name}, of the layer for the {len(labels)} labels in "
                f"{_LABELS_FILE}, is {state}; choose another {files.option}, such as "
                "emotion2vec/emotion2vec_plus_large"
            )
        own[name] = tensor[kept].float()
    linear = nn.Linear(encoder.config.width, len(kept), device="meta")
    linear.load_state_dict(own, assign=True)
    model = Emotion2vecPlus(encoder, linear, [_english(labels[row]) for row in kept])
    front_end = family_of(MODEL_TYPE).front_end(files.name, encoder.config, None)
    return Loaded(MODEL_TYPE, model, front_end, hash_config(encoder.config, model.config))


def _read_labels(files: CheckpointFiles) -> list[str]:
    path = files.find(_LABELS_FILE, _MAX_LABEL_BYTES)
    if path is None:
        raise UserError(
            f"{files.name}: has no {_LABELS_FILE}, so it is not an emotion2vec+ with labels; "
            f"choose another {files.option}, such as emotion2vec/emotion2vec_plus_large"
        )
    try:
        labels = read_text(path, _MAX_LABEL_BYTES).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError(
            f"{path}: cannot be read ({reason}); download the checkpoint again"
        ) from None
    return [label.strip() for label in labels]


def _english(label: str) -> str:
    """Return the English part of a label such as ``生气/angry``."""
    return label.rsplit("/", 1)[-1]
