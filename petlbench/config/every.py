"""How often a run keeps its state: ``60s``, ``5min``, ``1h`` or ``100steps``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Every:
    """A time in seconds or a number of training steps; the other is None."""

    seconds: int | None = None
    steps: int | None = None


def parse_every(text: str) -> Every:
    """Return what a text says. ValueError with what was expected."""
    found = re.fullmatch(r"([1-9][0-9]{0,8}) ?(s|min|h|steps)", text)
    if found is None:
        raise ValueError(
            f"checkpoint_every must be a time such as 60s, 5min or 1h, a number of steps such as 100steps, or null, got {text!r}"
        )
    count, unit = int(found[1]), found[2]
    return Every(steps=count) if unit == "steps" else Every(seconds=count * _SECONDS[unit])
