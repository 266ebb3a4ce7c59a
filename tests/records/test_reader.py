"""Read records for tables: each file once as long as it stays what it is, and no more of it than tables show."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from petlbench.records import reader as reader_module
from petlbench.records.reader import Reader
from petlbench.records.schema import Epoch, Record
from petlbench.records.store import RecordStore
from tests.record_factory import make_record

PATIENT = 3000  # epochs


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the record files that are read."""
    names: list[str] = []
    original = reader_module.read_record

    def spy(path: Path) -> Record:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(reader_module, "read_record", spy)
    return names


def with_history(record: Record, epochs: int) -> Record:
    return record.model_copy(update={"history": [Epoch(epoch=i, loss=1 / (i + 1), learning_rate=0.1) for i in range(epochs)]})


def test_only_what_is_new_or_changed_is_read_again(tmp_path: Path, read: list[str]) -> None:
    store, reader = RecordStore(tmp_path), Reader(RecordStore(tmp_path))
    first, second = (store.write(make_record(seed=seed)) for seed in (0, 1))
    assert len(reader.read()) == 2 and read == [first.name, second.name]
    assert not reader.has_news()
    third = store.write(make_record(seed=2))
    second.write_text("{")
    assert reader.has_news()
    read.clear()
    found = reader.read()
    assert sorted(read) == sorted([second.name, third.name])
    assert [record.seed for record in found] == [0, 2] and len(found.broken) == 1
    first.unlink()
    read.clear()
    assert reader.has_news() and [record.seed for record in reader.read()] == [2] and read == []


def test_a_file_that_is_replaced_by_one_as_long_and_as_old_is_read_again(tmp_path: Path, read: list[str]) -> None:
    store, reader = RecordStore(tmp_path), Reader(RecordStore(tmp_path))
    path = store.write(make_record(accuracy=80.0))
    reader.read()
    before = path.stat()
    path.with_suffix(".new").write_text(path.read_text().replace("80.0", "81.0"))
    path.with_suffix(".new").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (record,) = reader.read()
    assert record.metrics is not None and record.metrics.accuracy == 81.0


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    for seed in range(3):
        RecordStore(tmp_path).write(make_record(seed=seed))
    told: list[tuple[int, int]] = []
    Reader(RecordStore(tmp_path)).read(lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_it_reads_what_the_store_reads_but_for_histories(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(with_history(make_record(), 3))
    store.write(make_record(seed=1, status="failed"))
    (tmp_path / "records" / "mini" / "broken.json").write_text("{")
    whole, found = store.read(), Reader(store).read()
    assert found.broken == whole.broken
    assert list(found) == [record.model_copy(update={"history": [], "split_hashes": {}}) for record in whole]


def test_memory_does_not_grow_with_the_length_of_runs(tmp_path: Path) -> None:
    held = []
    for epochs in (0, PATIENT):
        store = RecordStore(tmp_path / str(epochs))
        for seed in range(10):
            store.write(with_history(make_record(seed=seed), epochs))
        reader = Reader(store)
        reader.read()  # imports and caches are filled
        reader = Reader(store)
        tracemalloc.start()
        try:
            records = reader.read()
            held.append(tracemalloc.get_traced_memory()[0] / len(records))
        finally:
            tracemalloc.stop()
    assert held[1] < 2 * held[0]  # a history of so many epochs is more than a hundred times as large as the rest
    assert held[1] < 60_000  # bytes of a record, whatever its run was
