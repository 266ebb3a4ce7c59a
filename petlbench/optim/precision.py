"""Choose the number format of a run's matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

BF16_MIN_PARAMETERS = 5_000_000  # below that, casts cost a CPU more than its faster products save (measured on mini_clip, 1.2 M)


def choose(precision: str, device: torch.device, parameters: int) -> str:
    """``fp32`` or ``bf16``. ``auto`` is bf16 autocast with fp32 trainables where the hardware multiplies bf16 and the model is large enough to gain."""
    if precision != "auto":
        return precision
    return "bf16" if parameters >= BF16_MIN_PARAMETERS and _multiplies_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which forward passes run, whatever context the caller is in."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False
