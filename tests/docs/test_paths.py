"""Every file and every module that a page names exists."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from petlbench.config.files import GROUP
from petlbench.registry import BACKBONES, METHODS, TASKS
from tests.docs.commands import PAGES, ROOT

_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`|^::: \S+", re.DOTALL | re.MULTILINE)
_MODULE = re.compile(r"(?<![\w./])petlbench(?:\.[A-Za-z_]\w*)+")
_TOPS = ("petlbench", "methods", "datasets", "configs", "tools", "tests", "docs", "benchmarks", "results/published", r"\.ci", r"\.github")
_PATH = re.compile(rf"(?<![\w./:=-])(?:{'|'.join(_TOPS)})/[\w./*…-]*")
_SOURCE = re.compile(r"(?<![\w./*…-])[\w-]+\.(?:py|yaml|toml|jsonc|cff|js)(?![\w.])")
_PLACEHOLDER = re.compile(r"\*|…|\b(?:NAME|FILE|SUITE|TABLE)\b")
GROUPS = {GROUP, *(f"petlbench.{registry.kind}s" for registry in (METHODS, TASKS, BACKBONES))}  # of entry points: names, not modules
MADE_BY_THE_READER = {"channel_scale", "mini_clip.safetensors", "asked_border"}


def named_modules(text: str) -> Iterator[str]:
    for code in _CODE.findall(text):
        yield from _MODULE.findall(code)


def named_files(text: str) -> Iterator[str]:
    """Paths from the top of the repository, and bare names of source files."""
    for code in _CODE.findall(text):
        for found in (*_PATH.findall(code), *_SOURCE.findall(code)):
            if not _PLACEHOLDER.search(found) and not any(made in found for made in MADE_BY_THE_READER):
                yield found.rstrip(".")


def is_known(name: str) -> bool:
    """Return True for a module, an attribute of one, or a group of entry points."""
    if name in GROUPS:
        return True
    module, attributes = name, []
    while module:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes.insert(0, last)
            continue
        for attribute in attributes:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@cache
def _names() -> frozenset[str]:
    folders = ("petlbench", "methods", "datasets", "configs", "tools", "tests", "benchmarks", "docs")
    return frozenset({path.name for folder in folders for path in (ROOT / folder).rglob("*")} | {path.name for path in ROOT.iterdir()})


def is_there(name: str) -> bool:
    return (ROOT / name).exists() if "/" in name else name in _names()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in named_modules(text) if not is_known(name)] == []
    assert [name for name in named_files(text) if not is_there(name)] == []


def test_what_does_not_exist_is_found() -> None:
    text = "`petlbench.serve.app`, `petlbench.api.run`, `petlbench/boxes.py`, `methods/lora.py`, `methods/NAME.py`, `nothing.yaml`\n::: petlbench.no"
    assert [name for name in named_modules(text) if not is_known(name)] == ["petlbench.serve.app", "petlbench.no"]
    assert [name for name in named_files(text) if not is_there(name)] == ["petlbench/boxes.py", "nothing.yaml"]
