"""What a dataset family provides to the harness: a task description and a source of raw images per split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from petlbench.registry import Registry

SPLITS = ("train", "val", "test")


@runtime_checkable
class ImageSource(Protocol):
    """One split before resizing: its labels are known at once, its images are decoded or rendered one at a time."""

    labels: NDArray[np.int64]  # (N,)

    def decode(self, index: int) -> NDArray[np.uint8]:
        """The image at native size, (H, W, 3) RGB. Raises DataError naming the file when it cannot be read."""
        ...


@dataclass(frozen=True)
class TaskSpec:
    """One dataset as registered: everything about it that does not need its pixels."""

    name: str  # "suite/task"
    class_names: tuple[str, ...]
    templates: tuple[str, ...]  # each with one {}
    revision: str  # changes whenever the images or labels of any split change
    source: Callable[[str], ImageSource]  # split name -> images and labels
    sizes: dict[str, int] = field(default_factory=dict)  # split -> expected number of images
    description: str = ""

    def prompts(self, templates: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """The captions of each class: every template (None: the task's) with the class name filled in, underscores as spaces."""
        names = [name.replace("_", " ") for name in self.class_names]
        return tuple(tuple(template.format(name) for template in templates or self.templates) for name in names)


class RenderedSource:
    """An ImageSource over images that are already arrays or are rendered by a function of the index."""

    def __init__(self, labels: Sequence[int] | NDArray[np.integer], render: Callable[[int], NDArray[np.uint8]]) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self._render = render

    def decode(self, index: int) -> NDArray[np.uint8]:
        return self._render(index)


TaskFamily = Callable[[str], TaskSpec]  # what stands after ``NAME:`` -> a task
TASKS: Registry[TaskSpec | TaskFamily] = Registry("task", package="petlbench.datasets")


def register_task(spec: TaskSpec, origin: str) -> TaskSpec:
    """Make a task known under its name. ``origin``: the registering module's ``__name__``."""
    TASKS.register(spec.name, spec, origin)
    return spec


def register_task_family(name: str, family: TaskFamily, origin: str) -> None:
    """Make a family of tasks known, addressed as ``NAME:rest``."""
    TASKS.register(name, family, origin)
