"""Test accuracy of a method that queries a model, by the number of images or contexts sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.errors import BudgetExceeded
from petlbench.records.schema import CurvePoint

State = dict[str, Tensor]


class Curve:
    """Test accuracy (percent) whenever the images or contexts sent in training have doubled since the last point, and at the end.

    During training the learned states are only kept. They are evaluated after the final test, with what training has left of the budget: so a run
    learns the same with a curve and without, and the budget holds for both together. These queries are counted in a phase of their own.
    A method that sends nothing after its first step has one point, at the end.
    """

    def __init__(self, meter: Meter, learned: Callable[[], State]) -> None:
        self.points: list[CurvePoint] = []
        self._meter = meter
        self._learned = learned
        self._kept: list[tuple[tuple[int, int], State]] = []  # images and contexts sent, and what was learned from them
        self._last: tuple[int, int] | None = None
        self._evaluated = 0  # of the kept ones

    def state_dict(self) -> dict[str, Any]:
        points = [point.model_dump() for point in self.points]
        return {"points": points, "kept": self._kept, "last": self._last, "evaluated": self._evaluated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points[:] = [CurvePoint.model_validate(point) for point in state["points"]]
        self._kept, self._last, self._evaluated = state["kept"], state["last"], state["evaluated"]

    def after_step(self) -> None:
        """Keep the learned state if the images or contexts sent have doubled."""
        sent = self._sent()
        if self._last is None:
            self._last = sent
        elif any(now >= 2 * then and now > then for now, then in zip(sent, self._last, strict=True)):
            self._last = sent
            self._kept.append((sent, self._learned()))

    def draw(
        self, accuracy: float, cost: Mapping[str, int], evaluate: Callable[[State], float], after_point: Callable[[], None] = lambda: None
    ) -> None:
        """Evaluate the kept states in order, up to the first that the budget does not allow. The last point is the final ``accuracy``, which is known
        already. ``cost``: the queries of one evaluation, equal to those of the final test."""
        end = self._sent()
        with suppress(BudgetExceeded), self._meter.during("curve"):  # the curve ends there, the run does not
            for sent, state in self._kept[self._evaluated :]:
                if sent != end:
                    self._meter.require("curve", **cost)
                    self._add(sent, evaluate(state))
                self._evaluated += 1
                after_point()
        self._add(end, accuracy)

    def _add(self, sent: tuple[int, int], accuracy: float) -> None:
        self.points.append(CurvePoint(images=sent[0], contexts=sent[1], accuracy=accuracy))

    def _sent(self) -> tuple[int, int]:
        counts = self._meter.counts["train"]
        return counts["images"], counts["contexts"]
