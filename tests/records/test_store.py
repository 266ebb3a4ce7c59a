"""Store records on disk: their paths, and no half-written record after a fault."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlbench.config.files import load_suite
from petlbench.config.identity import run_id
from petlbench.errors import NewerRecord, RecordError
from petlbench.records.schema import SCHEMA_VERSION, Predictions, Record, Status, read_record
from petlbench.records.store import RecordStore, is_kept, side_file, write_atomically
from tests.record_factory import make_record

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), JSON))
def test_a_run_id_is_sixteen_digits_whatever_the_order_of_keys(config: dict[str, Any]) -> None:
    assert run_id(config) == run_id(dict(reversed(config.items())))
    assert len(run_id(config)) == 16 and int(run_id(config), 16) >= 0


def test_a_run_id_tells_types_apart() -> None:
    assert len({run_id({"x": value}) for value in (1, "1", True, None, [1], 1.5)}) == 6


def test_a_configuration_without_a_canonical_form_has_no_run_id() -> None:
    with pytest.raises(ValueError, match="JSON"):
        run_id({"x": float("nan")})


def test_a_record_is_found_again(tmp_path: Path) -> None:
    store, record = RecordStore(tmp_path), make_record()
    path = store.write(record)
    assert store.find(path) == record and list(store.read()) == [record] and store.paths() == [path]


@pytest.mark.parametrize("fault", [{"train_seconds": float("inf")}, {"images_decoded": -1}])
def test_what_could_not_be_read_back_does_not_replace_a_record(tmp_path: Path, fault: dict[str, float]) -> None:
    store, record = RecordStore(tmp_path), make_record()
    path = store.write(record)
    broken = record.model_copy(update={"cost": record.cost.model_copy(update=fault)})  # which skips the schema
    with pytest.raises(RecordError, match="cannot be written: cost"):
        store.write(broken)
    assert read_record(path) == record


def test_a_record_lies_under_suite_and_task_with_a_telling_name(tmp_path: Path) -> None:
    record = make_record("lora", "mini/digits", 3, backbone="timm:vit_base_patch16_224.augreg_in21k")
    path = RecordStore(tmp_path).path_of(record)
    expected = f"records/mini/digits/lora-timm_vit_base_patch16_224.augreg_in21k-s3-{record.run_id}.json"
    assert path.relative_to(tmp_path).as_posix() == expected


@pytest.mark.parametrize("task", ["folder:/etc/passwd", "folder:../../up", "..", "a/../../b", "folder:C:\\x", "folder:a b\nc"])
def test_no_name_leads_out_of_the_results_folder(tmp_path: Path, task: str) -> None:
    path = RecordStore(tmp_path).path(task, "../lora", "../x", 0, "0" * 16)
    assert path.resolve().is_relative_to(tmp_path.resolve() / "records")
    assert "\n" not in str(path)


def test_a_joined_task_lies_in_one_folder_however_many_it_joins(tmp_path: Path) -> None:
    task = "+".join(f"vtab/{name}" for name in load_suite("vtab").tasks)
    path = RecordStore(tmp_path).write(make_record(task=task))
    assert len(task) > 300 and len(path.relative_to(tmp_path).parts) == 4 and path.parent.parent.name == "vtab"
    assert max(map(len, path.parts)) < 200


def test_records_of_joined_tasks_and_of_folders_are_found_where_they_used_to_lie(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for task, folder in [("mini/digits+mini/textures", "mini/digits_mini/textures"), ("folder:/data/my pets", "folder_/data/my_pets")]:
        record = make_record(task=task)
        path = store.write(record)
        former = tmp_path / "records" / folder / path.name
        assert path != former
        former.parent.mkdir(parents=True)
        path.rename(former)
        assert store.path_of(record) == former and store.write(record) == former and store.find(former) == record
        assert not path.exists()


def test_settings_that_differ_do_not_share_a_file(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    assert store.path_of(make_record(settings={"rank": 4})) != store.path_of(make_record(settings={"rank": 8}))


def test_a_broken_record_is_named_beside_the_others_and_written_again(tmp_path: Path) -> None:
    store, other = RecordStore(tmp_path), make_record(seed=1)
    path, _ = store.write(make_record()), store.write(other)
    path.write_bytes(path.read_bytes()[:50] + b"\xff")
    assert store.find(path) is None and store.read() == [other]
    assert store.read().broken == (f"{path}: not a text file; delete it and run again",)
    store.write(make_record())
    assert len(store.read()) == 2 and not store.read().broken


def test_predictions_and_temporary_files_are_not_taken_for_records(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(make_record())
    path.with_name(".tmp-1-x.json").write_text("{")
    path.with_suffix(".predictions.safetensors").write_bytes(b"")
    assert store.paths() == [path]


def test_without_a_results_folder_there_are_no_records(tmp_path: Path) -> None:
    assert RecordStore(tmp_path / "absent").paths() == []


@pytest.mark.parametrize("step", ["open", "replace", "mkdir"])
@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")])
def test_a_refused_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, reason: str
) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(code, reason)

    write_atomically(tmp_path / "a.json", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, refuse)
        with pytest.raises(RecordError, match=rf"cannot write {tmp_path / 'a.json'}: {reason}; free space or choose another folder"):
            write_atomically(tmp_path / "a.json", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]


def test_an_interrupted_write_leaves_the_old_file_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a.json", b"old")
    monkeypatch.setattr("petlbench.records.store.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real = Path.replace
    monkeypatch.setattr("petlbench.records.store.os.fsync", lambda descriptor: steps.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda self, target: (steps.append("rename"), real(self, target))[1])
    write_atomically(tmp_path / "a.json", b"new")
    assert steps == ["fsync", "rename"]


RESULT, REPEATED = make_record(), make_record(accuracy=70.0, created="2026-02-01T00:00:00Z")


def without_result(status: Status) -> Record:
    return make_record(status=status, created="2026-03-01T00:00:00Z")


@pytest.mark.parametrize("status", ["failed", "diverged", "cancelled"])
@pytest.mark.parametrize("earlier", ["ok", "budget"])
def test_a_result_is_never_replaced_by_a_record_without_one(tmp_path: Path, earlier: Status, status: Status) -> None:
    store, record = RecordStore(tmp_path), without_result(status)
    path = store.write(make_record(status=earlier))
    before = path.read_bytes()
    assert store.write(record, {path.with_name("new.safetensors"): b"new"}) == path
    assert path.read_bytes() == before and store.paths() == [path] and is_kept(record, path)
    assert not path.with_name("new.safetensors").exists()


def test_a_result_that_only_a_newer_petlbench_can_read_is_kept_too(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(RESULT)
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    before = path.read_bytes()
    with pytest.raises(NewerRecord, match=r"schema version 99, this petlbench reads up to \d+; update petlbench"):
        store.write(without_result("failed"))
    assert b"99" in before and path.read_bytes() == before


@pytest.mark.parametrize("new", [REPEATED, without_result("failed")])
def test_what_is_not_a_result_is_replaced(tmp_path: Path, new: Record) -> None:
    store = RecordStore(tmp_path)
    for earlier in (without_result("cancelled"), without_result("diverged")):
        store.write(earlier)
        path = store.write(new)
        assert store.find(path) == new and not is_kept(new, path)
        path.unlink()


def test_a_result_replaces_a_result(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(RESULT)
    assert store.find(store.write(REPEATED)) == REPEATED


def test_of_two_processes_at_the_same_moment_the_one_with_a_result_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has already checked that there is no result and is about to write."""
    started, written = threading.Event(), threading.Event()

    def slowly(path: Path, content: bytes) -> None:
        if b'"cancelled"' in content:
            started.set()
            written.wait(0.5)
        write_atomically(path, content)

    def write_result() -> None:
        started.wait()
        RecordStore(tmp_path).write(RESULT)
        written.set()

    monkeypatch.setattr("petlbench.records.store.write_atomically", slowly)
    other = threading.Thread(target=write_result)
    other.start()
    path = RecordStore(tmp_path).write(without_result("cancelled"))
    other.join()
    assert RecordStore(tmp_path).find(path) == RESULT


