"""The answers of a served model, kept as they come, so that a rerun of an interrupted run sends no query again.

A section of the journal is a file that is appended to: one for what precedes the training, and one for what was answered since the last checkpoint. A
query that was sent and not answered has the same idempotency key in the rerun: the server that knows it answers without counting it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import threading
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import BinaryIO

from petlbench.errors import RecordError

_KEY, _LENGTH, _SUM = 32, 8, 4  # bytes


class Journal:
    """Answers by the idempotency keys of their queries, in files beside ``path``.

    A key is made of the query itself, of how often the same one was sent in this section, and of a number that no other run has. ``number``: of the
    checkpoint that the run goes on from; ``is_new``: what is there belongs to a run that cannot go on.
    """

    def __init__(self, path: Path, identity: Mapping[str, str], number: int, is_new: bool = False) -> None:
        self._path = path
        self._identity = dict(identity)
        self._lock = threading.Lock()
        self._answers: dict[str, bytes] = {}
        self._file: BinaryIO | None = None
        self._run = None if is_new else self._known_run()
        if self._run is None:
            self._delete(but=())
            self._run = uuid.uuid4().hex
            with self._writing():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._section_file(0).write_bytes(json.dumps({"run": self._run, "identity": self._identity}).encode() + b"\n")
        self._delete(but=(0, number + 1))
        self.begin(0)
        self.has_answers = bool(self._answers) or self._section_file(number + 1).exists()

    def begin(self, section: int) -> None:
        """Go on to a section: 0 is kept to the end of the run, of the others the last one. Answers of a section that was begun before are known."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._section = section
            self._taken: defaultdict[bytes, set[int]] = defaultdict(set)
            file = self._section_file(section)
            self._answers, whole = _read(file)
            with self._writing():
                self._file = file.open("ab")
                self._file.truncate(whole)  # an end that was cut off
            if section:
                self._delete(but=(0, section))

    def key(self, path: str, body: bytes) -> str:
        """Return the key of a query that is about to be sent."""
        query = hashlib.sha256(f"{path}\n".encode() + body).digest()
        with self._lock:
            occurrence = next(number for number in count() if number not in self._taken[query])
            self._taken[query].add(occurrence)
            words = f"{self._run} {self._section} {query.hex()} {occurrence}"
        return hashlib.sha256(words.encode()).hexdigest()

    def refused(self, path: str, body: bytes) -> None:
        """Forget the last of the same queries: it was not answered, and may be sent again."""
        query = hashlib.sha256(f"{path}\n".encode() + body).digest()
        with self._lock:
            self._taken[query].discard(max(self._taken[query], default=0))

    def answer(self, key: str) -> bytes | None:
        """Return the answer that an interrupted run has got."""
        return self._answers.pop(key, None)

    def keep(self, key: str, answer: bytes) -> None:
        """Append an answer; the system has it before the next query is sent."""
        head = bytes.fromhex(key) + len(answer).to_bytes(_LENGTH, "little")
        with self._lock, self._writing():
            assert self._file is not None
            self._file.write(head + zlib.crc32(head + answer).to_bytes(_SUM, "little") + answer)
            self._file.flush()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {error.strerror}; free space or choose another folder with out=DIR") from None

    def _known_run(self) -> str | None:
        """Return the number of the run whose journal is here; None if there is none, or it is of another run."""
        try:
            with self._section_file(0).open("rb") as file:
                head = json.loads(file.readline(2**16))
            return str(head["run"]) if head["identity"] == self._identity else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _section_file(self, section: int) -> Path:
        return self._path.with_name(f"{self._path.name}-answers-{section}")

    def _delete(self, but: tuple[int, ...]) -> None:
        kept = {self._section_file(section) for section in but}
        for file in self._path.parent.glob(f"{glob.escape(self._path.name)}-answers-*"):
            if file not in kept:
                with contextlib.suppress(OSError):
                    file.unlink()


def _read(file: Path) -> tuple[dict[str, bytes], int]:
    """Return the answers of a section by key, and the number of bytes up to the first that is not whole."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}, 0
    start = content.find(b"\n") + 1 if file.name.endswith("-answers-0") else 0
    found, end = {}, start
    for key, answer, end in _entries(content, start):  # noqa: B007 (the last one)
        found[key] = answer
    return found, end


def _entries(content: bytes, at: int) -> Iterator[tuple[str, bytes, int]]:
    while (start := at + _KEY + _LENGTH + _SUM) <= len(content):
        head = content[at : at + _KEY + _LENGTH]
        at = start + int.from_bytes(head[_KEY:], "little")
        answer = content[start:at]
        if at > len(content) or zlib.crc32(head + answer).to_bytes(_SUM, "little") != content[start - _SUM : start]:
            return
        yield head[:_KEY].hex(), answer, at
