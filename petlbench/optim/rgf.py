"""Random gradient-free estimation: a gradient from one-sided differences along random directions, for functions that can only be evaluated.

Tsai et al. 2020 (BAR, arXiv 2007.08714, section 3), with the constants of BlackVIP's released code for it.

Letters in shapes: D length of the solution, q directions, Q = q + 1 queries of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petlbench.optim.perturbations import Perturbations, generator_of


@dataclass
class RGFConfig:
    """Settings of the gradient estimate."""

    directions: int = 5  # q, random directions of a step
    smoothing: float = 0.01  # b, distance along a unit direction at which the second loss of a difference is taken

    def __post_init__(self) -> None:
        if self.directions < 1:
            raise ValueError(f"rgf.directions must be an int >= 1, got {self.directions}")
        if not self.smoothing > 0:
            raise ValueError(f"rgf.smoothing must be > 0, got {self.smoothing}")

    @property
    def queries(self) -> int:
        """Q, the number of losses that a step evaluates."""
        return self.directions + 1


def normal(seed: int) -> Callable[[int], Tensor]:
    """Directions (D,) with standard normal entries, drawn on the CPU: equal on every device."""
    return Perturbations(lambda length, generator: torch.randn(length, generator=generator), seed)


class RGF:
    """Minimises a function of a vector. ``vector`` (D,) is the solution, float32 on the device of the start.

    ``directions``: called with D, gives the next direction (D,), of any length but zero, on the CPU or on the solution's device.
    """

    def __init__(self, vector: Tensor, config: RGFConfig, directions: Callable[[int], Tensor] | None = None, seed: int = 0) -> None:
        self.vector = vector.detach().float().clone()
        self.config = config
        self.gradient = torch.zeros_like(self.vector)  # (D,), the last estimate
        self._directions = directions or normal(seed)

    @torch.no_grad()
    def step(self, losses: Callable[[Tensor], Tensor], rate: float) -> Tensor:
        """Take one step of size ``rate``.

        ``losses``: candidates (Q, D) to losses (Q,). Row 0 is the solution itself, then one row per direction.

        Returns the loss () of the solution before the step.
        """
        config, length = self.config, len(self.vector)
        drawn = torch.stack([self._directions(length) for _ in range(config.directions)]).to(self.vector)  # (q, D)
        units = drawn / drawn.norm(dim=1, keepdim=True)
        values = losses(torch.cat([self.vector[None], self.vector + config.smoothing * units]))
        slopes = (values[1:] - values[0]) / config.smoothing  # (q,)
        self.gradient = length / config.directions * (slopes @ units)
        self.vector = self.vector - rate * self.gradient
        return values[0]

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, beside the settings."""
        return {"vector": self.vector, "gradient": self.gradient, "generator": generator_of(self._directions).get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of another optimiser with the same settings."""
        self.vector, self.gradient = (state[name].to(self.vector) for name in ("vector", "gradient"))
        generator_of(self._directions).set_state(state["generator"])
