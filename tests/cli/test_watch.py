"""petlbench leaderboard --watch: the page follows a bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench.records.store import Records, RecordStore
from petlbench.report.page import keep_page
from tests.conftest import Call
from tests.record_factory import SUITES, make_record


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.report.leaderboard.write_plots", lambda *_: [])
    monkeypatch.setattr("petlbench.report.leaderboard.write_query_plots", lambda *_: [])


def sleeping(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], object]) -> list[float]:
    """Replace each sleep by the next event, then press Ctrl-C; return the seconds of every sleep."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > len(events):
            raise KeyboardInterrupt
        events[len(slept) - 1]()

    monkeypatch.setattr(time, "sleep", sleep)
    return slept


@pytest.mark.usefixtures("no_plots")
def test_the_page_is_written_again_when_a_record_is_added_and_only_then(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, page = RecordStore(tmp_path / "results"), tmp_path / "results" / "leaderboard.html"
    written: list[str] = []

    def look() -> None:
        written.append(page.read_text())

    def add() -> None:
        look()
        store.write(make_record(seed=len(written)))

    slept = sleeping(monkeypatch, add, add, look, look)
    code, out, _ = call("leaderboard", "--watch", "3")
    assert code == 0
    assert slept == [3] * 5
    assert ["lora" in text for text in written] == [False, True, True, True]
    assert written[1] != written[2] == written[3]
    assert all('"refresh":3' in text for text in written)
    assert out.count("checks again every 3 s") == 3


def test_a_record_that_vanishes_while_it_is_looked_at_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path)
    store.write(make_record())
    monkeypatch.setattr(RecordStore, "paths", lambda _: [tmp_path / "gone.json", *sorted(tmp_path.glob("records/*/*/*.json"))])
    monkeypatch.setattr(RecordStore, "read", lambda _: Records([make_record()]))
    sleeping(monkeypatch)
    told: list[str] = []
    keep_page(tmp_path, SUITES, 5, told.append)
    assert "(records: 1)" in told[0]


@pytest.mark.parametrize("seconds", ["nan", "inf", "0"])
def test_an_interval_that_is_none_is_refused(call: Call, seconds: str) -> None:
    code, _, error = call("leaderboard", "--watch", seconds)
    assert code == 2
    assert "--watch" in error


@pytest.mark.usefixtures("no_plots")
def test_when_watching_ends_all_tables_are_written_and_the_page_rests(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RecordStore(tmp_path / "results").write(make_record())
    sleeping(monkeypatch)
    code, _, _ = call("leaderboard", "--watch")
    assert code == 0
    assert (tmp_path / "results" / "leaderboard.csv").exists()
    assert '"refresh":null' in (tmp_path / "results" / "leaderboard.html").read_text()
