"""Downloads from a server of the test's own that breaks off, ignores ranges, is busy or sends something else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from petlbench.data.acquire.download import ATTEMPTS, download
from petlbench.errors import DataError

from .serving import Server

CONTENT = Server.content
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "root" / "data.tar"


def refusal(server: Server, target: Path, checksum: str | None = MD5) -> str:
    with pytest.raises(DataError) as caught:
        download(server.url, target, checksum)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(server: Server, target: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    download(server.url, target, MD5, lambda done, total: reports.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert names(target) == ["data.tar"]
    assert reports[-1] == (len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_not_fetched_again(server: Server, target: Path) -> None:
    for _ in range(2):
        download(server.url, target, MD5)
    assert len(server.ranges) == 1


def test_a_connection_that_breaks_off_is_continued_and_not_begun_again(server: Server, target: Path) -> None:
    server.breaks_after = 1000
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={999 * n}-" for n in range(1, 11))]  # more often than ATTEMPTS: each brought something


def test_the_next_command_continues_what_an_interrupted_one_left(server: Server, target: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    server.breaks_after = 3000
    with pytest.raises(KeyboardInterrupt):
        download(server.url, target, report=interrupt)
    assert names(target) == ["data.tar.part", "data.tar.part.version"]
    server.breaks_after = None
    download(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=2999-"]


def test_a_part_of_another_version_is_not_continued(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("data.tar.part").write_bytes(b"old" * 100)
    target.with_name("data.tar.part.version").write_text('"zero"')
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_part_of_unknown_version_is_only_continued_when_a_checksum_will_tell(server: Server, target: Path) -> None:
    server.etag = ""
    for checksum, ranges in ((None, [None]), (MD5, [None, "bytes=99-"])):
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        target.with_name("data.tar.part").write_bytes(CONTENT[:100])
        download(server.url, target, checksum)
        assert target.read_bytes() == CONTENT
        assert server.ranges == ranges


def test_a_part_that_was_complete_costs_one_byte(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("data.tar.part").write_bytes(CONTENT)
    download(server.url, target, MD5)
    assert server.ranges == [f"bytes={len(CONTENT) - 1}-"]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_fetched_anew(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("data.tar.part").write_bytes(CONTENT + b"more")
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server: Server, target: Path) -> None:
    server.has_ranges = False
    target.parent.mkdir()
    target.with_name("data.tar.part").write_bytes(CONTENT[:500])
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_at_the_start_is_given_up(server: Server, target: Path) -> None:
    server.has_ranges, server.breaks_after = False, 100
    message = refusal(server, target)
    assert f"broke off after 100 of 10,240 bytes, {ATTEMPTS} times in a row; run the command again later" in message
    assert len(server.ranges) == ATTEMPTS + 1  # the first one brought something
    assert names(target) == ["data.tar.part", "data.tar.part.version"]


def test_a_busy_server_is_asked_again(server: Server, target: Path) -> None:
    server.statuses = [503, 429]
    download(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final_and_says_what_to_do(server: Server, target: Path, status: int) -> None:
    server.statuses = [status]
    message = refusal(server, target)
    assert message.startswith(f"{server.url}: the server answered {status} ")
    assert message.endswith(f"download it by hand into {target.parent}")
    assert len(server.ranges) == 1


def test_wrong_content_is_removed(server: Server, target: Path) -> None:
    server.content = b"<html>moved</html>"
    assert f"{MD5.replace(':', ' ')} expected" in refusal(server, target)
    assert not target.with_name("data.tar.part").exists()


def test_a_wrong_file_of_the_users_own_is_named_and_kept(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(DataError, match=f"{target}: md5 .* expected, .* found; it is damaged or another version, remove it"):
        download(server.url, target, MD5)
    assert target.read_bytes() == b"mine"


def test_no_server_at_all_is_reported(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match="no connection"):
        download("http://127.0.0.1:9/data.tar", target)


def test_a_disk_that_fills_up_keeps_the_part(server: Server, target: Path) -> None:
    def full(done: int, total: int | None) -> None:
        if done:
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=f"cannot write {target}: No space left on device; free space or use another data_root"):
        download(server.url, target, MD5, full)
    assert target.with_name("data.tar.part").exists()


@pytest.mark.parametrize("name", ["data.tar", "data.tar.part", "data.tar.part.version"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_opened(name: str, server: Server, target: Path) -> None:
    target.parent.mkdir()
    os.mkfifo(target.with_name(name))
    with pytest.raises(DataError, match=rf"{name}: is no plain file; remove it"):
        download(server.url, target, MD5)


def test_nothing_is_written_through_a_link(server: Server, target: Path) -> None:
    target.parent.mkdir()
    other = target.with_name("other")
    other.write_text("mine")
    target.with_name("data.tar.part").symlink_to(other)
    assert "is no plain file" in refusal(server, target)
    assert other.read_text() == "mine"
