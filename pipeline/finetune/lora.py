"""Low-rank matrices that are trained beside an encoder's own, by peft; merged before it is saved.

Hu et al. (2022), *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR.
"""

from typing import Any

import torch
from torch import nn

#: Projections of a block's attention and feed-forward part, as the encoders name them.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_FEED_FORWARD = ("intermediate_dense", "output_dense", "fc1", "fc2")
#: These read the weights of their projections past the modules: matrices beside them would be
#: trained in vain.
_READ_PAST = ("wavlm",)


def add_lora(model: Any, encoder: nn.Module, rank: int, seed: int) -> None:
    """Freeze an encoder, and put matrices of low rank beside the projections of its blocks.

    Parameters
    ----------
    model : PreTrainedModel
        The whole model, whose other parameters stay as they are.
    encoder : Module
        Its encoder.
    rank : int
        Of the matrices; what they add is scaled by 2, their first product is zero.
    seed : int
        Of their first values.
    """
    import peft

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = {id(parameter) for parameter in encoder.parameters()}
    attention = () if model.config.model_type in _READ_PAST else _ATTENTION
    names = "|".join(attention + _FEED_FORWARD)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=rf".*\.layers\.\d+\..*?({names})"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if name in trained and id(parameter) not in own:
            parameter.requires_grad_(True)


def is_lora(name: str) -> bool:
    """Say whether a parameter is one of such a matrix, by its name."""
    return ".lora_A." in name or ".lora_B." in name


def merge_lora(model: nn.Module) -> None:
    """Add the matrices to the weights that they stand beside, and take them away."""
    from peft.tuners.lora import LoraLayer

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
