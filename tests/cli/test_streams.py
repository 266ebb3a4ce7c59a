"""Output that cannot say everything, is closed, or is full: no command fails for it, and none hides that output was lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.record_factory import store_record

COMMANDS = ("compare", "published paper=spt --csv", "table vpt", "show {run}")  # leaderboard takes longest, and has tests of its own below


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of two methods on a suite."""
    folder = tmp_path_factory.mktemp("streams")
    for method in ("lora", "full"):
        path = store_record(folder / "results", method=method, task="folder:own")
    (folder / "run").write_text(path.stem.rpartition("-")[2])
    return folder


def petlbench(folder: Path, command: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    words = command.format(run=(folder / "run").read_text())
    shell = f"set -o pipefail; '{sys.executable}' -m petlbench {words} {redirected}"
    return subprocess.run(
        ["bash", "-c", shell], cwd=folder, env=os.environ | environment, capture_output=True, encoding="latin-1", check=False, timeout=300
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_stream_without_the_characters_shows_others(results: Path, command: str, encoding: str) -> None:
    done = petlbench(results, command, PYTHONIOENCODING=encoding, LC_ALL="C")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0) and done.stdout
    assert encoding != "ascii" or done.stdout.isascii()


def test_what_ascii_lacks_is_spelt(results: Path) -> None:
    done = petlbench(results, "leaderboard", PYTHONIOENCODING="ascii")
    assert (done.returncode, "\\u" in done.stdout, "Traceback" in done.stderr) == (0, False, False)


@pytest.mark.parametrize("redirected", ["| head -1", ">&-", ">&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", ["compare", "published paper=spt --csv"])
def test_a_reader_that_has_gone_is_no_error(results: Path, command: str, redirected: str) -> None:
    done = petlbench(results, command, redirected)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_in_one_line_after_all_files_are_written(results: Path) -> None:
    for path in results.glob("results/leaderboard.*"):
        path.unlink()
    done = petlbench(results, "leaderboard", "> /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("petlbench: standard output could not be written: ") and done.stderr.count("\n") == 1
    assert len(list(results.glob("results/leaderboard.*"))) == 3