def with_files(store: RecordStore, record: Record, content: bytes) -> tuple[Record, dict[Path, bytes]]:
    """A record that names predictions, token usage and a checkpoint of that content."""
    path = store.path_of(record)
    predictions, usage = (side_file(path, kind, content) for kind in ("predictions", "usage"))
    checkpoint = store.checkpoints / side_file(path, "checkpoint", content).name
    named = {
        "predictions": Predictions(file=predictions.name, sha256=hashlib.sha256(content).hexdigest()),
        "token_usage": usage.name,
        "checkpoint": checkpoint.relative_to(store.results).as_posix(),
    }
    return record.model_copy(update=named), dict.fromkeys((predictions, usage, checkpoint), content)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def contents(store: RecordStore, path: Path) -> set[bytes]:
    """Return the contents of the files that a record names."""
    record = read_record(path)
    assert record.predictions is not None
    found = {file.read_bytes() for file in store.files_of(record, path)}
    assert record.predictions.sha256 in {hashlib.sha256(content).hexdigest() for content in found}
    return found


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("step", range(4))
def test_a_repetition_that_is_stopped_at_any_file_leaves_the_earlier_record_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException
) -> None:
    store, steps, real = RecordStore(tmp_path), iter(range(5)), Path.replace
    path = store.write(*with_files(store, RESULT, b"old"))
    before = files_below(tmp_path)

    def stop(self: Path, target: Path) -> None:
        if next(steps) == step:
            raise error
        real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises((KeyboardInterrupt, RecordError)):
            store.write(*with_files(store, REPEATED, b"new"))
    assert read_record(path).metrics == RESULT.metrics and contents(store, path) == {b"old"}
    assert files_below(tmp_path) == before


