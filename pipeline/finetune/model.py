"""transformers' standard audio classifier on a checked encoder, saved so that anyone can load it.

The scores of a clip do not depend on the other clips of its batch: the masks and the group norm of
:mod:`serpipe.features.padding` are used in training, too.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import UserError
from ...features.checkpoint import Checkpoint
from ...features.front_end import FrontEnd, LogMelFrontEnd
from ...features.padding import MaskedGroupNorm, ValidForAll, make_padding_exact
from .lora import add_lora

#: Masking in training with the defaults of transformers: this share of the frames starts a span of
#: this length that is replaced by a learnt vector.
MASK_SHARE = 0.05
MASK_FRAMES = 10


def build_model(
    checkpoint: Checkpoint,
    labels: Sequence[str],
    *,
    task: str = "classification",
    train_front_end: bool = False,
    specaugment: bool = False,
    lora: int = 0,
    seed: int = 0,
) -> Any:
    """Put a new head on an encoder.

    Parameters
    ----------
    checkpoint : Checkpoint
        From :func:`serpipe.features.checkpoint.load_checkpoint`; not changed.
    labels : sequence of str
        The labels, in the order of the scores; or the rating.
    task : {"classification", "regression"}
        Whether labels or a rating are predicted.
    train_front_end : bool
        Whether the convolutions are trained.
    specaugment : bool
        Whether spans of time are masked in training.
    lora : int
        Rank of the matrices that are trained instead of the encoder's own weights; 0 for none.
    seed : int
        Seed of the head's weights.

    Returns
    -------
    PreTrainedModel
        The class of ``AutoModelForAudioClassification``: a learnt weighted sum of all layers, a
        projection, the mean over the frames of the clip, a linear classifier. Whisper, which has no
        mask, takes the mean over its whole window. On the CPU, in float32.

    Raises
    ------
    UserError
        If the weights do not fit the standard class.
    """
    import transformers

    config: Any = copy.deepcopy(checkpoint.model.config)
    config.use_weighted_layer_sum = True
    config.add_adapter = False
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = (
        "single_label_classification" if task == "classification" else "regression"
    )
    config._name_or_path = checkpoint.name
    for name in ("auto_map", "task_specific_params"):  # the checkpoint's own code and tasks
        if hasattr(config, name):
            delattr(config, name)
    for name in ("layerdrop", "encoder_layerdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if specaugment:
        config.apply_spec_augment = True
        config.mask_time_prob, config.mask_time_length = MASK_SHARE, MASK_FRAMES
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = transformers.AutoModelForAudioClassification.from_config(config)
    family = checkpoint.family
    encoder = family.encoder_in_classifier(model)
    keys = encoder.load_state_dict(checkpoint.model.state_dict(), strict=False)
    missing = sorted(set(keys.missing_keys) - {"masked_spec_embed"})
    unexpected = [key for key in keys.unexpected_keys if not key.startswith("adapter.")]
    if missing or unexpected:
        raise UserError(
            f"{checkpoint.name}: {(missing + unexpected)[0]} does not fit the classifier of "
            f"transformers for {checkpoint.model_type}; choose another --encoder"
        )
    if not train_front_end:
        family.freeze_front_end(model)
    if lora:
        add_lora(model, encoder, lora, seed)
    if not family.has_window:
        keep_padding_out(model, encoder, checkpoint.front_end)
    return model


def head_parameters(model: Any) -> set[str]:
    """Return the names of the new parameters: those that are not the encoder's."""
    prefix = "encoder." if not hasattr(model, model.base_model_prefix) else ""
    prefix = prefix or f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


def save_model(model: Any, front_end: FrontEnd, folder: Path) -> None:
    """Save a model and its feature extractor as transformers does: it loads without serpipe.

    Do not use the model for padded batches afterwards.
    """
    import transformers

    for module in model.modules():  # the names of the standard class
        for name, child in module.named_children():
            if isinstance(child, MaskedGroupNorm):
                setattr(module, name, child.norm)
    model.eval().float().cpu().save_pretrained(folder)
    if isinstance(front_end, LogMelFrontEnd):
        extractor = front_end.extractor
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=front_end.sampling_rate,
            padding_value=0.0,
            do_normalize=front_end.normalise,
            return_attention_mask=True,
        )
    extractor.save_pretrained(folder)


def keep_padding_out(model: nn.Module, encoder: nn.Module, front_end: FrontEnd) -> None:
    """Make the scores of a clip in a padded batch those that it has alone.

    ``encoder`` is the part of the model that takes waveforms, and is changed in place.
    """
    valid = ValidForAll()
    make_padding_exact(encoder, valid)

    def set_valid(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        mask = inputs.get("attention_mask")
        valid.samples = None if mask is None else mask.sum(dim=1).tolist()
        valid.frames = valid.samples and [front_end.frames(n) for n in valid.samples]

    model.register_forward_pre_hook(set_valid, with_kwargs=True)
