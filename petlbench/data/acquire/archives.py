"""Unpack archives: completely or not at all, and never outside their folder."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from petlbench.errors import DataError

Report = Callable[[int, int], None]  # bytes done, bytes in total
Unpack = Callable[[Path], None]  # writes one member below a folder
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` on success and removed on failure.

    So a folder of that name is always complete. One that another process made in the meantime stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    try:
        yield work
        work.chmod(0o755)
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(archive: Path, folder: Path, report: Report = lambda done, total: None) -> None:
    """Unpack a tar (of any compression) or zip archive as the new folder ``folder``.

    DataError, before anything is written, for a member with an absolute path or with ``..``, for links and devices, for encryption, for
    a damaged archive and for a disk with too little space. An archive is read twice for that.
    """
    try:
        with _opened(archive) as file:
            total = sum(size for size, _ in _members(file, archive))
            require_space(folder, total, f"unpacking {archive.name}")
            done = 0
            with appearing(folder) as work:
                for size, write in _members(file, archive):
                    write(work)
                    done += size
                    report(done, total)
    except _DAMAGE as error:
        raise DataError(
            f"{archive}: damaged or not an archive ({str(error).partition(chr(10))[0]}); delete it and download it again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot unpack {archive} to {folder}: {error.strerror}; nothing was left there") from None


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise DataError when the disk that will hold ``folder`` has fewer than ``needed`` bytes left."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DataError(
            f"{purpose} needs {decimal(needed)}, the disk of {existing} has {decimal(free)} left; free some or use another data_root"
        )


def _opened(archive: Path) -> tarfile.TarFile | zipfile.ZipFile:
    return zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)


def _members(file: tarfile.TarFile | zipfile.ZipFile, archive: Path) -> Iterator[tuple[int, Unpack]]:
    """Yield every member's size and a function that unpacks it. DataError at the first that is not a plain file or folder inside."""
    if isinstance(file, zipfile.ZipFile):
        for entry in file.infolist():
            _check(archive, entry.filename, is_plain=not stat.S_ISLNK(entry.external_attr >> 16))
            if entry.flag_bits & 1:
                raise DataError(f"{archive}: '{entry.filename}' is encrypted; unpack the archive by hand")
            yield entry.file_size, lambda folder, entry=entry: file.extract(entry, folder)  # type: ignore[misc]
    else:
        for member in file:
            _check(archive, member.name, is_plain=member.isfile() or member.isdir())
            yield member.size, lambda folder, member=member: file.extract(member, folder, filter="data")  # type: ignore[misc]
        _check_end(file)


def _check(archive: Path, name: str, is_plain: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in "".join(parts[:1]):
        raise DataError(f"{archive}: '{name}' would be written outside the folder; nothing was unpacked, do not trust this archive")
    if not is_plain:
        raise DataError(f"{archive}: '{name}' is a link or a device; nothing was unpacked, do not trust this archive")


def _check_end(file: tarfile.TarFile) -> None:
    """Raise ReadError unless a block of zeros ends the archive: tarfile takes a damaged or truncated header for its end."""
    assert file.fileobj is not None
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends in the middle")
