"""What a plan needs of every record in a results folder, each file read once: one that has not changed since is not read again.

``CACHE/records/FOLDER.json`` holds, for every record that was read, the state that its file had then (``file_state``). It only saves time: one that is
lost, torn, foreign or of other code is as good as none, and of two processes that write it the last one wins.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from petlbench.config.cache_folder import cache_folder
from petlbench.errors import RecordError, is_unicode
from petlbench.records import entry, fields, schema
from petlbench.records.entry import Entry
from petlbench.records.file_state import is_settled, state_text
from petlbench.records.regular_file import read_regular
from petlbench.records.schema import read_record
from petlbench.records.store import RecordStore, scanned, write_atomically

_MOST = 2**30  # bytes of an index


@dataclass
class _Row:
    """What is remembered of a record's file, and of the files beside it that were found intact: name -> state and the hash that was asked for."""

    state: str
    entry: Entry
    intact: dict[str, tuple[str, str | None]] = field(default_factory=dict)


@dataclass
class _Saved:
    code: str
    rows: dict[str, _Row]  # by the path below the folder of records


_SAVED = TypeAdapter(_Saved)
_SAVING = threading.Lock()  # of the threads of a process


class RecordIndex(RecordStore):
    """The records below a results folder as they were when this was made: what it knows is not looked up again.

    ``broken``: of every record that cannot be read, a line that names it and says what is wrong.
    """

    def __init__(self, results: Path) -> None:
        super().__init__(results)
        self._place = len(str(self.folder)) + 1  # of the part of a path that is below the folder
        self._saved = _load(self.folder)
        self._rows: dict[str, _Row] = {}
        self._unsettled: set[str] = set()  # paths of files that may change once more and keep their state
        self._results: dict[tuple[str, str, int], list[tuple[Path, Entry]]] | None = None
        self._has_news = False
        broken = []
        listed = sorted(scanned(self.folder), key=lambda file: file.path.replace(os.sep, "\0"))  # as paths are sorted: part by part
        for file in listed:
            if (row := self._row(file)) is None:
                broken.append(_problem(Path(file.path)))
            else:
                self._rows[file.path] = row
        self._paths = sorted(file.path for file in listed)
        self.broken = tuple(line for line in broken if line)

    def _row(self, listed: os.DirEntry[str]) -> _Row | None:
        """Return what is known of a record, which is read if it is new or has changed; None if it cannot be read."""
        try:
            found = listed.stat()
            state = state_text(found)
            row = self._saved.get(listed.path[self._place :])
            if row is not None and row.state == state:
                return row
            if not is_settled(found):
                self._unsettled.add(listed.path)
            record = self.find(Path(listed.path))
        except (OSError, RecordError):
            return None
        if record is None:
            return None
        self._has_news = True
        return _Row(state, Entry.model_validate(record))

    def entries(self) -> Iterator[Entry]:
        """Return what is known of every record that can be read, in the order of their paths."""
        return (row.entry for row in self._rows.values())

    def _entry(self, path: Path) -> Entry | None:
        row = self._rows.get(str(path))
        return super()._entry(path) if row is None else row.entry  # the former: what cannot be read, or was written meanwhile

    def results_like(self, method: str, backbone: str, seed: int) -> list[tuple[Path, Entry]]:
        """Return what is known of the results of a method on a backbone with a seed, on any task."""
        if self._results is None:
            self._results = defaultdict(list)
            for path, row in self._rows.items():
                if row.entry.has_result:
                    self._results[row.entry.method.name, row.entry.backbone.name, row.entry.seed].append((Path(path), row.entry))
        return self._results.get((method, backbone, seed), [])

    def save(self) -> None:
        """Remember what was read, for the next process. Nothing happens where the cache cannot be written."""
        rows = {path[self._place :]: row for path, row in self._rows.items() if path not in self._unsettled and is_unicode(path)}
        if not self._has_news and rows.keys() == self._saved.keys():
            return
        with suppress(RecordError), _SAVING:
            write_atomically(_file_of(self.folder), _SAVED.dump_json(_Saved(_code(), rows)))
        self._has_news, self._saved = False, rows

    def _exists(self, path: Path) -> bool:
        return str(path) in self._rows or super()._exists(path)

    def _beside(self, path: Path) -> list[Path]:
        start, found = f"{str(path).removesuffix('.json')}-", []
        for place in range(bisect_left(self._paths, start), len(self._paths)):
            if not self._paths[place].startswith(start):
                break
            if os.sep not in self._paths[place][len(start) :]:
                found.append(Path(self._paths[place]))
        return found

    def _is_intact(self, record: Path, file: Path, sha256: str | None) -> bool:
        row, name = self._rows.get(str(record)), os.path.relpath(file, record.parent)
        try:
            found = os.stat(file)  # noqa: PTH116 (of many files, for which paths take long to make)
        except (OSError, ValueError):
            return False
        known = (state_text(found), sha256)
        if row is not None and row.intact.get(name) == known:
            return True
        is_intact = super()._is_intact(record, file, sha256)
        if is_intact and row is not None and is_settled(found):
            row.intact[name], self._has_news = known, True
        return is_intact


def _problem(path: Path) -> str:
    """Return why a record cannot be read; empty if it can be by now, or is gone."""
    try:
        read_record(path)
    except RecordError as error:
        return str(error)
    return ""


def _file_of(folder: Path) -> Path:
    return cache_folder() / "records" / f"{hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]}.json"  # noqa: PTH100 (keeps links)


def _load(folder: Path) -> dict[str, _Row]:
    """Return the rows that were saved by this code; none where there is no such file."""
    try:
        saved = _SAVED.validate_json(read_regular(_file_of(folder), _MOST))
    except (RecordError, ValidationError):
        return {}
    return saved.rows if saved.code == _code() else {}


@cache
def _code() -> str:
    """Return a hash of the code that decides whether a record is valid, and what an entry is."""
    sources = [Path(module).read_bytes() for module in (schema.__file__, fields.__file__, entry.__file__)]
    return hashlib.sha256(b"".join(sources)).hexdigest()
