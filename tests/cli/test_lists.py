"""Lists through the real command: what they show is known without importing plugins, and is never older than these."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench.cli import remembered as module
from petlbench.cli.remembered import Facts, remembered
from petlbench.registry import METHODS, Registry

LISTED = ("methods", "suites", "tasks", "backbones", "recipes")
HEAVY = ("torch", "timm", "open_clip", "transformers", "torchvision", "cma", "optuna", "ray")
LIST = """
import sys
from petlbench.cli import main
sys.argv[0] = "petlbench"
try:
    main()
finally:
    print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def _listed(kind: str, cache: Path) -> tuple[str, str]:
    """What a command prints, and which of the heavy libraries it imported."""
    words = [sys.executable, "-c", LIST.format(heavy=HEAVY), kind]
    reply = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | {"PETLBENCH_CACHE": str(cache)})
    return reply.stdout, reply.stderr.strip()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A cache after a first list of methods and of backbones, and what these printed."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, {kind: _listed(kind, cache)[0] for kind in ("methods", "backbones")}


@pytest.mark.parametrize("kind", LISTED)
def test_a_list_imports_no_library_that_takes_seconds(known: tuple[Path, dict[str, str]], kind: str) -> None:
    cache, first = known
    printed, heavy = _listed(kind, cache)
    assert heavy == ""
    assert printed == first.get(kind, printed) and len(printed.splitlines()) > 2


def test_the_list_shows_every_method_as_its_class_says(known: tuple[Path, dict[str, str]]) -> None:
    lines = {line.split()[0]: line for line in known[1]["methods"].splitlines() if line[0].strip()}
    for name in METHODS.known():
        assert lines[name].split()[1:2] == [METHODS.get(name).access.name]


@pytest.fixture
def plugins(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str]:
    """A package of one plugin, which says what is in a file, and in a module that it imports."""
    monkeypatch.setattr("petlbench.registry.entry_points", lambda group: [])
    monkeypatch.setattr(module, "is_settled", lambda found: True)
    folder = tmp_path / "nuts"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "hazel.py").write_text("")
    (tmp_path / "shell.txt").write_text("hard")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path[1:]])
    return Registry("nut", "nuts")


@pytest.fixture
def find(tmp_path: Path) -> Callable[[], Facts]:
    """Counts how often it is asked, and reads a file beside the plugins."""
    asked: list[int] = []

    def find() -> Facts:
        asked.append(1)
        return {"hazel": {"shell": (tmp_path / "shell.txt").read_text(), "asked": len(asked)}}

    return find


def test_what_was_found_once_is_known(plugins: Registry[str], find: Callable[[], Facts]) -> None:
    assert remembered(plugins, find) == remembered(plugins, find) == {"hazel": {"shell": "hard", "asked": 1}}


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "shell.txt").write_text("soft"),
        lambda folder: (folder / "nuts" / "wal.py").write_text(""),
        lambda folder: (folder / "nuts" / "hazel.py").unlink(),
        lambda folder: (folder / "more-1.0.dist-info").mkdir(),
        lambda folder: (folder / "json.py").write_text(""),
        lambda folder: next((folder / "cache" / "lists").iterdir()).write_text('{"facts": 1}'),
    ],
    ids=[
        "a file that was read",
        "a new plugin",
        "a plugin less",
        "a package is installed",
        "a module hides another",
        "the cache is damaged",
    ],
)
def test_it_is_found_again_when_something_changed(
    plugins: Registry[str], find: Callable[[], Facts], tmp_path: Path, change: Callable[[Path], object]
) -> None:
    remembered(plugins, find)
    change(tmp_path)
    found = remembered(plugins, find)
    assert found == {"hazel": {"shell": (tmp_path / "shell.txt").read_text(), "asked": 2}}


def test_a_file_beside_the_path_does_not_count(plugins: Registry[str], find: Callable[[], Facts], tmp_path: Path) -> None:
    """Such as results in the folder that ``python -m petlbench`` is called in."""
    remembered(plugins, find)
    (tmp_path / "results").mkdir()
    assert remembered(plugins, find)["hazel"]["asked"] == 1


def test_nothing_is_remembered_while_a_plugin_is_broken(plugins: Registry[str], tmp_path: Path) -> None:
    (tmp_path / "nuts" / "rotten.py").write_text("undefined_name")

    def find() -> Facts:
        return {name: {} for name in plugins.names()}

    for _ in range(2):
        with pytest.warns(UserWarning, match=r"nuts\.rotten cannot be imported: NameError"):
            assert remembered(plugins, find) == {}
