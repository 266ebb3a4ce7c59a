"""The files of a paper's table: CSV, Markdown, LaTeX."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.analysis.escape import latex
from petlbench.report.paper_files import as_csv, as_latex, as_markdown, write_table
from tests.report.paper_records import filled, grid, run

HOSTILE = r"a_b & 100% #1 {x} ~^ $y$ \input{/etc/passwd} <script>|cell| `code` **bold** 中"


def table_of(latex: str) -> list[list[str]]:
    """The rows of a tabular, split where LaTeX splits them."""
    body = latex.split("\\toprule")[1].split("\\bottomrule", maxsplit=1)[0]
    lines = [re.sub(r"^(\\(midrule|addlinespace|cmidrule\S*( \\cmidrule\S*)*)\n)+", "", line.strip("\n")) for line in body.split(" \\\\")]
    return [re.split(r"(?<!\\)&", line) for line in lines if line.strip() and "multicolumn" not in line]


def width_of(cells: list[str]) -> int:
    return sum(int(match[1]) if (match := re.search(r"\\multicolumn\{(\d+)\}", cell)) else 1 for cell in cells)


def hostile() -> str:
    others = [run(name, "fgvc/nabirds") for name in (HOSTILE, "[bracket]", "[1cm]")]
    return as_latex(filled("vpt", "fgvc", [*grid("fgvc", "vpt"), *others]), "tab:vpt")


def test_markdown_shows_ours_the_published_number_and_the_difference() -> None:
    text = as_markdown(filled("vpt", "fgvc", grid("fgvc", "vpt", 89.0)))
    line = next(i for i, line in enumerate(text.splitlines()) if line.startswith("| VPT-Deep"))
    cells = [[cell.strip() for cell in text.splitlines()[line + i].split("|")[2:4]] for i in range(3)]
    assert cells == [["ours", "90.0† ± 1.0 (3)"], ["published", "88.5 r"], ["difference", "+1.5"]]


def test_markdown_keeps_its_columns_whatever_a_method_is_called() -> None:
    text = as_markdown(filled("vpt", "fgvc", [run(HOSTILE, "fgvc/nabirds")]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<script>" not in text.replace("\\<script\\>", "")


def test_every_latex_row_has_as_many_cells_as_columns() -> None:
    latex = hostile()
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", latex)
    assert columns is not None
    assert {width_of(row) for row in table_of(latex)} == {len(columns[1])}


def test_latex_heads_groups_over_their_columns() -> None:
    latex = as_latex(filled("vpt", "vtab", []), "tab:vpt")
    assert [width_of(line.split("&")) for line in latex.splitlines() if "multicolumn" in line] == [26]
    assert "\\cmidrule(lr){3-10} \\cmidrule(lr){11-15} \\cmidrule(lr){16-24}" in latex


def test_latex_of_many_columns_has_deviations_below_means() -> None:
    rows = table_of(as_latex(filled("vpt", "vtab", grid("vtab", "vpt", 70.0)), "tab:vpt"))
    lines = {row[1].strip(): row[2].strip() for row in rows if row[1].strip() != "ours" or "71.0" in row[2]}
    assert (lines["ours"], lines["$\\pm$ (seeds)"]) == ("71.00$^{\\dagger}$", "$\\pm$ 1.00 (3)")


def test_latex_environments_and_braces_are_balanced() -> None:
    latex = hostile()
    assert re.findall(r"\\begin\{(\w+\*?)\}", latex) == list(reversed(re.findall(r"\\end\{(\w+\*?)\}", latex)))
    assert len(re.findall(r"(?<!\\)\{", latex)) == len(re.findall(r"(?<!\\)\}", latex))


@given(st.text())
def test_escaped_text_holds_no_command_of_its_own(text: str) -> None:
    words = "textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar"
    escaped = re.sub(rf"\\({words})\{{\}}|\$(\\pm|-|\^\{{\\dagger\}})\$", "", latex(text))
    assert not re.search(r"(?<!\\)[&%$#_{}~^]|\\[^&%$#_{}]|[\n\r]", escaped)


def test_a_name_in_brackets_is_no_argument_of_the_rule_above_it() -> None:
    assert not re.search(r"\\(midrule|addlinespace)\s*\[", hostile())
    assert "{}[bracket]" in hostile()


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert "−0.0" not in as_markdown(filled("vpt", "fgvc", grid("fgvc", "vpt", 88.49, seeds=(0,))))


def test_a_hostile_name_reads_nothing_into_a_document() -> None:
    assert "\\input" not in hostile()
    assert "[U+4E2D]" in hostile()
    assert latex("Łódź ħ") == "Łódź [U+0127]"


def test_csv_has_full_floats_and_empty_cells() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(filled("vpt", "fgvc", grid("fgvc", "vpt", 89.0 + 1 / 3))))))
    row = next(row for row in rows if row["method"] == "VPT-Deep")
    assert (float(row["nabirds ours"]), row["nabirds published"], row["nabirds seeds"]) == (pytest.approx(90 + 1 / 3), "84.2", "3")
    assert next(row for row in rows if row["method"] == "Sidetune")["nabirds ours"] == ""


def test_every_panel_is_written_in_every_format(tmp_path: Path) -> None:
    written = write_table(tmp_path, "vpt", {"fgvc": filled("vpt", "fgvc", []), "vtab": filled("vpt", "vtab", [])})
    assert [path.name for path in written] == [f"vpt-{panel}.{suffix}" for panel in ("fgvc", "vtab") for suffix in ("csv", "md", "tex")]
    assert all(path.read_text() for path in written)


def test_latex_compiles_where_there_is_a_latex(tmp_path: Path) -> None:
    latex = shutil.which("pdflatex")
    document = (
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\\begin{document}" + hostile() + "\\end{document}"
    )
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    done = subprocess.run([latex, "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False) if latex else None
    assert done is None or done.returncode == 0, done.stdout[-2000:]
