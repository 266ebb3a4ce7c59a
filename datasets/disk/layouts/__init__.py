"""Layouts of datasets on disks: one module per layout, imported when it is needed; its name is the layout's name in the facts.

A layout's module has two functions, ``read`` and ``expected``. ``read`` returns a listing per split without opening an image, None when the layout is
not there or does not cover the suite, and raises a DataError that names the file when it is there and broken.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from petlbench.data.listing import Listing

from ..facts import Dataset, SuiteEntry


@dataclass(frozen=True)
class LocatedDataset:
    """A dataset on a disk."""

    layout: str
    root: Path  # the folder or archive that was read
    splits: Mapping[str, Listing]  # test, and train unless the set is for testing only; val when the layout has one
    class_names: tuple[str, ...] | None = None  # None: the layout does not have them, those of the facts apply
    split: str = "published"  # or how it was made here: generated-90-10, resampled, …


class Layout(Protocol):
    """The functions of a layout's module."""

    def read(self, root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
        """Return the dataset below a data root, as the suite of the entry uses it."""

    def expected(self, dataset: Dataset, entry: SuiteEntry) -> str | None:
        """Return the files that the layout looks for, relative to the data root, for messages. None when it does not cover the suite."""


def layout(name: str) -> Layout:
    """Return the layout of that name."""
    return cast(Layout, importlib.import_module(f"{__name__}.{name}"))
