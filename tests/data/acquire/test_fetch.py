"""Fetch files and archives and move them to their place below a data root."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from petlbench.data.acquire import fetch as module
from petlbench.data.acquire.fetch import FOLDER, Fetch, fetch
from petlbench.errors import DataError

from .serving import Server


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def downloaded_files(root: Path) -> list[str]:
    """List the files in the folder for downloads, without locks."""
    return sorted(path.name for path in (root / FOLDER).iterdir() if path.suffix != ".lock")


def item(server: Server, target: str, suffix: str = ".tar.gz", **options: str) -> Fetch:
    return Fetch(server.url.replace(".tar", suffix), target, **options)


def test_a_part_of_an_archive_takes_its_place_and_the_archive_goes(server: Server, tmp_path: Path) -> None:
    server.content = tar(top__images__a=b"A", top__notes=b"")
    fetch(item(server, "pets/images", member="top/images"), tmp_path)
    assert (tmp_path / "pets/images/a").read_bytes() == b"A"
    assert downloaded_files(tmp_path) == []


def test_an_archive_inside_an_archive(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("outer/inner.tar.gz", tar(classes__a=b"A"))
    server.content = buffer.getvalue()
    fetch(item(server, "classes", ".zip", nested_archive="outer/inner.tar.gz", member="classes"), tmp_path)
    assert (tmp_path / "classes/a").read_bytes() == b"A"


def test_a_single_file_is_expanded_when_it_is_compressed(server: Server, tmp_path: Path) -> None:
    server.content = gzip.compress(b"numbers")
    fetch(item(server, "raw/numbers", ".gz"), tmp_path)
    assert (tmp_path / "raw/numbers").read_bytes() == b"numbers"
    server.content = b"matrix"
    fetch(item(server, "matrix.mat", ".mat"), tmp_path)
    assert (tmp_path / "matrix.mat").read_bytes() == b"matrix"


def test_what_is_there_is_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    fetch(item(server, "images", member="images"), tmp_path)
    assert server.ranges == []


def test_two_who_want_the_same_download_it_once(server: Server, tmp_path: Path) -> None:
    server.content = tar(images__a=b"A" * 50_000)
    wanted = item(server, "images", member="images")
    workers = [threading.Thread(target=fetch, args=(wanted, tmp_path)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(server.ranges) == 1
    assert (tmp_path / "images/a").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar(**{"..__evil": b"x"}), "would be written outside the folder"),
        (tar(other__a=b"x"), "has no images; what http"),
        (b"<html>moved</html>", "damaged or not an archive"),
        (tar(images__a=b"x" * 1000)[:-40], "damaged or not an archive"),
    ],
    ids=["path outside", "another archive", "web page", "cut off"],
)
def test_an_archive_that_is_not_the_expected_one_leaves_nothing(server: Server, tmp_path: Path, content: bytes, message: str) -> None:
    server.content = content
    with pytest.raises(DataError, match=message):
        fetch(item(server, "images", member="images"), tmp_path)
    assert not (tmp_path / "images").exists()
    assert not (tmp_path / "evil").exists()
    assert downloaded_files(tmp_path) == ["data.tar.gz"]  # kept for inspection


def test_a_compressed_file_that_is_cut_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = gzip.compress(b"numbers" * 99)[:-9]
    with pytest.raises(DataError, match=r"data\.gz: damaged"):
        fetch(item(server, "numbers", ".gz"), tmp_path)
    assert not (tmp_path / "numbers").exists()


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing_half(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: io.BufferedWriter, length: int) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    server.content = gzip.compress(b"numbers")
    with pytest.raises(DataError, match=r"cannot write .*numbers: No space left on device; free space or use another data_root"):
        fetch(item(server, "numbers", ".gz"), tmp_path)
    assert downloaded_files(tmp_path) == ["data.gz"]  # the next attempt needs no download
    monkeypatch.undo()
    server.ranges.clear()
    fetch(item(server, "numbers", ".gz"), tmp_path)
    assert (tmp_path / "numbers").read_bytes() == b"numbers"
    assert server.ranges == []
