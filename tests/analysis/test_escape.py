"""Text from outside, in every medium that shows it."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import markdown as as_html
from matplotlib.figure import Figure

from petlbench.analysis.escape import csv_cell, csv_of, csv_rows, markdown, plotted

HOSTILE = (
    *("<script>alert(1)</script>", "[a](http://b)", "![a](http://b)", "`a`", "**a**", "__a__", "_a_", "a|b", "\\|", "# a", "$x$", "~~a~~"),
    *("a\n\n# b", "<!-- a", "&lt;b&gt;", "\x1b[31m", "a\\", "<http://b>", "[a]: http://b"),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_a_name_is_one_cell_of_plain_text(text: str) -> None:
    html = as_html(f"|a|b|\n|-|-|\n|{markdown(text)}|end|\n", extensions=["tables"])
    assert set(re.findall(r"<(\w+)", html)) <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert html.count("<td>") == 2 and "<td>end</td>" in html


def test_markdown_leaves_ordinary_names_alone() -> None:
    assert markdown("zero_shot") == "zero_shot" and markdown("mean ± 0.5 (#3)") == "mean ± 0.5 (#3)"
    assert markdown("lora [rank=4]") == r"lora \[rank=4\]"


@given(st.text())
def test_a_cell_of_csv_is_no_formula_and_keeps_its_text(text: str) -> None:
    cell = csv_cell(text)
    assert cell in (text, f"'{text}")
    assert not cell.startswith(tuple("=@\t\r")) and (not cell.startswith(("+", "-")) or float(cell) is not None)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_stay_numbers(number: float) -> None:
    assert csv_cell(number) is number and csv_cell(repr(number)) == repr(number)


def test_headings_and_cells_of_a_table_are_escaped_and_its_numbers_are_not() -> None:
    frame = pd.DataFrame({"=1+1": ["@a", "b"], "number": [-1.5, 2.0], "count": pd.array([1, None], dtype="Int64")})
    assert csv_of(frame).decode() == "'=1+1,number,count\n'@a,-1.5,1\nb,2.0,\n"
    assert list(csv.reader(io.StringIO(csv_rows(["-a", "b"], [{"-a": "+x", "b": -1}])))) == [["'-a", "b"], ["'+x", "-1"]]


@pytest.mark.parametrize("text", [r"$\frac{1}{2}$", "$", "$$", r"\$x$", "<a>&\"'", "a\x1b\x00\x0b", "$\\undefined$"])
def test_a_picture_shows_a_name_as_it_is(text: str) -> None:
    figure, file = Figure(), io.StringIO()
    shown = figure.text(0.5, 0.5, plotted(text))
    figure.savefig(file, format="svg")
    ElementTree.fromstring(file.getvalue())
    assert not shown._preprocess_math(shown.get_text())[1]  # type: ignore[attr-defined]
