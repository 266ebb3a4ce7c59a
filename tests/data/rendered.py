"""A task of small images that counts how often they are decoded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petlbench.data.source import RenderedSource
from petlbench.data.split import Split
from petlbench.data.store import TaskStore
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form

SIZES = {"train": 6, "val": 3, "test": 4}
SQUARE = Form("squash", 8)
NATIVE = Form("native")


class Renderer:
    """Images of several sizes; counts how often they are decoded, and fails at one of them on request."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: Counter[tuple[str, int]] = Counter()
        self.fails_at = fails_at

    def source(self, split: str) -> RenderedSource:
        def render(index: int) -> NDArray[np.uint8]:
            self.calls[split, index] += 1
            if split == "val" and index == self.fails_at:
                raise RuntimeError("killed")
            return np.random.default_rng([len(split), index]).integers(0, 256, (11 + index % 2, 17, 3), dtype=np.uint8)

        return RenderedSource(np.arange(SIZES[split]) % 3, render)

    def spec(self, **changes: Any) -> TaskSpec:
        facts = {"name": "mock/noise", "class_names": ("a", "b", "c"), "templates": ("{}",), "revision": "1", "source": self.source}
        return TaskSpec(**(facts | changes))


def opened(spec: TaskSpec, form: Form = SQUARE, limit_mb: int = 1) -> tuple[dict[str, Split], int]:
    """Open all splits; return them and the number of images decoded for them."""
    store = TaskStore(spec, limit_mb)
    splits = {split: store.open(split, form) for split in SIZES}
    return splits, store.tally.count
