"""Records on disk: ``RESULTS/records/SUITE/TASK/METHOD-BACKBONE-sSEED-RUNID.json`` with the predictions beside them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from petlbench.errors import RecordError
from petlbench.records.file_names import exists, file_part, slug
from petlbench.records.schema import Record, read_record


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is absent, old or complete: temporary file, fsync, rename. RecordError when the disk refuses."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RecordError(f"cannot write {path}: {error.strerror}; free space or choose another folder with out=DIR") from None


def record_files(folder: Path) -> list[Path]:
    """The record files below a folder, sorted; without those that are being written."""
    return sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))


class RecordStore:
    """The records below one results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.folder = results / "records"

    def path(self, task: str, method: str, backbone: str, seed: int, identity: str) -> Path:
        """Where the record of a run lies, or would."""
        name = "-".join([slug(method), slug(backbone), f"s{seed}", identity]) + ".json"
        path = self.folder.joinpath(*(file_part(part) for part in re.split("[/:]", task, maxsplit=1) if part)) / name
        former = self.folder.joinpath(*(slug(part, 255) for part in task.split("/"))) / name  # a folder for every slash
        return former if exists(former) and not exists(path) else path

    def path_of(self, record: Record) -> Path:
        return self.path(record.task, record.method.name, record.backbone.name, record.seed, record.run_id)

    def write(self, record: Record) -> Path:
        """Validate and write a record; returns its path."""
        path = self.path_of(record)
        document = Record.model_validate(record.model_dump()).model_dump_json(indent=1)
        write_atomically(path, document.encode() + b"\n")
        return path

    def paths(self) -> list[Path]:
        """All record files, sorted."""
        return record_files(self.folder)

    def read(self) -> Iterator[Record]:
        """All records. RecordError at the first that cannot be read: a table must not silently leave one out."""
        for path in self.paths():
            yield read_record(path)

    def find(self, path: Path) -> Record | None:
        """The record at a path, or None when there is none or a broken one (it is then written again)."""
        if not exists(path):
            return None
        try:
            return read_record(path)
        except RecordError:
            return None
