"""How good a method that asks becomes with what it sends."""

from __future__ import annotations

from collections.abc import Callable

from petlbench.access.handle import Meter
from petlbench.records.schema import CurvePoint


class Curve:
    """Test accuracy (percent) whenever the images or contexts sent in training have doubled since the last look, and at the end.

    The looks are counted as queries of a phase of their own. A method that sends nothing after its first step is looked at once, at the end.
    """

    def __init__(self, meter: Meter, look: Callable[[], float]) -> None:
        self.points: list[CurvePoint] = []
        self._meter = meter
        self._look = look
        self._last: tuple[int, int] | None = None  # images and contexts sent

    def after_step(self) -> None:
        """Look, when it is time to."""
        sent = self._sent()
        if self._last is None:
            self._last = sent
        elif any(now >= 2 * then and now > then for now, then in zip(sent, self._last, strict=True)):
            self._last = sent
            self._meter.phase = "curve"
            self._add(sent, self._look())
            self._meter.phase = "train"

    def end(self, accuracy: float) -> None:
        """The final result, which has been measured already."""
        self._add(self._sent(), accuracy)

    def _add(self, sent: tuple[int, int], accuracy: float) -> None:
        point = CurvePoint(images=sent[0], contexts=sent[1], accuracy=accuracy)
        if self.points and (self.points[-1].images, self.points[-1].contexts) == sent:
            self.points.pop()
        self.points.append(point)

    def _sent(self) -> tuple[int, int]:
        counts = self._meter.counts["train"]
        return counts["images"], counts["contexts"]
