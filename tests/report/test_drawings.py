"""Plots are drawn again when what they show has changed, and only then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petlbench.analysis.tables import Part, tables_of
from petlbench.report.drawings import Drawings
from tests.record_factory import SUITES, make_grid, make_record

RECORDS = make_grid(("zero_shot", "lora"), seeds=(0,))


class Pen:
    """Draws a file and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.drawn = folder, 0

    def __call__(self) -> list[Path]:
        self.drawn += 1
        self.folder.mkdir(exist_ok=True)
        (self.folder / "a.svg").write_text("<svg/>")
        return [self.folder / "a.svg"]


def part_of(accuracy: float = 80.0) -> Part:
    (part,) = tables_of([*RECORDS, make_record("full", accuracy=accuracy)], SUITES).parts
    return part


@pytest.fixture
def pen(tmp_path: Path) -> Pen:
    return Pen(tmp_path / "plots")


def draw(pen: Pen, part: Part, source: str = "here") -> int:
    """Ask for the plots of a part; return how often they were drawn so far."""
    drawings = Drawings(pen.folder)
    assert drawings.of(part, source, "mini").paths("plots", pen) == [pen.folder / "a.svg"]
    drawings.close()
    return pen.drawn


def test_what_is_unchanged_is_not_drawn_again(pen: Pen) -> None:
    assert [draw(pen, part_of()) for _ in range(3)] == [1, 1, 1]


def test_what_changed_or_is_gone_is_drawn_again(pen: Pen) -> None:
    assert draw(pen, part_of()) == 1
    assert draw(pen, part_of(80.00000001)) == 2
    assert draw(pen, part_of(80.00000001), "there") == 3
    (pen.folder / "a.svg").unlink()
    assert draw(pen, part_of(80.00000001), "there") == 4


def test_other_code_draws_again(pen: Pen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw(pen, part_of()) == 1
    monkeypatch.setattr("petlbench.report.drawings._code", lambda: "other")
    assert draw(pen, part_of()) == 2


@pytest.mark.parametrize("damage", ["{", "[]", '{"mini plots": 3}', "[" * 100_000, '{"mini plots": {"inputs": "x", "files": 5}}'])
def test_a_list_of_plots_that_cannot_be_read_draws_again(pen: Pen, damage: str) -> None:
    assert draw(pen, part_of()) == 1
    (pen.folder / ".drawn.json").write_text(damage)
    assert draw(pen, part_of()) == 2


def test_a_list_of_plots_names_no_file_elsewhere(pen: Pen) -> None:
    assert draw(pen, part_of()) == 1
    listed = pen.folder / ".drawn.json"
    known = json.loads(listed.read_text())
    (pen.folder.parent / "secret.svg").write_text("")
    known["mini plots"]["files"] = ["../secret.svg"]
    listed.write_text(json.dumps(known))
    assert draw(pen, part_of()) == 2
