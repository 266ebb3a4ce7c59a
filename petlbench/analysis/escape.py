"""Text from outside (names of methods, tasks and classes, errors, answers of servers) as each medium shows it and never obeys it.

A terminal is served by ``petlbench.errors.printable``, the page by ``petlbench.report.page.as_script_data``.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from petlbench.errors import printable

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # with which a spreadsheet begins a formula (OWASP, CSV injection)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "−": "$-$",
    "–": "--",
    "†": "$^{\\dagger}$",
}
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧſ"  # letters of Latin Extended-A that LaTeX does not define


def markdown(text: str) -> str:
    """Escape Markdown, HTML, formulas and column separators; line breaks and other white space become blanks.

    An underscore between letters or digits, as in ``zero_shot``, stays: it emphasises nothing.
    """
    escaped = re.sub(r"([\\|*`<>\[\]$~_]|^#(?=#*\s))", r"\\\1", printable(" ".join(text.split())))
    return re.sub(r"(?<=[^\W_])\\_(?=[^\W_])", "_", escaped)


def latex(text: str) -> str:
    """Escape text for LaTeX: specials escaped, control characters as blanks, letters that a T1 font lacks by their code point."""
    return "".join(_LATEX.get(character) or _latex_character(character) for character in text)


def _latex_character(character: str) -> str:
    if unicodedata.category(character).startswith(("C", "Z")):
        return " "
    is_in_t1 = character.isascii() or (character.isalpha() and ord(character) < 0x180 and character not in _NOT_IN_T1)
    return character if is_in_t1 else f"[U+{ord(character):04X}]"


def plotted(text: str) -> str:
    """Escape text for Matplotlib, which parses mathematics between two dollars, and for SVG, whose XML allows no control characters."""
    return printable(text).replace("$", r"\$")


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file: a text that a spreadsheet would compute gets an apostrophe before it; numbers, as texts too, stay."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_of(frame: pd.DataFrame) -> bytes:
    """Return a table as CSV in UTF-8, headings and cells as ``csv_cell``; numbers in full."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    safe = frame.assign(**{str(name): pd.Series(list(map(csv_cell, frame[name])), frame.index, object) for name in texts})
    return safe.rename(columns=csv_cell).to_csv(index=False, lineterminator="\n").encode()


def csv_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows of texts and numbers as CSV, headings and cells as ``csv_cell``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row[column]) for column in columns] for row in rows)
    return file.getvalue()
