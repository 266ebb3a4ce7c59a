"""Run every block of docs/python.md in order and compare with what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    result, study, planned, runs = (names[name] for name in ("result", "study", "planned", "runs"))
    assert result.status == "ok" and result.path.exists() and 0 < result.accuracy <= 100
    assert repr(result).startswith("<linear on mini/digits, seed 0: accuracy ")
    assert len(study) == 3 and not study.failures  # linear on mini/digits was there
    assert "mini/textures" in study._repr_html_() and "zero_shot" in repr(study)
    assert [run.state for run in planned.runs] == ["done", "missing", "done", "missing"]
    assert isinstance(runs, pd.DataFrame) and set(runs["method"]) == {"zero_shot", "linear"}
    assert list(study.leaderboard()["method"]) != []
