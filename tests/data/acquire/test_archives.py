"""Unpack archives completely or not at all, and never outside the target folder."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.data.acquire.archives import appearing, unpack
from petlbench.errors import DataError

FILES = {"images/a.jpg": b"first", "images/deep/b.jpg": b"second" * 50, "list.txt": b""}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def refusal(archive: Path, folder: Path) -> str:
    """Return the error of unpacking; check that nothing was written anywhere."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        unpack(archive, folder)
    assert sorted(folder.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tgz"])
def test_every_file_arrives_and_progress_ends_at_the_total(tmp_path: Path, name: str) -> None:
    reports: list[tuple[int, int]] = []
    unpack(pack(tmp_path / name, FILES), tmp_path / "out", lambda done, total: reports.append((done, total)))
    found = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == FILES
    assert reports[-1] == (305, 305)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_a_path_that_leads_outside_is_refused_before_anything_is_written(tmp_path: Path, kind: str, name: str) -> None:
    archive = pack(tmp_path / f"evil.{kind}", {**FILES, name: b"x"})
    assert refusal(archive, tmp_path / "out").startswith(f"{archive}: '{name}' would be written outside the folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo("inside")
        member.type, member.linkname = kind, "list.txt"
        archive.addfile(member)
    assert "'inside' is a link or a device" in refusal(tmp_path / "evil.tar", tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        entry = zipfile.ZipInfo("inside")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    assert "'inside' is a link or a device" in refusal(tmp_path / "evil.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tgz"])
def test_a_cut_off_archive_is_damaged(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES)
    archive.write_bytes(archive.read_bytes()[:-9000] if archive.suffix == ".tar" else archive.read_bytes()[:-30])
    assert refusal(archive, tmp_path / "out").startswith(f"{archive}: damaged or not an archive")


@given(place=st.integers(0, 700), junk=st.binary(min_size=1, max_size=20), kind=st.sampled_from(["zip", "tar", "tgz"]))
def test_any_damage_leaves_a_complete_folder_or_none(tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes, kind: str) -> None:
    folder = tmp_path_factory.mktemp("damage")
    archive = pack(folder / f"all.{kind}", FILES)
    content = archive.read_bytes()
    archive.write_bytes(content[:place] + junk + content[place + len(junk) :])
    try:
        unpack(archive, folder / "out")
    except DataError:
        assert list(folder.iterdir()) == [archive]
    else:
        assert sorted(path.name for path in folder.iterdir()) == [archive.name, "out"]


def test_a_disk_without_the_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(100))
    message = refusal(pack(tmp_path / "all.zip", FILES), tmp_path / "out")
    assert message.startswith(f"unpacking all.zip needs 305 bytes, the disk of {tmp_path} has 100 bytes left")


def test_a_disk_that_fills_up_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
        (path / "half").write_text("")
        raise OSError(28, "No space left on device")

    archive = pack(tmp_path / "all.zip", FILES)
    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    assert "No space left on device; nothing was left there" in refusal(archive, tmp_path / "out")


def test_the_folder_of_a_process_that_was_faster_stays(tmp_path: Path) -> None:
    with appearing(tmp_path / "out") as slow:
        (slow / "name").write_text("slow")
        with appearing(tmp_path / "out") as fast:
            (fast / "name").write_text("fast")
    assert (tmp_path / "out" / "name").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
