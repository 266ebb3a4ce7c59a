"""Read the records of a folder for tables: every file once as long as it stays what it is, and of each only what tables show.

So memory grows by some KB with each record, however long its run was, and a page that follows a bench reads what is new.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from petlbench.errors import RecordError
from petlbench.records.labels import published
from petlbench.records.schema import Record, read_record
from petlbench.records.store import Records, RecordStore

Stamp = tuple[int, int, int]  # of a file: inode, size, time of the last change, ns


class Reader:
    """Reads the records below a results folder, again and again."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self._known: dict[Path, tuple[Stamp, Record | str]] = {}  # the record, or a line that says why it cannot be read

    def has_news(self) -> bool:
        """Return True if a file was added, changed or removed since the last reading."""
        return self._stamps() != {path: stamp for path, (stamp, _) in self._known.items()}

    def read(self, progress: Callable[[int, int], None] = lambda done, total: None) -> Records:
        """Read what is new or changed; return all records, as ``RecordStore.read`` but ``for_tables``. ``progress``: told files read, of how many."""
        stamps = self._stamps()
        known = {path: self._known[path] for path, stamp in stamps.items() if path in self._known and self._known[path][0] == stamp}
        new = [path for path in stamps if path not in known]
        for done, path in enumerate(new, start=1):
            known[path] = (stamps[path], _read(path))
            progress(done, len(new))
        self._known = {path: known[path] for path in stamps}
        found = [content for _, content in self._known.values()]
        return Records((one for one in found if isinstance(one, Record)), (one for one in found if isinstance(one, str)))

    def _stamps(self) -> dict[Path, Stamp]:
        """Return the state of each record file, without files that were deleted meanwhile."""
        stamps = {}
        for path in self.store.paths():
            try:
                state = path.stat()
            except FileNotFoundError:
                if not path.is_symlink():
                    continue
                stamps[path] = (0, 0, 0)  # a link to nothing is a record that cannot be read
            else:
                stamps[path] = (state.st_ino, state.st_size, state.st_mtime_ns)
        return stamps


def for_tables(record: Record) -> Record:
    """Return a record without what no table shows and what grows with the length of a run: its history and the hashes of its splits."""
    return record.model_copy(update={"history": [], "split_hashes": {}})


def _read(path: Path) -> Record | str:
    try:
        return for_tables(published(read_record(path)))
    except RecordError as error:
        return str(error)
