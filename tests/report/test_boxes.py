"""Define rungs, boxes and their looks only in ``petlbench.access.rungs``: the ladder, published numbers, page and script follow."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import get_args

import pytest

from petlbench.access.rungs import BOXES, PAGE_COLOURS, STYLES, Access, hyphenated
from petlbench.published.numbers import PublishedNumber
from petlbench.report.page_data import page_data
from tests.report.pages import page

ASSETS = files("petlbench.report") / "page_assets"


def test_the_rungs_are_those_that_the_harness_enforces_in_their_order() -> None:
    assert list(BOXES) == [rung.name for rung in Access]


def test_every_box_has_a_look_of_its_own() -> None:
    assert set(STYLES) == set(PAGE_COLOURS) == set(BOXES.values())
    for looks in (*zip(*STYLES.values(), strict=True), *zip(*PAGE_COLOURS.values(), strict=True)):
        assert len(set(looks)) == len(looks)


def test_published_numbers_call_boxes_by_the_same_names() -> None:
    assert set(get_args(PublishedNumber.model_fields["access"].annotation)) == {"none", *map(hyphenated, STYLES)}


def test_the_page_is_told_the_rungs_and_markers() -> None:
    data = page_data([], {}, [])
    assert {rung["name"]: rung["box"] for rung in data["rungs"]} == BOXES
    assert data["markers"] == {box: marker for box, (_, marker) in STYLES.items()}


@pytest.mark.parametrize("name", ["charts.js", "tables.js", "details.js", "page.js", "page.css", "page.html"])
def test_the_pages_files_have_no_copy_of_them(name: str) -> None:
    text = (ASSETS / name).read_text(encoding="utf-8")
    assert [word for word in (*BOXES, *STYLES, *map(hyphenated, STYLES)) if re.search(rf"\b{word}\b", text)] == []


def test_the_pages_script_can_draw_every_marker() -> None:
    script = (ASSETS / "charts.js").read_text(encoding="utf-8")
    outlines = re.search(r"const OUTLINES = \{\n(.*?)\n\};", script, re.DOTALL)
    assert outlines is not None
    assert {marker for _, marker in STYLES.values()} <= set(re.findall(r'^  "?([^\s"])"?: \(x, y, r\)', outlines[1], re.MULTILINE))


def test_the_pages_style_colours_every_box() -> None:
    for box, (light, dark) in PAGE_COLOURS.items():
        assert f"svg .{hyphenated(box)} {{ fill: light-dark({light}, {dark}); }}" in page()
