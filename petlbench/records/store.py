"""Records on disk: ``RESULTS/records/SUITE/TASK/METHOD-BACKBONE-sSEED-RUNID.json`` with the predictions beside them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from petlbench.errors import NewerRecord, RecordError
from petlbench.records.entry import Entry
from petlbench.records.file_names import exists, file_part, slug
from petlbench.records.labels import published
from petlbench.records.regular_file import read_regular, sha256_of
from petlbench.records.schema import LARGEST, RESULTS, Record, parse_record, read_record


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is absent, old or complete. RecordError if writing fails."""
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write so that at any moment it is absent, old or complete: temporary file, fsync, rename. RecordError if writing fails."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> RecordError:
    return RecordError(f"cannot write {path}: {error.strerror}; free space or choose another folder with out=DIR")


def side_file(record: Path, name: str, content: bytes) -> Path:
    """Return the path of a file beside a record. Its name contains a hash of the content: a repeated run overwrites no file of the former record."""
    return record.with_name(f"{record.stem}.{hashlib.sha256(content).hexdigest()[:8]}.{name}.safetensors")


def record_files(folder: Path) -> list[Path]:
    """Return the record files below a folder, sorted, without temporary files.

    A folder that is named like a record is a task's, unless it holds no record.
    """
    return sorted(Path(entry) for entry in scanned(folder))


