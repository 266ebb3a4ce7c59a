"""What lists show of plugins, without importing them: found by one import and remembered as long as no file that it read has changed.

``CACHE/lists/KIND.json`` holds the facts with the state (``records.file_state``) of every file that was opened to find them: the plugins, what they
import, and what they read. Installing or removing a package changes the folder it lies in. A file that is lost or torn only costs time. Nothing is
remembered while a plugin is broken: its reason is always that of now.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from petlbench.config.cache_folder import cache_folder
from petlbench.errors import RecordError
from petlbench.records.file_state import is_settled, state_text
from petlbench.records.regular_file import read_regular
from petlbench.records.store import write_atomically
from petlbench.registry import Registry

Facts = dict[str, dict[str, Any]]  # name -> column -> what a list shows there
_MOST = 2**26  # bytes of what is remembered
_OF_SYSTEM = ("/proc/", "/sys/", "/dev/")  # files that are never the same
_watching: list[set[str]] = []  # for each block of ``_watched`` that is being carried out, the files that it opened


def remembered(plugins: Registry[Any], find: Callable[[], Facts]) -> Facts:
    """Return the facts that ``find`` finds in the plugins of a registry, or found earlier. It warns of broken plugins."""
    file = cache_folder() / "lists" / f"{plugins.kind}s-{hashlib.sha256(sys.prefix.encode(errors='surrogatepass')).hexdigest()[:8]}.json"
    facts = _recalled(file)
    if facts is None:
        with warnings.catch_warnings(record=True) as said, _watched() as opened:
            warnings.simplefilter("always", UserWarning)
            facts = find()
        for one in said:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if not plugins.has_broken:
            _remember(plugins, file, opened, facts)
    return facts


def _recalled(file: Path) -> Facts | None:
    """Return what was remembered; None when there is nothing, or when it may not be so any more."""
    try:
        saved = json.loads(read_regular(file, _MOST))
        is_true = saved["around"] == _surroundings(saved["folders"], saved["tops"]) and all(
            _state(name) == state for name, state in saved["files"].items()
        )
        return dict(saved["facts"]) if is_true else None
    except (RecordError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _remember(plugins: Registry[Any], file: Path, opened: set[str], facts: Facts) -> None:
    modules = {name: module for name, module in sys.modules.items() if name.isidentifier() or "." in name}
    loaded = {path for module in modules.values() if isinstance(path := getattr(module, "__file__", None), str)}
    files = {os.path.abspath(path) for path in opened | loaded if not path.endswith(".pyc")}  # noqa: PTH100 (keeps links)
    tops = sorted({name.partition(".")[0] for name in modules})
    kept = {name for name in files if not name.startswith(_OF_SYSTEM)}
    if all(_is_settled(name) for name in kept):
        states = {name: _state(name) for name in sorted(kept)}
        folders = _folders(plugins)
        saved = {"around": _surroundings(folders, tops), "folders": folders, "tops": tops, "files": states, "facts": facts}
        with suppress(RecordError, ValueError):  # a name that is no Unicode
            write_atomically(file, json.dumps(saved).encode())


@contextmanager
def _watched() -> Iterator[set[str]]:
    """Collect the files that are opened for reading in this block."""
    _watch()
    _watching.append(set())
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


@cache
def _watch() -> None:
    sys.addaudithook(_note)  # which stays as long as the process


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str) and arguments[2] & os.O_ACCMODE == os.O_RDONLY:
        _watching[-1].add(arguments[0])


def _surroundings(folders: list[str], tops: list[str]) -> list[list[Any]]:
    """Return what decides which file an import finds: the interpreter, the folders of plugins and packages, and modules that lie elsewhere on the path."""
    found: list[list[Any]] = [[sys.version], *([folder, _state(folder)] for folder in folders)]
    for place in sys.path:
        folder = os.path.abspath(place)  # noqa: PTH100 (keeps links)
        names = _names_in(folder)
        own = [name for name in names if name.endswith("-info") or (name.partition(".")[0] in tops and _is_importable(folder, name))]
        if own:
            is_for_packages = folder.startswith((sys.prefix, sys.base_prefix)) and any(name.endswith("-info") for name in own)
            found.append([folder, _state(folder)] if is_for_packages else [folder, *own])
    return found


def _is_importable(folder: str, name: str) -> bool:
    return name.endswith((".py", ".so", ".pyd", ".pyc")) or os.path.isdir(os.path.join(folder, name))  # noqa: PTH112, PTH118


def _folders(plugins: Registry[Any]) -> list[str]:
    """Return the folders that plugins are looked for in."""
    specs = [find_spec(location) for location in plugins.locations]
    return [str(folder) for spec in specs if spec is not None for folder in spec.submodule_search_locations or ()]


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (texts, not paths)
    except OSError:
        return []


def _state(file: str) -> str:
    """Return the state of a file or folder; empty when it is not there."""
    try:
        return state_text(os.stat(file))  # noqa: PTH116 (of many files, for which paths take long to make)
    except (OSError, ValueError):
        return ""


def _is_settled(file: str) -> bool:
    try:
        return is_settled(os.stat(file))  # noqa: PTH116
    except (OSError, ValueError):
        return True
