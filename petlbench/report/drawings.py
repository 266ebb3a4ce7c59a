"""Draw only what changed: plots of a folder are kept while the numbers, the code and the library that they were drawn with are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from petlbench.analysis.tables import Part
from petlbench.errors import RecordError
from petlbench.records.file_names import exists
from petlbench.records.regular_file import read_regular
from petlbench.records.store import write_atomically

_FILE = ".drawn.json"  # in the folder of the plots: what they were drawn from


class Drawings:
    """The plots of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before, self.now = _read(folder / _FILE), dict[str, dict[str, Any]]()

    def of(self, part: Part, source: str, name: str) -> Drawing:
        """Return the plots of a part of the leaderboard, whose files are named after ``name``; ``source``: the line below every plot."""
        found = hashlib.sha256(f"{_code()} {source}".encode())
        for frame in (part.frame, part.behind):
            found.update(frame.to_json(orient="split", double_precision=15, default_handler=str).encode())
        return Drawing(self, source, name, found.hexdigest())

    def close(self) -> None:
        """Write what the plots were drawn from, for the next time."""
        if self.now != self.before:
            write_atomically(self.folder / _FILE, json.dumps(self.now, indent=1).encode())


@dataclass(frozen=True)
class Drawing:
    """The plots of one part of the leaderboard."""

    drawings: Drawings
    source: str
    name: str
    inputs: str  # a hash of all that they are drawn from

    @property
    def folder(self) -> Path:
        return self.drawings.folder

    def paths(self, kind: str, draw: Callable[[], list[Path]]) -> list[Path]:
        """Return the plots of a kind; they are drawn unless they were drawn from the same and are there."""
        key = f"{self.name} {kind}"
        before = self.drawings.before.get(key, {})
        paths = [self.folder / name for name in before.get("files", [])]
        if before.get("inputs") != self.inputs or not all(map(exists, paths)):
            paths = draw()
        self.drawings.now[key] = {"inputs": self.inputs, "files": [path.name for path in paths]}
        return paths


@cache
def _code() -> str:
    found = hashlib.sha256(version("matplotlib").encode())
    for room in ("report", "analysis"):
        for file in sorted(files(f"petlbench.{room}").iterdir(), key=lambda file: file.name):
            if file.name.endswith(".py"):
                found.update(file.read_bytes())
    return found.hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return what plots were drawn from; empty where that cannot be read, or names a file that is not beside it."""
    try:
        known = json.loads(read_regular(path, 2**24))
        groups = {str(group): {"inputs": str(one["inputs"]), "files": [str(name) for name in one["files"]]} for group, one in known.items()}
    except (RecordError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return {}
    return {} if any(Path(name).name != name for one in groups.values() for name in one["files"]) else groups
