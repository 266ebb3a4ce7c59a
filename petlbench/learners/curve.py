"""How good a method that asks becomes with what it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.errors import BudgetExceeded
from petlbench.records.schema import CurvePoint

State = dict[str, Tensor]


class Curve:
    """Test accuracy (percent) whenever the images or contexts sent in training have doubled since the last look, and at the end.

    While a method trains, what it has learned is only kept. It is looked at after the final test, with what training has left of the budget: so a run
    learns the same with a curve and without, and the budget holds for both together. The looks are counted as queries of a phase of their own.
    A method that sends nothing after its first step has one point, at the end.
    """

    def __init__(self, meter: Meter, learned: Callable[[], State]) -> None:
        self.points: list[CurvePoint] = []
        self._meter = meter
        self._learned = learned
        self._kept: list[tuple[tuple[int, int], State]] = []  # images and contexts sent, and what was learned from them
        self._last: tuple[int, int] | None = None

    def after_step(self) -> None:
        """Keep what has been learned, when it is time to."""
        sent = self._sent()
        if self._last is None:
            self._last = sent
        elif any(now >= 2 * then and now > then for now, then in zip(sent, self._last, strict=True)):
            self._last = sent
            self._kept.append((sent, self._learned()))

    def draw(self, accuracy: float, cost: Mapping[str, int], look: Callable[[State], float]) -> None:
        """Look at what was kept, in its order; the first look that the budget would not allow is not made, nor any after it. The last point is the
        final ``accuracy``, which is known already. ``cost``: of a look, that is of the final test."""
        end = self._sent()
        self._meter.phase = "curve"
        try:
            for sent, state in self._kept:
                if sent != end:
                    self._meter.require(**cost)
                    self._add(sent, look(state))
        except BudgetExceeded:
            pass  # the curve ends here, the run does not
        self._add(end, accuracy)

    def _add(self, sent: tuple[int, int], accuracy: float) -> None:
        self.points.append(CurvePoint(images=sent[0], contexts=sent[1], accuracy=accuracy))

    def _sent(self) -> tuple[int, int]:
        counts = self._meter.counts["train"]
        return counts["images"], counts["contexts"]
