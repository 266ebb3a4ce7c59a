"""Suites are named in YAML and not in code: what is special about one is a field of its YAML or of the facts."""

from __future__ import annotations

import ast
from pathlib import Path

import petlbench
import petlbench.datasets
from petlbench.config.files import names

FOLDERS = [Path(folder) for package in (petlbench, petlbench.datasets) for folder in package.__path__]
SUITES = set(names("suites")) - {"mini"}  # code may name mini: it renders its tasks itself and is the default of a bench


def named_suites(text: str) -> set[str]:
    """Find the names of suites, alone or before a task's name, in the strings of a module except docstrings."""
    tree = ast.parse(text)
    bare = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in bare]
    return {str(node.value).partition("/")[0] for node in strings} & SUITES


def test_no_code_names_a_suite() -> None:
    modules = sorted({path for folder in FOLDERS for path in folder.rglob("*.py")})
    assert len(modules) > 100
    assert {
        str(path): named_suites(path.read_text(encoding="utf-8")) for path in modules if named_suites(path.read_text(encoding="utf-8"))
    } == {}


def test_a_suite_that_is_named_is_found() -> None:
    assert named_suites('"""About vtab."""\nif suite == "vtab":\n    name = f"fgvc/{dataset}"\n') == {"vtab", "fgvc"}
