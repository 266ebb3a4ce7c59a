"""One broken record does not stop a report: it is named, left out, and the exit code says so."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from petlbench import api
from petlbench.cli import broken
from petlbench.records.schema import LARGEST, SCHEMA_VERSION
from petlbench.records.store import RecordStore
from tests.conftest import Call
from tests.record_factory import TASKS, make_grid, make_record

TEXT = make_record().model_dump_json(indent=1)
VERSION = f'"schema_version": {SCHEMA_VERSION}'
SECONDS = '"train_seconds": 12.5'
assert SECONDS in TEXT


def with_seconds(number: str) -> bytes:
    return TEXT.replace(SECONDS, f'"train_seconds": {number}').encode()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # the path of a socket is short


CONTENTS = {
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "nothing": b"",
    "half a record": TEXT[:300].encode(),
    "deep": b"[" * 100_000,
    "deep settings": TEXT.replace('"config": {', '"config": {"deep": ' + "[" * 500 + "]" * 500 + ",", 1).encode(),
    "bytes": b"\xff\xfe{",
    "a byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "a key twice": TEXT.replace('"seed": 0,', '"seed": 0, "seed": 1,', 1).encode(),
    "NaN": with_seconds("NaN"),
    "Infinity": with_seconds("-Infinity"),
    "1e400": with_seconds("1e400"),
    "10**400": with_seconds("1" + "0" * 400),
    "10**5000": with_seconds("1" + "0" * 5000),
    "a negative time": with_seconds("-1"),
    "a text for a number": with_seconds('"12"'),
    "half a surrogate pair": TEXT.replace('"layout": ""', '"layout": "\\ud800"').encode(),
    "half a surrogate pair in settings": TEXT.replace('"epochs": 20', '"epochs": "\\udc80"').encode(),
    "an escape sequence as a key": TEXT.replace('"layout": ""', '"\\u001b[31m\\n": ""').encode(),
    "a control character": TEXT.replace('"layout": ""', '"layout": "\\u0000"').encode(),
    "a newer schema": TEXT.replace(VERSION, f'"schema_version": {SCHEMA_VERSION + 1}').encode(),
    "a version that is no number": TEXT.replace(VERSION, '"schema_version": true').encode(),
}
KINDS: dict[str, Callable[[Path], object]] = {
    **{name: (lambda path, content=content: path.write_bytes(content)) for name, content in CONTENTS.items()},  # type: ignore[misc]
    "too much": lambda path: (path.touch(), os.truncate(path, LARGEST + 1)),
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a pipe": os.mkfifo,
    "a socket": listening,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    store = RecordStore(Path("results"))
    for record in make_grid(("lora", "full"), TASKS[:1], seeds=(0,)):
        store.write(record)
    return Path("results")


@pytest.mark.parametrize("kind", KINDS)
def test_every_broken_record_is_named_in_one_line(results: Path, kind: str) -> None:
    KINDS[kind](results / "records" / "mini" / "broken.json")
    records = RecordStore(results).read()
    (line,) = records.broken
    assert len(records) == 2
    assert line.startswith(f"{results}/records/mini/broken.json: ") and line.isprintable() and len(line) < 400


@pytest.mark.parametrize("words", ["leaderboard", "compare", "table vpt", "export", "validate"])
def test_a_report_is_written_without_what_is_broken(call: Call, results: Path, words: str) -> None:
    for number, make in enumerate(KINDS.values()):
        make(results / "records" / "mini" / f"broken{number}.json")
    code, out, err = call(*words.split())
    assert code == 1 and "Traceback" not in err
    named = out if words == "validate" else err
    lines = [line for line in named.splitlines() if "broken" in line]
    assert all(line.startswith(("petlbench: left out: results/records/mini/broken", "results/records/mini/broken")) for line in lines)
    assert len(lines) == (len(KINDS) if words == "validate" else 20)
    assert words == "validate" or f"left out: {len(KINDS) - 20} more (petlbench validate lists all)" in err
    if words == "leaderboard":
        assert re.search("lora .*white box", out) and "* cannot be read: results/records/mini/broken0.json" in (
            results / "leaderboard.md"
        ).read_text(encoding="utf-8")
    if words == "export":
        assert len((results / "runs.csv").read_text().splitlines()) == 3


def test_a_report_of_whole_records_ends_well(call: Call, results: Path) -> None:
    assert call("compare")[0] == call("export")[0] == call("leaderboard")[0] == 0


def test_a_plan_names_what_is_broken(call: Call, results: Path) -> None:
    (results / "records" / "mini" / "broken.json").write_text("{")
    code, out, err = call("plan", "method=zero_shot", "task=mini/digits", "seeds=0")
    assert code == 0 and "1 of 1 runs missing" in out and "left out: results/records/mini/broken.json" in err


def test_the_table_of_all_runs_warns_of_what_is_broken(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    (results / "records" / "mini" / "broken.json").write_text("{")
    assert len(api.results(results)) == 2
    assert [message.startswith("left out: results/records/mini/broken.json") for message in caplog.messages] == [True]


def test_a_folder_of_a_task_that_is_named_like_a_file_is_no_record(results: Path) -> None:
    folder = results / "records" / "folder" / "pets.json"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(TEXT)
    assert len(RecordStore(results).read()) == 3 and not RecordStore(results).read().broken


@pytest.mark.parametrize(("patience", "is_shown"), [(0.0, True), (1e9, False)])
def test_a_bar_is_shown_on_a_terminal_when_reading_takes_long(monkeypatch: pytest.MonkeyPatch, patience: float, is_shown: bool) -> None:
    screen = Console(file=StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(broken, "bars", lambda transient: Progress(console=screen, transient=transient, auto_refresh=False))
    monkeypatch.setattr(broken, "_PATIENCE", patience)
    with broken.reading() as progress:
        progress(2, 3)
    assert ("reading records" in screen.file.getvalue()) is is_shown  # type: ignore[attr-defined]
