"""Download a dataset's file or archive and put it below the data root."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from petlbench.data.acquire.archives import unpack
from petlbench.data.acquire.download import download
from petlbench.errors import DataError

FOLDER = ".downloads"  # below the data root: archives that are not complete or not yet unpacked
Report = Callable[[str, int, int | None], None]  # the step, bytes done, bytes in total


@dataclass(frozen=True)
class Fetch:
    """A download and the file or folder that it becomes."""

    url: str
    target: str  # a file or folder below the data root; when it exists, nothing is left to do
    checksum: str | None = None  # md5:… or sha256:…; None where none is published
    member: str | None = None  # the part of an archive that becomes ``target``; None: a single file, perhaps compressed by gzip
    nested_archive: str | None = None  # the archive inside the archive that ``member`` is in


def fetch(item: Fetch, root: Path, report: Report = lambda what, done, total: None) -> None:
    """Download and unpack; ``target`` appears complete or not at all. Processes that want the same wait for each other.

    DataError for an error of the server, the archive or the disk; the next call continues.
    """
    target, name = root / item.target, item.url.rpartition("/")[2]
    try:
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        with FileLock(root / FOLDER / f"{name}.lock"):
            if target.exists():
                return
            arrived = root / FOLDER / name
            download(item.url, arrived, item.checksum, lambda done, total: report(f"downloading {name}", done, total))
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(item, arrived, target, lambda done, total: report(f"unpacking {name}", done, total))
            arrived.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write {target}: {error.strerror}; free space or use another data_root, then run the command again"
        ) from None


def _place(item: Fetch, arrived: Path, target: Path, report: Callable[[int, int], None]) -> None:
    if item.member is None and arrived.suffix != ".gz":
        arrived.rename(target)
        return
    work = Path(tempfile.mkdtemp(dir=arrived.parent, prefix=".unfinished-"))
    try:
        if item.member is None:
            part = _expanded(arrived, work)
        else:
            unpack(arrived, work / "all", report)
            folder = work / "all"
            if item.nested_archive is not None:
                unpack(folder / item.nested_archive, work / "inner", report)
                folder = work / "inner"
            part = folder / item.member
        if not part.exists():
            raise DataError(f"{arrived}: has no {item.member}; what {item.url} sends has changed, unpack it by hand as {target}")
        part.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _expanded(arrived: Path, work: Path) -> Path:
    try:
        with gzip.open(arrived) as source, (work / "file").open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{arrived}: damaged ({error}); delete it and run the command again") from None
    return work / "file"