def _killed(store: RecordStore, step: int) -> None:
    steps, real = iter(range(5)), Path.replace

    def stop(self: Path, target: Path) -> None:
        if next(steps) == step:
            os._exit(9)
        real(self, target)

    Path.replace = stop  # type: ignore[method-assign, assignment]
    store.write(*with_files(store, REPEATED, b"new"))


@pytest.mark.parametrize("step", range(4))
def test_a_process_that_is_killed_at_any_file_leaves_the_earlier_record_with_its_files(tmp_path: Path, step: int) -> None:
    store = RecordStore(tmp_path)
    path = store.write(*with_files(store, RESULT, b"old"))
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(store, step))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    assert read_record(path).metrics == RESULT.metrics and contents(store, path) == {b"old"}


def test_a_repeated_result_has_its_own_files_and_none_of_the_earlier_one(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(*with_files(store, RESULT, b"old"))
    path = store.path_of(RESULT)
    side_file(path, "predictions", b"of a process that was killed").write_bytes(b"")
    store.write(*with_files(store, REPEATED, b"new"))
    assert contents(store, path) == {b"new"} and files_below(tmp_path) == {path, *store.files_of(read_record(path), path)}


def test_what_was_learned_is_kept_when_a_repetition_keeps_nothing(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(*with_files(store, RESULT, b"old"))
    record, files = with_files(store, REPEATED, b"new")
    store.write(record.model_copy(update={"checkpoint": None}), {file: files[file] for file in files if file.parent != store.checkpoints})
    assert [file.read_bytes() for file in store.checkpoints.iterdir()] == [b"old"]


def test_a_record_that_comes_from_elsewhere_gets_the_names_that_it_has_here(tmp_path: Path) -> None:
    elsewhere, here = RecordStore(tmp_path / "elsewhere"), RecordStore(tmp_path / "here")
    first, files = with_files(elsewhere, make_record(revision="r1"), b"one")
    second, other_files = with_files(elsewhere, make_record(revision="r2"), b"two")
    adopted, path = here.adopt(first, {file.name: content for file, content in files.items()})
    beside, other = here.adopt(second, {file.name: content for file, content in other_files.items()})
    assert path.name == here.path_of(first).name and other != path  # the result of other data stays
    assert adopted == first and read_record(path) == adopted and read_record(other) == beside
    assert contents(here, path) == {b"one"} and contents(here, other) == {b"two"}
    assert {file.name.partition(".")[0] for file in here.files_of(beside, other)} == {other.stem}
