"""Every setting that a page or a comment of a configuration names exists."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from petlbench.config.resolve import load_method
from petlbench.config.settings import BackboneChoice, Budget, Protocol, QueryConfig, Train
from petlbench.method import METHODS

ROOT = Path(__file__).parents[2]
SECTIONS = {"protocol": Protocol, "train": Train, "access": QueryConfig, "budget": Budget, "backbone": BackboneChoice}
FILES = [*sorted(ROOT.glob("configs/*/*.yaml")), *sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]
DOTTED = re.compile(rf"(?<![\w./]){'(' + '|'.join([*SECTIONS, 'method']) + ')'}\.(?!(?:md|py|yaml|json|txt|csv)\b)([a-z]\w*)")
LISTED = re.compile(rf"\bOf ({'|'.join(SECTIONS)}) only ([\w, \n#]+?) (?:is|are) used")


def prose(path: Path) -> str:
    """Return a page, or the comments of a YAML file."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else "\n".join(line.partition("#")[2] for line in text.splitlines())


def named_settings(text: str) -> Iterator[tuple[str, str]]:
    """Find (section, field) of ``train.epochs``, and of lists such as "Of train only epochs and batch_size are used"."""
    yield from DOTTED.findall(text)
    for section, listed in LISTED.findall(text):
        for field in re.split(r",\s*|\s+and\s+", listed.strip()):
            yield section, field


def fields_of(section: str, path: Path) -> set[str]:
    """Return the fields of a section; for ``method`` those of the file's own method, on pages those of all methods and of new-method's template."""
    if section in SECTIONS:
        own = {"trials"} if section == "budget" else set()  # of a study
        return own | {field.name for field in dataclasses.fields(SECTIONS[section])}
    plugins = [load_method(path.stem)[0]] if path.parent.name == "methods" else [METHODS.get(name) for name in METHODS.names()]
    template = next((ROOT / "petlbench").rglob("method.py.txt")).read_text(encoding="utf-8") if path.suffix == ".md" else ""
    written = set(re.findall(r"^    (\w+): \w+ = ", template, re.MULTILINE))
    return written | {field.name for plugin in plugins for field in dataclasses.fields(plugin.Config)}


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])
def test_settings_that_are_named_exist(path: Path) -> None:
    unknown = {f"{section}.{field}" for section, field in named_settings(prose(path)) if field not in fields_of(section, path)}
    assert not unknown


def test_a_setting_is_found_in_prose() -> None:
    text = (
        "With `train.curve=false`; see docs/access.md or access.md. Of train only epochs, drop_last and\n curve are used: rates are others."
    )
    assert list(named_settings(text)) == [("train", "curve"), ("train", "epochs"), ("train", "drop_last"), ("train", "curve")]
