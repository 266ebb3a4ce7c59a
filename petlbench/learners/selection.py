"""The rule that selects the epoch of a run to report: the last, the best on validation images, or (only to compare) the best on test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.config.settings import Protocol
from petlbench.data.batches import Batches
from petlbench.learners.base import Learner
from petlbench.learners.scores import accuracy, mask_classes
from petlbench.records.schema import Epoch


class Selection:
    """Evaluates epochs by ``protocol.selection`` and keeps the state of the first best one. Does nothing under ``last``."""

    def __init__(
        self, protocol: Protocol, epochs: int, learner: Learner, meter: Meter, val: Batches, test: Batches, scored: Sequence[int] | None
    ) -> None:
        """``scored``: the labels that test images may have; None: all."""
        self._protocol, self._epochs = protocol, epochs
        self._learner, self._meter = learner, meter
        self._is_oracle = protocol.selection == "oracle_test"
        self._watched = {"best_val": val, "oracle_test": test}.get(protocol.selection)
        self._scored = scored if self._is_oracle else None
        self._best: tuple[float, dict[str, Tensor]] | None = None

    def evaluate(self, epoch: Epoch) -> Epoch:
        """Return the epoch with the accuracy that the rule compares, if it evaluates this epoch."""
        if self._watched is None or not self._should_evaluate(epoch.epoch):
            return epoch
        with self._meter.during("test" if self._is_oracle else "val"):
            reached = accuracy(mask_classes(self._learner.predict(self._watched), self._scored), self._watched.labels)
        if self._best is None or reached > self._best[0]:
            self._best = (reached, self._learner.state())
        return epoch.model_copy(update={"test_accuracy" if self._is_oracle else "val_accuracy": reached})

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best = state["best"]

    def restore_best(self) -> None:
        """Load the state of the best epoch."""
        if self._best is not None:
            self._learner.load_state(self._best[1])

    @property
    def val_accuracy(self) -> float | None:
        """Percent of the validation images at the best epoch, under ``best_val``."""
        return None if self._best is None or self._is_oracle else self._best[0]

    def _should_evaluate(self, epoch: int) -> bool:
        return epoch % self._protocol.select_every == 0 or epoch >= self._epochs - self._protocol.select_tail
