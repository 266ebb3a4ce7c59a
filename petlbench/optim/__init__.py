"""Training: the gradient loop, schedules, zeroth-order optimisers, devices and number formats."""

from __future__ import annotations

import hashlib


def derived_seed(label: str, seed: int) -> int:
    """Return a seed in [0, 2**32), which every generator takes, for the random stream named ``label``; streams are independent of each other.

    With the run's seed itself, a generator would repeat what the global one drew when the method was built: perturbations equal to the start.
    """
    return int.from_bytes(hashlib.sha256(f"{label} {seed}".encode()).digest()[:4])
