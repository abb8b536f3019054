"""Low-rank matrices trained beside an encoder's own weights (peft), merged before it is saved.

Hu et al. (2022), *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR.
"""

from typing import Any

import torch
from torch import nn

#: Projections of a block's attention and feed-forward part, as the encoders name them.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_FEED_FORWARD = ("intermediate_dense", "output_dense", "fc1", "fc2")
#: Their attention reads the weights of the projections without calling the modules, so that
#: matrices beside these would have no effect.
_BYPASSES_MODULES = ("wavlm",)


def add_lora(model: Any, encoder: nn.Module, rank: int, seed: int) -> None:
    """Freeze an encoder, and add low-rank matrices beside the projections of its blocks.

    Their product is scaled by 2, and zero at first. Other parameters of the model are not changed;
    ``seed`` is that of the first values.
    """
    import peft

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = {id(parameter) for parameter in encoder.parameters()}
    attention = () if model.config.model_type in _BYPASSES_MODULES else _ATTENTION
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
    """Return whether a parameter belongs to such a matrix, from its name."""
    return ".lora_A." in name or ".lora_B." in name


def merge_lora(model: nn.Module) -> None:
    """Add the matrices to the weights of their projections, and remove them."""
    from peft.tuners.lora import LoraLayer

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
