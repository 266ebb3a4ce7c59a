"""Digests of the user's files, each read once: an unchanged file is never read again.

``CACHE/contents.sqlite`` holds for every file that was read its SHA-256 and the size, times and inode that it had then, and for the hash in every name
that a record has for a file or folder the places on this machine that held it. A database that is torn, foreign or cannot be written is as good as
none: files are then read again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from petlbench.config.cache_folder import cache_folder
from petlbench.errors import DataError
from petlbench.records.file_state import TICK, state_text

_MOST = 4_000_000  # files that are remembered, those that were read last
_AT_ONCE = 500  # files per question to the database
_ANNOUNCED = 2**30  # bytes; fewer are read without a message
_TABLES = (
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, sha256 TEXT)",
    "CREATE TABLE IF NOT EXISTS places (digest TEXT, path BLOB, PRIMARY KEY (digest, path))",
)
_log = logging.getLogger("petlbench.data")


def digests_of(files: Sequence[Path | str]) -> list[str]:
    """Return the SHA-256 of the content of each file, 64 hexadecimal digits. DataError names one that cannot be read."""
    states = [_state_of(file) for file in files]
    keys = [_key(file) for file in files]
    with _database() as database:
        remembered = _remembered(database, keys)
        known = [remembered.get((key, state)) for key, state in zip(keys, states, strict=True)]
        new = [position for position, digest in enumerate(known) if digest is None]
        if new:
            if (size := sum(int(states[position].partition(" ")[0]) for position in new)) > _ANNOUNCED:
                _log.warning("%s: reading %s files once, %s MB", files[new[0]], f"{len(new):,}", f"{size >> 20:,}")
            _wait_for_clock([states[position] for position in new])
            rows = []
            for position in new:
                states[position], known[position] = _read(files[position])
                rows.append((keys[position], states[position], known[position]))
            _remember(database, "files (path, state, sha256)", rows)
    return [digest for digest in known if digest is not None]


def state_of(file: Path) -> str:
    """Return a text that changes when a file does, without reading it; empty when it is not there."""
    try:
        return _state_of(file)
    except DataError:
        return ""


def remember_place(digest: str, place: Path) -> None:
    """Remember where what has this hash lies on this machine."""
    path = _key(place)
    with _database() as database:
        if path not in _places_of(database, digest):
            _remember(database, "places (digest, path)", [(digest, path)])


def places_of(digest: str) -> list[Path]:
    """Return where what has this hash lay when this machine read it, the newest first."""
    with _database() as database:
        return [Path(os.fsdecode(path)) for path in _places_of(database, digest)]


def _key(place: Path | str) -> bytes:
    return os.fsencode(os.path.abspath(place))  # noqa: PTH100 (keeps links, whose target may change)


def _state_of(file: Path | str) -> str:
    try:
        found = os.stat(file)  # noqa: PTH116 (of many files, for which paths take long to make)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); restore it, or remove what names it") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{file}: not a file; put one in its place")
    return state_text(found)


def _wait_for_clock(states: Sequence[str]) -> None:
    """Wait until a change of these files that follows would give them other times."""
    newest = max(int(state.split()[2]) for state in states)
    if time.time_ns() - newest < TICK:
        time.sleep(TICK / 1e9)


def _read(file: Path | str) -> tuple[str, str]:
    """Return a file's state and the SHA-256 of its content; the state is empty when it changed meanwhile."""
    try:
        with Path(file).open("rb") as opened:
            before = state_text(os.fstat(opened.fileno()))
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return (before if state_text(os.fstat(opened.fileno())) == before else ""), digest
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); restore it, or remove what names it") from None


@contextmanager
def _database() -> Iterator[sqlite3.Connection | None]:
    """Yield the database; None when there can be none."""
    file = cache_folder() / "contents.sqlite"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        database = _opened(file)
    except sqlite3.OperationalError:  # locked, or in a folder that may not be written
        database = None
    except (sqlite3.DatabaseError, OSError):  # no database
        with suppress(OSError):
            file.unlink()
        database = None
    if database is None:
        yield None
        return
    with closing(database):
        yield database


def _opened(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=10)
    try:
        with database:
            for table in _TABLES:
                database.execute(table)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _remembered(database: sqlite3.Connection | None, keys: Sequence[bytes]) -> dict[tuple[bytes, str], str]:
    """Return {(key, state): digest} for those of the files that were read before."""
    found = {}
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        query = f"SELECT path, state, sha256 FROM files WHERE path IN ({', '.join('?' * len(some))})"
        for key, state, digest in _rows(database, query, *some):
            if isinstance(key, bytes) and isinstance(state, str) and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
                found[key, state] = digest
    return found


def _places_of(database: sqlite3.Connection | None, digest: str) -> list[bytes]:
    rows = _rows(database, "SELECT path FROM places WHERE digest = ? ORDER BY rowid DESC", digest)
    return [row[0] for row in rows if isinstance(row[0], bytes)]


def _rows(database: sqlite3.Connection | None, query: str, *keys: bytes | str) -> list[tuple[object, ...]]:
    if database is None:
        return []
    try:
        return database.execute(query, keys).fetchall()
    except sqlite3.Error:  # of another layout
        return []


def _remember(database: sqlite3.Connection | None, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    if database is None:
        return
    with suppress(sqlite3.Error), database:
        database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        database.execute(f"DELETE FROM files WHERE rowid <= (SELECT max(rowid) FROM files) - {_MOST}")
