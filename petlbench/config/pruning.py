"""What a run needs to know to be ended early by the study that it belongs to. No part of its identity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pruning:
    """The trial of a run, and when its accuracy on val is compared with that of other trials."""

    journal: str  # file of the study
    study: str
    trial: int
    least: int  # epochs before the first look
    factor: int  # of looks: each after so many times the epochs of the one before; one trial in so many goes on

    def is_due(self, epochs: int) -> bool:
        """Return True if a look follows after so many epochs."""
        due = self.least
        while due < epochs:
            due *= self.factor
        return due == epochs
