"""The devices and the precision of an encoder."""

import torch

from ..errors import UserError
from .encoder import PRECISIONS


def choose_devices(devices: str, option: str = "--devices") -> list[str]:
    """Return the names of the torch devices that the value of ``--devices`` means.

    That is ``"auto"`` (all GPUs, else the CPU), ``"cuda"`` (all GPUs), ``"mps"``, ``"cpu"``, or the
    names of GPUs, joined by commas. ``option`` is the name of the option in messages. Raise
    UserError if this machine lacks one of them.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if devices == "auto":
        return gpus or mps or ["cpu"]
    if devices == "cuda" and gpus:
        return gpus
    requested = devices.split(",")
    available = [*gpus, *mps, "cpu"]
    is_mixed = len(requested) > 1 and "cpu" in requested
    if is_mixed or any(device not in available for device in requested):
        raise UserError(
            f"{option} {devices}: not on this machine; choose auto, {' or '.join(available)}"
        )
    return list(dict.fromkeys(requested))


def choose_precision(precision: str, device: str) -> str:
    """Return one of ``PRECISIONS``: ``"auto"`` is bf16 where the device has it, else float32.

    Raise UserError if the precision is unknown.
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
    """Whether the processor multiplies bf16 natively; the names are internal to torch."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = (getattr(torch.cpu, name, None) for name in names)
    return any(check() for check in checks if check is not None)
