"""SPSA with gradient correction: a gradient estimated from pairs of losses, for functions that can only be evaluated.

Oh et al. 2023 (BlackVIP, arXiv 2303.14773), in the form of the released code: the estimate is taken at the solution itself, and the correction is
the arithmetic of Nesterov's momentum on the estimates. The paper describes it with a look-ahead point.

Letters in shapes: D length of the solution, K repeats, Q queries of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petlbench.optim.perturbations import Perturbations, generator_of


@dataclass
class SPSAConfig:
    """The gains of step i = 1, 2, … are a_i = step / (i + step_offset)^step_decay and c_i = perturbation / i^perturbation_decay."""

    step: float = 0.01  # a, scale of the step gain a_i
    step_offset: float = 1.0  # o, added to i in the step gain
    step_decay: float = 0.4  # alpha, exponent of the step gain
    perturbation: float = 0.01  # c, scale of the perturbation gain c_i
    perturbation_decay: float = 0.1  # gamma, exponent of the perturbation gain
    momentum: float = 0.9  # beta, momentum of the gradient correction; 0: plain SPSA
    repeats: int = 5  # K, gradient estimates that are averaged in a step
    one_sided: bool = False  # take differences to one shared unperturbed query: K + 1 queries a step instead of 2K
    sequential_exact: bool = False  # ask for one loss at a time, as the released code does, instead of all of a step together

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"spsa.repeats must be an int >= 1, got {self.repeats}")
        for name in ("step", "perturbation"):
            if not getattr(self, name) > 0:
                raise ValueError(f"spsa.{name} must be > 0, got {getattr(self, name)}")
        for name in ("step_offset", "step_decay", "perturbation_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"spsa.{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"spsa.momentum must lie in [0, 1), got {self.momentum}")

    @property
    def queries(self) -> int:
        """Q, the number of losses that a step evaluates."""
        return self.repeats + 1 if self.one_sided else 2 * self.repeats

    def step_gain(self, step: int) -> float:
        """Return a_i; i is 1 in the first step."""
        return self.step / (step + self.step_offset) ** self.step_decay

    def perturbation_gain(self, step: int) -> float:
        """Return c_i; i is 1 in the first step."""
        return float(self.perturbation / step**self.perturbation_decay)


def segmented_uniform(seed: int) -> Callable[[int], Tensor]:
    """Perturbations (D,) with entries uniform in [-1, -0.5] and [0.5, 1] (released code), drawn on the CPU: equal on every device."""

    def draw(length: int, generator: torch.Generator) -> Tensor:
        magnitude = (torch.rand(length, generator=generator) + 1) / 2
        return torch.where(torch.rand(length, generator=generator) < 0.5, magnitude, -magnitude)

    return Perturbations(draw, seed)


class SPSA:
    """Minimises a function of a vector. ``vector`` (D,) is the solution, float32 on the device of the start.

    ``perturbations``: called with D, gives the next perturbation (D,), on the CPU or on the solution's device.
    """

    def __init__(self, vector: Tensor, config: SPSAConfig, perturbations: Callable[[int], Tensor] | None = None, seed: int = 0) -> None:
        self.vector = vector.detach().float().clone()
        self.config = config
        self.steps = 0  # taken so far
        self.gradient = torch.zeros_like(self.vector)  # (D,), the last estimate
        self.velocity = torch.zeros_like(self.vector)  # (D,), m; stays zero without momentum
        self._perturbations = perturbations or segmented_uniform(seed)

    @torch.no_grad()
    def step(self, losses: Callable[[Tensor], Tensor]) -> Tensor:
        """One step.

        ``losses``: candidates (Q, D) to losses (Q,). Rows come in the order in which the released code asks: +1, -1, +2, -2, …; one-sided: the
        solution itself, then +1, +2, …. With sequential_exact: called Q times with one row.

        Returns the mean () of the losses of the last repeat.
        """
        config = self.config
        self.steps += 1
        scale = config.perturbation_gain(self.steps)
        deltas = torch.stack([self._perturbations(len(self.vector)) for _ in range(config.repeats)]).to(self.vector)  # (K, D)
        ahead, behind = self.vector + scale * deltas, self.vector - scale * deltas
        candidates = torch.cat([self.vector[None], ahead]) if config.one_sided else torch.stack([ahead, behind], dim=1).flatten(0, 1)
        values = torch.cat([losses(row) for row in candidates.split(1)]) if config.sequential_exact else losses(candidates)
        if config.one_sided:
            above, below, distance = values[1:], values[:1].expand(config.repeats), scale
        else:
            above, below, distance = values[0::2], values[1::2], 2 * scale
        self.gradient = ((above - below)[:, None] / (distance * deltas)).mean(dim=0)
        if config.momentum:
            self.velocity = config.momentum * self.velocity + self.gradient
        self.vector = self.vector - config.step_gain(self.steps) * (self.gradient + config.momentum * self.velocity)
        return (above[-1] + below[-1]) / 2

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, beside the settings."""
        generator = generator_of(self._perturbations).get_state()
        return {"steps": self.steps, "vector": self.vector, "gradient": self.gradient, "velocity": self.velocity, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of another optimiser with the same settings."""
        self.steps = state["steps"]
        self.vector, self.gradient, self.velocity = (state[name].to(self.vector) for name in ("vector", "gradient", "velocity"))
        generator_of(self._perturbations).set_state(state["generator"])
