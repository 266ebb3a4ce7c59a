"""Count the queries of a run by phase, and enforce its budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from petlbench.access.rungs import Access
from petlbench.config.settings import Budget
from petlbench.errors import BudgetExceeded

PHASES = ("train", "val", "test", "curve")
TRAINING = ("train", "curve")  # the phases that share the limits of training; each other one has its own
COUNTED = ("calls", "images", "contexts", "texts", "cached", "bytes")


@dataclass
class Meter:
    """Counts what is sent to a model, by phase. The harness sets the phase; a method never holds a meter, and may ask from several threads."""

    budget: Budget = field(default_factory=Budget)
    phase: str = "train"
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {phase: dict.fromkeys(COUNTED, 0) for phase in PHASES})
    granted: Access | None = None  # the rung of the run
    seen: Access | None = None  # the highest rung used
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count queries in a phase within the block, and in the phase before after it."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def charge(self, rung: Access | None = None, phase: str | None = None, **amounts: int) -> None:
        """Count a query before it is sent, in the present phase or another. BudgetExceeded, with nothing counted, when it would pass a limit."""
        phase = phase or self.phase
        with self._lock:
            self.require(phase, **amounts)
            for name, amount in amounts.items():
                self.counts[phase][name] += amount
            if rung is not None:
                self.note(rung)

    def require(self, phase: str | None = None, **amounts: int) -> None:
        """BudgetExceeded when these amounts would pass a limit of the phase."""
        phase = phase or self.phase
        together, limits, where = (
            (TRAINING, self.budget, "") if phase in TRAINING else ((phase,), getattr(self.budget, phase), f" in {phase}")
        )
        for name, amount in amounts.items():
            limit, spent = getattr(limits, name, None), sum(self.counts[each][name] for each in together)
            if limit is not None and spent + amount > limit:
                raise BudgetExceeded(f"budget reached after {spent:,} of {limit:,} {name}{where}")

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted, and the highest rung that was used."""
        return {"counts": self.counts, "seen": None if self.seen is None else self.seen.name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Count on from there, in place of what was counted so far."""
        for phase, counts in state["counts"].items():
            self.counts[phase].update(counts)
        self.seen = None if state["seen"] is None else Access[state["seen"]]

    def note(self, rung: Access) -> None:
        """Record that a rung was used."""
        self.seen = rung if self.seen is None else max(self.seen, rung)
