"""Count the queries of a run by phase, and enforce its budget."""

from __future__ import annotations

from dataclasses import dataclass, field

from petlbench.access.rungs import Access
from petlbench.config.settings import Budget
from petlbench.errors import BudgetExceeded

PHASES = ("train", "val", "test", "curve")
LIMITED = ("train", "curve")  # the phases that the budget limits, by their sum
COUNTED = ("calls", "images", "contexts", "texts", "cached", "bytes")


@dataclass
class Meter:
    """Counts what is sent to a model, by phase. The harness sets the phase; a method never holds a meter."""

    budget: Budget = field(default_factory=Budget)
    phase: str = "train"
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {phase: dict.fromkeys(COUNTED, 0) for phase in PHASES})
    seen: Access | None = None  # the highest rung used

    def charge(self, rung: Access | None = None, **amounts: int) -> None:
        """Count a query before it is sent. BudgetExceeded, with nothing counted, when it would pass a limit."""
        self.require(**amounts)
        for name, amount in amounts.items():
            self.counts[self.phase][name] += amount
        if rung is not None:
            self.note(rung)

    def require(self, **amounts: int) -> None:
        """BudgetExceeded when these amounts would pass a limit of the budget in a limited phase."""
        if self.phase not in LIMITED:
            return
        for name, amount in amounts.items():
            limit, spent = getattr(self.budget, name, None), sum(self.counts[phase][name] for phase in LIMITED)
            if limit is not None and spent + amount > limit:
                raise BudgetExceeded(f"budget reached after {spent:,} of {limit:,} {name}")

    def note(self, rung: Access) -> None:
        """Record that a rung was used."""
        self.seen = rung if self.seen is None else max(self.seen, rung)
