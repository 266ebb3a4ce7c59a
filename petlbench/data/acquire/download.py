"""Resumable downloads, checked before they appear under their final name.

A file grows under the name ``NAME.part``; what the server called its version (ETag or date) lies in ``NAME.part.version``, so that the rest
is only asked of the same version. ``NAME`` itself exists when size and checksum are right.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from petlbench.data.acquire.archives import require_space
from petlbench.errors import DataError

Report = Callable[[int, int | None], None]  # bytes done, bytes in total or None when the server does not say
ATTEMPTS = 5  # without a new byte, in a row, before giving up
_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without an answer or a byte
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """The connection broke off or the server is busy: worth another attempt."""


def download(url: str, target: Path, checksum: str | None = None, report: Report = lambda done, total: None) -> None:
    """Fetch a file over HTTP, continuing an earlier attempt. ``checksum``: ``md5:…`` or ``sha256:…``. A file that is there already is kept.

    DataError when the server refuses, keeps breaking off or sends something else, and when the disk is full; the part that has arrived stays
    for the next attempt, except when its checksum is wrong.
    """
    part = target.with_name(f"{target.name}.part")
    for path in (target, part, _version_file(part)):
        if (path.exists() and not path.is_file()) or (path != target and path.is_symlink()):  # a pipe blocks, a link is written through
            raise DataError(f"{path}: is no plain file; remove it and run the command again")
    if target.exists():
        _check(target, checksum, url)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _persist(url, part, report, is_checked=checksum is not None)
        _check(part, checksum, url)
        part.rename(target)
        _version_file(part).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write {target}: {error.strerror}; free space or use another data_root, then run the command again"
        ) from None


def _persist(url: str, part: Path, report: Report, is_checked: bool) -> None:
    """Retry with growing pauses until the file is complete, or several attempts in a row bring no byte."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch_rest(url, part, report, is_checked)
            return
        except _Interrupted as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise DataError(
                    f"{url}: {error}, {ATTEMPTS} times in a row; run the command again later, it continues, or put the file into {part.parent}"
                ) from None
            time.sleep(min(30, 2**failures))


def _fetch_rest(url: str, part: Path, report: Report, is_checked: bool) -> None:
    """Request the missing bytes, or all when the part may be of another version or the server supports no ranges."""
    with _open(url, part, is_checked) as response:
        start = _size(part) - 1 if response.status == 206 else 0
        if response.status == 206 and not str(response.headers.get("Content-Range")).startswith(f"bytes {start}-"):
            raise DataError(f"{url}: the server sent another range than was asked for; remove {part} and run the command again")
        rest = response.headers.get("Content-Length")
        total = None if rest is None else start + int(rest)
        require_space(part.parent, int(rest or 0), f"downloading {url}")
        _version_file(part).write_text(_version(response.headers))
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            report(start, total)
            while chunk := _read(response):
                file.write(chunk)
                report(file.tell(), total)
            if total is not None and file.tell() != total:
                raise _Interrupted(f"broke off after {file.tell():,} of {total:,} bytes")


def _open(url: str, part: Path, is_checked: bool) -> Any:
    """Return the server's answer from the last byte of the part on: one byte that is there, so that a complete part is no special case."""
    headers = {"User-Agent": "petlbench", "Accept-Encoding": "identity"}
    version = _version_file(part).read_text() if _size(part) and _version_file(part).exists() else ""
    if _size(part) > 1 and (version or is_checked):
        headers["Range"] = f"bytes={_size(part) - 1}-"
        if version:
            headers["If-Range"] = version
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file
            part.unlink()
            raise _Interrupted("the server has no such range") from None
        if error.code in _TRANSIENT:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from None
        raise DataError(f"{url}: the server answered {error.code} {error.reason}; download it by hand into {part.parent}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Interrupted(f"no connection ({getattr(error, 'reason', error)})") from None


def _read(response: Any) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"the connection broke off ({error})") from None


def _version(headers: Any) -> str:
    """Return what identifies the version of a file on the server: a strong ETag, else Last-Modified, else nothing."""
    etag = headers.get("ETag") or ""
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(path: Path, checksum: str | None, url: str) -> None:
    """Raise DataError when the checksum differs; then remove a part, but keep a finished file for the user to look at."""
    if checksum is None:
        return
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found == expected:
        return
    if path.suffix == ".part":
        path.unlink()
        raise DataError(f"{url}: {algorithm} {expected} expected, {found} received; the file there has changed or was damaged on its way")
    raise DataError(
        f"{path}: {algorithm} {expected} expected, {found} found; it is damaged or another version, remove it and run the command again"
    )
