"""Layout ``official``: not read yet."""

from __future__ import annotations

from pathlib import Path

from .._facts import Dataset, SuiteEntry
from . import Found


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> Found | None:
    """See Layout."""
    return None


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return None