def scanned(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Return what ``record_files`` does in any order, as the system lists it: without opening a file."""
    with contextlib.suppress(OSError), os.scandir(folder) as listed:
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                yield from scanned(entry.path)
            is_named = entry.name.endswith(".json") and not entry.name.startswith(".")
            if is_named and not (entry.is_dir() and any(Path(entry).rglob("*.json"))):
                yield entry


def is_kept(record: Record, path: Path) -> bool:
    """Return True if the record at ``path`` has a result of this run and the new one has none; the former is then kept."""
    if record.has_result:
        return False
    try:
        there = json.loads(read_regular(path, LARGEST))
    except (RecordError, ValueError, RecursionError):
        return False
    is_own = isinstance(there, dict) and there.get("run_id") == record.run_id
    return is_own and there.get("status") in RESULTS  # also one that only a newer petlbench can read


class Records(list[Record]):
    """The records of a folder that can be read."""

    def __init__(self, records: Iterable[Record] = (), broken: Iterable[str] = ()) -> None:
        super().__init__(records)
        self.broken = tuple(broken)  # of every other record file, a line that names it and says what is wrong


class RecordStore:
    """The records below one results folder. Every question is answered by the files that are there then (``records.index``: by those of one moment)."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.folder = results / "records"
        self.checkpoints = results / "checkpoints"

    def path(self, task: str, method: str, backbone: str, seed: int, identity: str) -> Path:
        """Return the path of the record of a run, whether it exists or not."""
        name = f"{_slug(method)}-{_slug(backbone)}-s{seed}-{identity}.json"
        folder, former = _folders(self.folder, task)
        path = folder / name
        return former / name if former != folder and self._exists(former / name) and not self._exists(path) else path

    def path_of(self, record: Record) -> Path:
        """Return where a record lies, or would lie in a folder without others of its run."""
        path = self.path(record.task, record.method.name, record.backbone.name, record.seed, record.run_id)
        beside = _beside(path, record.task_revision, record.backbone.sha256)
        if exists(beside):
            return beside
        elsewhere = self.folder.glob(f"{file_part(record.suite)}/*/{path.name}") if ":" in record.task and not exists(path) else ()
        return next(iter(elsewhere), path)  # an older record in a folder that is named after a place

    def path_for(self, path: Path, task_revision: str, weights: str) -> Path:
        """Return where a run on this content is recorded: at its ``path``, or beside it when that holds the result of other content, which stays."""
        there = self.find(path)
        is_other = there is not None and there.has_result and bool(differences(there, task_revision, weights))
        return _beside(path, task_revision, weights) if is_other else path

    def entries_of(self, path: Path) -> Iterator[tuple[Path, Entry]]:
        """Return the records of a run, one for each content that it was carried out on; ``path``: of the run. Broken ones are left out (``find``)."""
        for one in (path, *self._beside(path)):
            if (entry := self._entry(one)) is not None:
                yield one, entry

    def _entry(self, path: Path) -> Entry | None:
        record = self.find(path)
        return None if record is None else Entry.model_validate(record)

    def _exists(self, path: Path) -> bool:
        return exists(path)

    def _beside(self, path: Path) -> list[Path]:
        """Return the records of a run on other content than that at its ``path``."""
        return _named(path.parent, f"{path.stem}-", ".json")

    def write(self, record: Record, files: Mapping[Path, bytes] | None = None) -> Path:
        """Validate and write a record, after the files that it names; return its path. RecordError for one that could not be read back.

        A result is never replaced by a record without one: then nothing is written (``is_kept``). At any moment the record on disk and
        its files belong together, even if writing is interrupted or two processes write the same record.
        """
        path = self.path(record.task, record.method.name, record.backbone.name, record.seed, record.run_id)
        path, files = self.path_for(path, record.task_revision, record.backbone.sha256), files or {}
        document = _document(record, path)
        with self._locked():
            if is_kept(record, path):
                return path
            self.find(path)  # raises for what must not be replaced
            new = [file for file in files if not exists(file)]
            try:
                for file, content in files.items():
                    write_atomically(file, content)
                write_atomically(path, document)
            except BaseException:
                there = self.find(path)
                _delete(new, but=[] if there is None else self.files_of(there, path))
                raise
            if record.has_result:
                folders = [path.parent, self.checkpoints] if record.checkpoint else [path.parent]
                former = [file for folder in folders for file in _named(folder, f"{path.stem}.", "safetensors")]
                _delete(former, but=self.files_of(record, path))
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the records: one process or thread at a time reads and replaces."""
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise _refused(self.folder, error) from None
        try:
            yield
        finally:
            lock.release()

    def files_of(self, record: Record | Entry, path: Path) -> list[Path]:
        """Return the files that the record at ``path`` names."""
        beside = [record.predictions and record.predictions.file, record.token_usage]
        checkpoint = [self.results / record.checkpoint] if record.checkpoint else []
        return [*(path.parent / name for name in beside if name), *checkpoint]

    def paths(self) -> list[Path]:
        """Return all record files, sorted."""
        return record_files(self.folder)

    def read(self) -> Records:
        """Read all records, as they may be published. A broken one does not stop a table, but whoever makes the table has to name it."""
        broken: list[str] = []
        return Records(list(self.each(broken.append)), broken)

    def each(self, tell: Callable[[str], None], progress: Callable[[int, int], None] = lambda done, total: None) -> Iterator[Record]:
        """Read one record after the other, as they may be published. ``tell`` gets a line for each that cannot be read; ``progress``: told files read,
        of how many."""
        paths = self.paths()
        for done, path in enumerate(paths, start=1):
            try:
                yield published(read_record(path))
            except RecordError as error:
                tell(str(error))
            progress(done, len(paths))

    def find(self, path: Path) -> Record | None:
        """Read the record at a path; None if there is none or it is broken (it is then written again).

        RecordError for what must not be written over: a record of a newer petlbench, a file that may not be read, a folder.
        """
        if not exists(path):
            return None
        if path.is_dir():
            raise RecordError(f"{path}: a folder is where a record belongs; move it away")
        if not os.access(path, os.R_OK):
            raise RecordError(f"{path}: may not be read, so it is not replaced; make it readable or move it away")
        try:
            return read_record(path)
        except NewerRecord:
            raise
        except RecordError:
            return None

    def is_whole(self, record: Record | Entry, path: Path, with_checkpoint: bool) -> bool:
        """Return True if the files that a record with a result names are there and are what was written.

        ``with_checkpoint``: what was learned is asked for, too. RecordError for a folder in place of a file, which a repeated run could not replace.
        """
        if record.predictions is None or (with_checkpoint and record.checkpoint is None):
            return False
        checkpoint = self.results / record.checkpoint if record.checkpoint else None
        files = [file for file in self.files_of(record, path) if with_checkpoint or file != checkpoint]
        for file in files:
            if file.is_dir():
                raise RecordError(f"{file}: a folder is where a file of {path.name} belongs; move it away")
        predictions = path.parent / record.predictions.file
        return all(self._is_intact(path, file, record.predictions.sha256 if file == predictions else None) for file in files)

    def _is_intact(self, record: Path, file: Path, sha256: str | None) -> bool:
        """Return True if the content of a file that a record names is what its name says and has the hash, where one is known."""
        try:
            digest = sha256_of(file)
            return sha256 in (None, digest) and _is_as_named(file, digest)
        except (RecordError, OSError):
            return False


_slug = lru_cache(maxsize=1024)(slug)  # a grid asks for the same names again and again


@lru_cache(maxsize=1024)
def _folders(records: Path, task: str) -> tuple[Path, Path]:
    """Return the folder of a task's records, and the one that they had formerly: one for every slash."""
    parts = (part for part in re.split("[/:]", task, maxsplit=1) if part)
    return records.joinpath(*map(file_part, parts)), records.joinpath(*(slug(part, 255) for part in task.split("/")))


def _document(record: Record, path: Path) -> bytes:
    """Return the content of a record's file, after reading it as anyone else will."""
    try:
        document = record.model_dump_json(indent=1).encode() + b"\n"
    except ValueError as error:
        raise RecordError(f"{path} cannot be written: {error}") from None
    parse_record(document, f"{path} cannot be written")
    return document


def _is_as_named(file: Path, digest: str) -> bool:
    """Return False if a file's name holds another hash (``side_file``). Names of older files hold none: then the file must be whole."""
    if named := re.search(r"\.([0-9a-f]{8})\.[a-z]+\.safetensors$", file.name):
        return digest.startswith(named[1])
    try:
        with safe_open(file, framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


def differences(record: Record | Entry, task_revision: str, weights: str) -> list[tuple[str, str, str]]:
    """Return what a record's run had otherwise: ``task`` or ``weights``, with what it was and what it is now. Empty texts are unknown."""
    pairs = [("task", record.task_revision, task_revision), ("weights", record.backbone.sha256, weights)]
    return [(what, before, now) for what, before, now in pairs if before and now and before != now]


def _named(folder: Path, start: str, end: str) -> list[Path]:
    """Return the files of a folder whose names start and end so, in one look at its list: a task's folder may hold thousands."""
    try:
        return [folder / name for name in os.listdir(folder) if name.startswith(start) and name.endswith(end)]  # noqa: PTH208 (texts, not paths)
    except OSError:
        return []


def _beside(path: Path, task_revision: str, weights: str) -> Path:
    content = hashlib.sha256(f"{task_revision} {weights}".encode()).hexdigest()[:8]
    return path.with_name(f"{path.stem}-{content}.json")


def _delete(files: Iterable[Path], but: Sequence[Path]) -> None:
    for file in files:
        if file not in but:
            with contextlib.suppress(OSError):
                file.unlink()
