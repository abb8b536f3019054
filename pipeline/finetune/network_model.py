"""Networks that are trained from scratch: their interface to the Trainer, and their files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import UserError, first_line
from ...features.front_end import WaveformFrontEnd
from ...files import check_regular, read_text, write_text
from ...integrity import check_model_files
from ..networks import NETWORKS
from ..networks.log_mel import HOP, SAMPLING_RATE, WINDOW

FORMAT_VERSION = 1
#: Limits of a JSON file and of weights that come from elsewhere, in bytes.
_MAX_BYTES, _MAX_WEIGHT_BYTES = 1 << 24, 1 << 32


class NetworkModel(nn.Module):
    """A network of ``NETWORKS`` with the inputs and outputs of an encoder with a head.

    Its outputs are the labels, or the one rating; ``seed`` is that of the initial weights.
    """

    def __init__(self, name: str, outputs: Sequence[str], seed: int) -> None:
        super().__init__()
        self.name, self.outputs = name, list(outputs)
        self.about: Any = None  # of a loaded network: its untrusted description
        self.network = NETWORKS[name](len(outputs), seed)

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return logits or ratings, float32, shape (n_clips, n_outputs)."""
        n_clips, n_samples = input_values.shape
        lengths = torch.full((n_clips,), n_samples, device=input_values.device)
        if attention_mask is not None:
            lengths = attention_mask.sum(dim=1)
        return {"logits": self.network(input_values, lengths)}


def network_front_end() -> WaveformFrontEnd:
    """Return the front end of networks: waveforms at 16 kHz, not normalised."""
    return WaveformFrontEnd(SAMPLING_RATE, normalise=False, kernels=(WINDOW,), strides=(HOP,))


def save_network(model: NetworkModel, folder: Path, about: Mapping[str, Any]) -> None:
    """Save a network: ``network.json`` describes it, ``model.safetensors`` holds its weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    description = {
        "serpipe_network": FORMAT_VERSION,
        "network": model.name,
        "outputs": model.outputs,
        "sampling_rate": SAMPLING_RATE,
        "serpipe": dict(about),
    }
    write_text(folder / "network.json", json.dumps(description, indent=1) + "\n")


def load_network(folder: Path) -> NetworkModel:
    """Load a network that :func:`save_network` saved, on the CPU, in evaluation mode.

    Raise UserError if it is incomplete.
    """
    from safetensors.torch import load_file

    remedy = "name the model of a run of `serpipe finetune --network`, or train it again"
    check_model_files(folder)
    try:
        content: Any = json.loads(read_text(folder / "network.json", _MAX_BYTES))
        if content["serpipe_network"] != FORMAT_VERSION or content["network"] not in NETWORKS:
            raise UserError(f"{folder}: network {content['network']!r} is not known; {remedy}")
        if not content["outputs"]:
            raise UserError(f"{folder}: network.json names no outputs; {remedy}")
        model = NetworkModel(content["network"], [str(name) for name in content["outputs"]], seed=0)
        check_regular(folder / "model.safetensors", _MAX_WEIGHT_BYTES)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        model.about = content.get("serpipe")
    except UserError:
        raise
    except Exception as error:  # safetensors and torch raise various types
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); {remedy}") from error
    return model.eval()
