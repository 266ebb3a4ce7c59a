"""Write the leaderboard as one self-contained HTML file: style, script and all data are in it."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from petlbench.analysis.tables import Tables
from petlbench.published.numbers import published
from petlbench.records.reader import Reader
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, write_atomically
from petlbench.report.page_data import page_data
from petlbench.report.style import PAGE_COLOURS, hyphenated

_SCRIPTS = ("charts.js", "tables.js", "details.js", "page.js")  # one script, in this order


def write_page(
    results: Path,
    records: Sequence[Record],
    suites: Mapping[str, Sequence[str]],
    refresh_seconds: float | None = None,
    tables: Tables | None = None,
) -> Path:
    """Write leaderboard.html in a results folder; return its path. Arguments are those of ``page_data`` and ``page_html``."""
    path = results / "leaderboard.html"
    write_atomically(path, page_html(page_data(records, suites, published(), results, tables), refresh_seconds).encode())
    return path


def keep_page(results: Path, suites: Mapping[str, Sequence[str]], seconds: float, tell: Callable[[str], None]) -> None:
    """Write the page whenever records changed, checking every ``seconds``, until KeyboardInterrupt; an open page reloads itself."""
    reader, is_first = Reader(RecordStore(results)), True
    with suppress(KeyboardInterrupt):
        while True:
            if is_first or reader.has_news():
                records, is_first = reader.read(), False
                path = write_page(results, records, suites, seconds)
                for line in records.broken:
                    tell(f"left out: {line}")
                count = len(records) + len(records.broken)
                tell(f"{path} (records: {count}); checks again every {seconds:g} s, Ctrl-C ends")
            time.sleep(seconds)


def page_html(data: Mapping[str, Any], refresh_seconds: float | None = None) -> str:
    """Render the page for ``page_data``. With ``refresh_seconds`` it reloads itself that often.

    Its Content-Security-Policy allows only the hashes of its own style and script, so that text from records cannot become code.
    """
    folder = files("petlbench.report") / "page_assets"
    style = (folder / "page.css").read_text(encoding="utf-8") + _colours_of_boxes()
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=as_script_data({**data, "refresh": refresh_seconds}),
    )


def _colours_of_boxes() -> str:
    rules = [f"svg .{hyphenated(box)} {{ fill: light-dark({light}, {dark}); }}" for box, (light, dark) in PAGE_COLOURS.items()]
    return "\n".join(["", *rules, ""])


def as_script_data(data: Any) -> str:
    """Return JSON for a <script> element, with every < escaped: a parser would end the element at "</script" and change state at "<!--"."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """Return the Content-Security-Policy source for an inline element with this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
