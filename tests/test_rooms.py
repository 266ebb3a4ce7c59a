"""The house: rooms import only rooms below them, nothing in the core names a plugin, and each room says what it is for."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import petlbench

ROOT = Path(petlbench.__file__).parent
# From the ground up. What stands in one line may not import each other.
FLOORS = (
    ("errors", "torchvision_ops"),
    ("registry",),
    ("config",),
    ("nn", "records"),
    ("optim",),
    ("data",),
    ("access",),
    ("method",),
    ("backbones",),
    ("remote", "published"),
    ("learners",),
    ("checkpoints", "analysis"),
    ("report", "runs"),
    ("executors",),
    ("tuning",),
    ("api",),
    ("cli",),
    ("testing",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ABOVE_ALL = ("__init__", "__main__")  # the doors: they lead to the API and to the command line
PLUGINS = ("petlbench.methods", "petlbench.datasets", "tools", "benchmarks", "tests")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Return line and module of every import in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: name the module in full"
            module = node.module or ""
            yield from ((node.lineno, f"{module}.{name.name}" if module == "petlbench" else module) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)


def upward(path: Path) -> list[str]:
    """Return the imports of a file that do not go to a lower room."""
    room = room_of(path)
    if room in ABOVE_ALL:
        return []
    found = []
    for line, module in imported(path):
        package, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if package == "petlbench" and other in FLOOR and other != room and FLOOR[other] >= FLOOR[room]:
            found.append(f"{path.relative_to(ROOT.parent)}:{line}: {room} imports {other}")
    return found


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def test_imports_only_go_down() -> None:
    assert [line for path in modules() for line in upward(path)] == []


def test_every_room_stands_on_a_floor_and_no_floor_is_empty() -> None:
    assert {room_of(path) for path in modules()} - set(ABOVE_ALL) == set(FLOOR)


def test_the_core_names_no_plugin() -> None:
    named = [(path.name, module) for path in modules() for _, module in imported(path) if module.startswith(PLUGINS)]
    assert named == []


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_a_room_says_what_it_is_for(room: str) -> None:
    assert len((importlib.import_module(f"petlbench.{room}").__doc__ or "").split()) >= 5


def test_an_import_that_goes_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_rooms.ROOT", tmp_path)
    (tmp_path / "records").mkdir()
    wrong = tmp_path / "records" / "schema.py"
    wrong.write_text("def late():\n    from petlbench import api\n    from petlbench.records.store import x\n    import petlbench.errors\n")
    assert upward(wrong) == [f"{wrong.relative_to(tmp_path.parent)}:2: records imports api"]
