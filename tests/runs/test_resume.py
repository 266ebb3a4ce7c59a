"""What counts as done: a record that reads back, is this run's, and whose files are whole."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlbench.errors import ConfigError, RecordError
from petlbench.records.schema import SCHEMA_VERSION, read_record
from petlbench.records.store import RecordStore
from petlbench.registry import METHODS
from petlbench.runs import execute as execution
from petlbench.runs.execute import execute
from tests.words import plan, resolve

WORDS = ("method=linear", "task=mini/digits", "train.epochs=1", "train.warmup_epochs=0", "threads=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    execute(resolve([*WORDS, f"out={out}", "save=true"]))
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with one finished run, its predictions and its checkpoint; nothing can be computed in this test."""

    def refuse(*_: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(execution, "_carry_out", refuse)
    shutil.copytree(finished, tmp_path / "results", symlinks=True)
    return tmp_path / "results"


def state(out: Path, *words: str) -> str:
    (run,) = plan([*WORDS, f"out={out}", *words]).runs
    return run.state


def record_of(out: Path) -> Path:
    (path,) = RecordStore(out).paths()
    return path


def files_of(out: Path) -> tuple[Path, Path]:
    """The predictions and the checkpoint."""
    predictions, checkpoint = RecordStore(out).files_of(read_record(record_of(out)), record_of(out))
    return predictions, checkpoint


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def unlinked(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def listening(path: Path) -> None:
    """A socket's path may have 100 characters only, so it is made elsewhere."""
    path.unlink()
    short = Path("/tmp") / f"petlbench-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(short))
    shutil.move(short, path)


FAULTS = [unlinked, cut, altered, pipe, dangling, listening]


def test_a_finished_run_is_done_with_and_without_what_it_learned(out: Path) -> None:
    assert state(out) == state(out, "save=true") == "done"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_predictions_are_not_whole_is_missing(out: Path, fault: Callable[[Path], None]) -> None:
    fault(files_of(out)[0])
    assert state(out) == "missing"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_checkpoint_is_not_whole_is_missing_where_it_is_asked_for(out: Path, fault: Callable[[Path], None]) -> None:
    fault(files_of(out)[1])
    assert (state(out), state(out, "save=true")) == ("done", "missing")


def test_a_run_that_saved_nothing_is_missing_where_its_checkpoint_is_asked_for(out: Path) -> None:
    rewritten(record_of(out), lambda data: data.update(checkpoint=None))
    assert (state(out), state(out, "save=true")) == ("done", "missing")


@pytest.mark.parametrize("which", [0, 1])
def test_files_whose_names_hold_no_hash_must_be_complete(out: Path, which: int) -> None:
    """As the files of older records."""
    file = files_of(out)[which]
    plain = file.with_name("plain.safetensors")
    file.rename(plain)
    named = {"predictions": {**json.loads(record_of(out).read_text())["predictions"], "file": plain.name}} if which == 0 else {}
    rewritten(record_of(out), lambda data: data.update(named or {"checkpoint": f"checkpoints/{plain.name}"}))
    assert state(out, "save=true") == "done"
    cut(plain)
    assert state(out, "save=true") == "missing"


@pytest.mark.parametrize("fault", [cut, pipe, dangling, listening])
def test_a_record_that_cannot_be_read_back_is_missing(out: Path, fault: Callable[[Path], None]) -> None:
    path = record_of(out)
    fault(path)
    if fault is cut:
        cut(path)  # the first character was the end of the last line
    assert state(out) == "missing"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(seed=1),
        lambda data: data.update(run_id="0" * 16),
        lambda data: data.update(task="mini/shapes"),
        lambda data: data["method"].update(name="lora"),
        lambda data: data["backbone"].update(name="other"),
    ],
)
def test_the_record_of_another_run_under_this_name_does_not_count(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rewritten(record_of(out), change)
    assert state(out) == "missing"


def test_a_record_of_a_newer_schema_is_refused_before_anything_is_computed(out: Path) -> None:
    path = record_of(out)
    rewritten(path, lambda data: data.update(schema_version=SCHEMA_VERSION + 1, invention={}))
    before = path.read_bytes()
    for attempt in (lambda: plan([*WORDS, f"out={out}"]), lambda: execute(resolve([*WORDS, f"out={out}"]))):
        with pytest.raises(RecordError, match=rf"{path.name}: schema version {SCHEMA_VERSION + 1}, .* update petlbench$"):
            attempt()
    assert path.read_bytes() == before


def test_a_folder_in_place_of_a_record_is_refused_before_anything_is_computed(out: Path) -> None:
    path = record_of(out)
    path.unlink()
    path.mkdir()
    for attempt in (lambda: plan([*WORDS, f"out={out}"]), lambda: execute(resolve([*WORDS, f"out={out}"]))):
        with pytest.raises(RecordError, match=rf"{path.name}: a folder is where a record belongs; move it away"):
            attempt()


def test_a_folder_in_place_of_predictions_is_refused_before_anything_is_computed(out: Path) -> None:
    predictions = files_of(out)[0]
    predictions.unlink()
    predictions.mkdir()
    with pytest.raises(RecordError, match=rf"{predictions.name}: a folder is where a file of .* belongs; move it away"):
        plan([*WORDS, f"out={out}"])


def test_a_record_that_may_not_be_read_is_not_replaced(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the test asks as somebody else would."""
    monkeypatch.setattr("petlbench.records.store.os.access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(RecordError, match="may not be read, so it is not replaced"):
        plan([*WORDS, f"out={out}"])


def test_a_run_replaces_a_pipe_with_its_record(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record_of(out)
    before = read_record(path)
    pipe(path)
    monkeypatch.undo()
    record, written = execute(resolve([*WORDS, f"out={out}", "save=true"]))
    assert written == path and record.predictions == before.predictions and state(out, "save=true") == "done"


def test_a_run_whose_record_could_not_be_read_back_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    """The cite of a plugin is a field of the record."""
    config = resolve([*WORDS, f"out={tmp_path / 'new'}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS.get("linear"), "cite", "two\nlines")
        with pytest.raises(ConfigError, match=r"this run cannot be recorded: method\.cite: expected text in one line"):
            execute(config)
    assert not list((tmp_path / "new").glob("**/*.json"))
