"""The script through its command line, with runs that sleep for no time, in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import scaling
from petlbench.registry import METHODS


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the method that the script brings."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    yield
    METHODS._targets.pop("sleeper", None)
    METHODS._origins.pop("sleeper", None)
    sys.modules.pop("sleeper", None)


@pytest.mark.usefixtures("restored")
def test_every_number_of_workers_has_a_row_whose_efficiency_is_what_it_says(tmp_path: Path) -> None:
    words = ["--workers", "1", "--executors", "local", "--seconds", "0", "--runs", "1", "--json", str(tmp_path / "scaling.json")]
    result = CliRunner().invoke(scaling.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "scaling.json").read_text())
    (row,), own = document["results"], document["own_seconds"]
    assert (row["executor"], row["workers"], row["runs"]) == ("local", 1, 1)
    assert row["efficiency"] == pytest.approx(own / row["seconds"])
    assert row["overhead_ms"] == pytest.approx((row["seconds"] - own) * 1000)


@pytest.mark.parametrize("words", [["--workers", "0"], ["--workers", "two"], ["--executors", "local,slurm"]])
def test_other_words_are_refused_before_anything_is_measured(words: list[str]) -> None:
    result = CliRunner().invoke(scaling.main, words)
    assert result.exit_code == 2 and words[1].rpartition(",")[2] in result.output
