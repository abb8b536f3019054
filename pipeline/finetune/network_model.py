"""A network that is trained from scratch, as the Trainer takes it, and as it is saved."""

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
#: Bytes of a JSON file and of weights that come from elsewhere.
_MAX_BYTES, _MAX_WEIGHT_BYTES = 1 << 24, 1 << 32


class NetworkModel(nn.Module):
    """A network behind the inputs and outputs of an encoder with a head.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``.
    outputs : sequence of str
        The labels, or the one rating.
    seed : int
        Of the first weights.
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
    """Return what networks take: waveforms at 16 kHz, as they are."""
    return WaveformFrontEnd(SAMPLING_RATE, normalise=False, kernels=(WINDOW,), strides=(HOP,))


def save_network(model: NetworkModel, folder: Path, about: Mapping[str, Any]) -> None:
    """Save a network: ``network.json`` says which, ``model.safetensors`` holds its weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    told = {
        "serpipe_network": FORMAT_VERSION,
        "network": model.name,
        "outputs": model.outputs,
        "sampling_rate": SAMPLING_RATE,
        "serpipe": dict(about),
    }
    write_text(folder / "network.json", json.dumps(told, indent=1) + "\n")


def load_network(folder: Path) -> NetworkModel:
    """Load a network that :func:`save_network` saved.

    Parameters
    ----------
    folder : Path
        Such as ``RUN/model``.

    Returns
    -------
    NetworkModel
        On the CPU, in evaluation mode.

    Raises
    ------
    UserError
        If it is not whole.
    """
    from safetensors.torch import load_file

    fix = "expected what `serpipe finetune --network` saved; train it again"
    check_model_files(folder)
    try:
        told: Any = json.loads(read_text(folder / "network.json", _MAX_BYTES))
        if told["serpipe_network"] != FORMAT_VERSION or told["network"] not in NETWORKS:
            raise UserError(f"{folder}: network {told['network']!r} is not known; {fix}")
        model = NetworkModel(told["network"], [str(name) for name in told["outputs"]], seed=0)
        check_regular(folder / "model.safetensors", _MAX_WEIGHT_BYTES)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        model.about = told.get("serpipe")
    except UserError:
        raise
    except Exception as error:  # safetensors and torch raise what they like
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); {fix}") from error
    return model.eval()
