"""Choose the device of a run."""

from __future__ import annotations

import torch

from petlbench.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU. ConfigError when a named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got '{name}'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no GPU; use device=auto")
    return device
