"""How datasets lie on researchers' disks: one module per layout, imported when it is needed; its name is the layout's name in the facts.

A layout's module has two functions, ``read`` and ``expected``. ``read`` answers None when the layout is not there, or says nothing of the suite,
and raises a DataError that names the file when it is there and broken. What it finds is a listing per split: no image is opened.
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
    class_names: tuple[str, ...] | None = None  # None: the layout does not say, the registry's hold
    split: str = "published"  # or how it was made here: generated-90-10, resampled, …


class Layout(Protocol):
    """What the module of a layout offers."""

    def read(self, root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
        """The dataset below a data root, as the suite of the entry uses it."""

    def expected(self, dataset: Dataset, entry: SuiteEntry) -> str | None:
        """The files it looks for, relative to the data root, for people who do not have them yet. None when it says nothing of the suite."""


def layout(name: str) -> Layout:
    """The layout of that name."""
    return cast(Layout, importlib.import_module(f"{__name__}.{name}"))
