"""Where an encoder runs, and how exactly."""

import torch

from ..errors import UserError
from .encoder import PRECISIONS


def choose_devices(devices: str, option: str = "--devices") -> list[str]:
    """Turn the value of ``--devices`` into devices that are there.

    Parameters
    ----------
    devices : str
        ``"auto"`` (all GPUs, else the CPU), ``"cuda"`` (all GPUs), ``"mps"``, ``"cpu"``, or GPUs
        by number, joined by commas.
    option : str
        What it is called on the command line.

    Returns
    -------
    list of str
        In torch's words.

    Raises
    ------
    UserError
        If one is not on this machine.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if devices == "auto":
        return gpus or mps or ["cpu"]
    if devices == "cuda" and gpus:
        return gpus
    asked = devices.split(",")
    there = [*gpus, *mps, "cpu"]
    if any(device not in there for device in asked) or (len(asked) > 1 and "cpu" in asked):
        raise UserError(
            f"{option} {devices}: not on this machine; expected auto, {' or '.join(there)}"
        )
    return list(dict.fromkeys(asked))


def choose_precision(precision: str, device: str) -> str:
    """Turn the value of ``--precision`` into one of ``PRECISIONS``.

    Parameters
    ----------
    precision : str
        One of them, or ``"auto"``: bf16 where the device computes it natively, else float32.
    device : str
        In torch's words.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If it is none of them.
    """
    if precision == "auto":
        if device.startswith("cuda"):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = device == "cpu" and _cpu_has_bf16()
        return "bf16" if native else "float32"
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: expected {', '.join(PRECISIONS)} or auto")
    return precision


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; torch tells it under names of its own."""
    told = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(ask() for ask in told if ask is not None)
