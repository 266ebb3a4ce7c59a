"""Compare the table of docs/datasets.md with the facts and with how a miniature of each original is read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from petlbench.datasets.disk.disk_task import layouts_of, open_task
from petlbench.datasets.disk.facts import Dataset, SuiteEntry, datasets, downloads
from petlbench.datasets.disk.layouts import layout
from tests.datasets.originals import WRITERS, facts

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
HEADER = "| task | train / val / test | layouts read (splits, where they are made here) | download |\n|---|---|---|---|"


def lines(folder: Path) -> list[str]:
    """Make the lines of the table; miniatures are written into ``folder``."""
    found = []
    for dataset in datasets().values():
        for entry in dataset.suites.values():
            download = "yes" if downloads(dataset.name) else "by hand"
            found.append(f"| {entry.suite}/{dataset.name} | {_sizes(entry)} | {_layouts(dataset, entry, folder)} | {download} |")
    return sorted(found)


def _sizes(entry: SuiteEntry) -> str:
    test = f"{entry.test:,}"
    if entry.trained_on is not None:
        return f"of {entry.trained_on} / {test}"
    if entry.train is None and entry.trainval is not None:
        return f"{entry.trainval:,} in all / {test}"
    return " / ".join("–" if size is None else f"{size:,}" for size in (entry.train, entry.val, entry.test))


def _layouts(dataset: Dataset, entry: SuiteEntry, folder: Path) -> str:
    texts = []
    for name in layouts_of(dataset, entry):
        if name == WRITERS.get(dataset.name, ("",))[0]:
            root = folder / f"{entry.suite}-{dataset.name}"
            root.mkdir()
            WRITERS[dataset.name][1](root)
            how = open_task(root, facts(dataset.name), facts(dataset.name).suites[entry.suite]).split
            texts.append(name if how == "published" else f"{name} ({how})")
        elif layout(name).expected(dataset, entry) is not None:
            texts.append(name)
    return ", ".join(texts) or "mnist"


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="petlbench.data")  # miniatures have other sizes


def test_the_table_is_complete_and_true(tmp_path: Path, cache: Path, quiet: None) -> None:
    table = "\n".join([HEADER, *lines(tmp_path)])
    assert table in PAGE.read_text(encoding="utf-8"), table
