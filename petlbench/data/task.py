"""The description of a task that a dataset plugin registers, with a source of images per split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petlbench.data.acquire.fetch import Fetch
from petlbench.data.source import ImageSource
from petlbench.errors import DataError
from petlbench.registry import TASKS

SPLITS = ("train", "val", "test")
_log = logging.getLogger("petlbench.data")

GENERATED, NINETY_TEN, RESAMPLED = "generated", "generated-90-10", "resampled"
MADE_HERE = (GENERATED, NINETY_TEN, RESAMPLED)  # splits that no published list gives


@dataclass(frozen=True)
class TaskSpec:
    """A dataset as registered, without its pixels."""

    name: str  # "suite/task"
    class_names: tuple[str, ...]
    templates: tuple[str, ...]  # each with one {}
    revision: str  # changes whenever the images or labels of any split change
    source: Callable[[str], ImageSource]  # split name -> images and labels
    sizes: dict[str, int] = field(default_factory=dict)  # split -> expected number of images
    description: str = ""
    layout: str = ""  # how the images lie on the disk; empty: they are rendered, or are the user's own
    split: str = ""  # how the splits came about: one of MADE_HERE, else what their list is called
    # Positions in train of the val images, when the dataset has none of its own and they were chosen here.
    val_in_train: NDArray[np.int64] | None = None
    # The labels of test images, when these are fewer than all: only their scores are compared.
    scored: tuple[int, ...] | None = None
    left_out: tuple[str, ...] = ()  # what lies beside the images and was not read, in words, of which opening the task warned

    def prompts(self, templates: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """Return the captions of each class: every template (None: the task's) with the class name filled in, underscores as spaces.

        DataError for a task without templates, the names of whose classes are not known.
        """
        if not self.templates:
            raise DataError(
                f"{self.name}: the names of its classes are not known, and this method reads them; use one with a head of its own"
            )
        names = [name.replace("_", " ") for name in self.class_names]
        return tuple(tuple(template.format(name) for template in templates or self.templates) for name in names)


@dataclass(frozen=True)
class Location:
    """Layout and folder in which a task's images were found."""

    layout: str
    root: Path


@dataclass(frozen=True)
class DiskTask:
    """A task whose images have to lie on a disk, described without them."""

    name: str  # "suite/task"
    classes: int
    sizes: dict[str, int]  # split, or trainval -> number of images, as far as known
    template: str | None
    expected: Callable[[], tuple[str, ...]]  # the files that are looked for below the data root, one text per layout
    downloads: tuple[Fetch, ...]  # what ``petlbench data prepare`` fetches; nothing where people have to
    is_lossless: bool  # the published images are no JPEGs
    source: str  # where people get it from
    # Below a data root, quickly. None when it is not there, DataError when it is there and broken.
    locate: Callable[[Path], Location | None]
    open: Callable[[Path], TaskSpec | None]  # what lies below a data root; None and DataError as for ``locate``


@cache
def warn_once(text: str) -> None:
    """Warn of something in a dataset once per process: many runs open the same task."""
    _log.warning(text)


TaskFamily = Callable[[str], TaskSpec]  # the text after ``NAME:`` -> a task


def register_task(spec: TaskSpec | DiskTask, origin: str, aliases: Sequence[str] = ()) -> None:
    """Register a task under its name and its aliases. ``origin``: the registering module's ``__name__``."""
    TASKS.register(spec.name, spec, origin, aliases)


def register_task_family(name: str, family: TaskFamily, origin: str) -> None:
    """Register a family of tasks, addressed as ``NAME:rest``."""
    TASKS.register(name, family, origin)
