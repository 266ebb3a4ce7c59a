"""An index of records: unchanged files are not read again, and nothing that it says is older than the files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench.records import index as index_module
from petlbench.records import store as store_module
from petlbench.records.file_state import TICK
from petlbench.records.index import RecordIndex
from petlbench.records.store import RecordStore
from tests.record_factory import store_record

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with three records, whose predictions are whole, and one file that is no record."""
    folder = tmp_path / "results"
    for seed in range(3):
        store_record(folder, seed=seed)
    (folder / "records" / "mini" / "broken.json").write_text("{")
    _settle()
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the record files that are read, and of the files whose content is hashed."""
    names: list[str] = []

    def spied(function: Callable[..., object]) -> Callable[..., object]:
        def spy(path: Path, *rest: object) -> object:
            names.append(path.name)
            return function(path, *rest)

        return spy

    monkeypatch.setattr(store_module, "read_record", spied(store_module.read_record))
    monkeypatch.setattr(store_module, "sha256_of", spied(store_module.sha256_of))
    return names


def _settle() -> None:
    time.sleep(2 * TICK / 1e9)


def _paths(results: Path) -> list[Path]:
    return [path for path in RecordStore(results).paths() if path.name != "broken.json"]


def _whole(index: RecordIndex) -> list[bool]:
    return [index.is_whole(entry, path, False) for path in _paths(index.results) for _, entry in index.entries_of(path)]


def _indexed(results: Path) -> RecordIndex:
    index = RecordIndex(results)
    assert all(_whole(index))
    index.save()
    return index


def test_an_index_knows_what_the_files_say(results: Path) -> None:
    index, store = RecordIndex(results), RecordStore(results)
    assert len(list(index.entries())) == 3 and len(index.broken) == 1 and "broken.json" in index.broken[0]
    assert index.broken == store.read().broken
    for path in _paths(results):
        assert list(index.entries_of(path)) == list(store.entries_of(path))
        assert index.path_of(store.find(path)) == path  # type: ignore[arg-type]


def test_each_record_is_read_once_and_later_not_at_all(results: Path, read: list[str]) -> None:
    _indexed(results)
    own = [name for name in read if name != "broken.json"]
    assert len(own) == len(set(own)) == 6  # three records and their predictions
    read.clear()
    assert len(list(_indexed(results).entries())) == 3
    assert set(read) == {"broken.json"}  # what is broken may be whole again without a change that shows


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: os.truncate(file, 100), lambda file: file.write_text('{"code": 1}')])
def test_a_lost_or_damaged_index_only_costs_time(results: Path, read: list[str], damage: Callable[[Path], None], cache: Path) -> None:
    before = list(_indexed(results).entries())
    (file,) = (cache / "records").iterdir()
    damage(file)
    read.clear()
    assert list(_indexed(results).entries()) == before and len(read) == 7


def test_an_index_of_other_code_is_not_believed(results: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _indexed(results)
    monkeypatch.setattr(index_module, "_code", lambda: "other")
    read.clear()
    _indexed(results)
    assert len(read) == 7


def test_a_changed_record_is_read_again_even_with_the_same_size_and_time(results: Path, read: list[str]) -> None:
    _indexed(results)
    path, found = _paths(results)[0], _paths(results)[0].stat()
    path.write_text(path.read_text().replace('"ok"', '"no"'))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    _settle()
    read.clear()
    index = RecordIndex(results)
    assert not list(index.entries_of(path)) and len(list(index.entries())) == 2 and len(index.broken) == 2
    assert path.name in read


def test_a_removed_record_is_forgotten_and_a_new_one_is_read_alone(results: Path, read: list[str]) -> None:
    _indexed(results)
    _paths(results)[0].unlink()
    new = store_record(results, seed=7)
    read.clear()
    index = RecordIndex(results)
    assert sorted(entry.seed for entry in index.entries()) == [1, 2, 7]
    assert set(read) == {"broken.json", new.name}


def test_changed_predictions_are_read_again(results: Path) -> None:
    _indexed(results)
    path = _paths(results)[1]
    (entry,) = (entry for _, entry in RecordStore(results).entries_of(path))
    assert entry.predictions is not None
    file = path.parent / entry.predictions.file
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    found = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    index = RecordIndex(results)
    assert _whole(index) == [True, False, True]
    file.unlink()
    assert _whole(index) == [True, False, True]


def test_a_file_that_has_just_changed_is_not_remembered(results: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change in the same tick of the clock would leave its state as it is."""
    monkeypatch.setattr(index_module, "is_settled", lambda found: False)
    _indexed(results)
    read.clear()
    _indexed(results)
    assert len([name for name in read if name != "broken.json"]) == 6


def test_the_records_of_a_run_on_other_content_are_found_beside_it(results: Path) -> None:
    path = _paths(results)[0]
    for name in (f"{path.stem}-1a2b3c4d.json", f"{path.stem}x.json"):
        shutil.copy(path, path.with_name(name))
    (inner := path.with_name(f"{path.stem}-folder")).mkdir()
    shutil.copy(path, inner / "deeper.json")
    found = [one for one, _ in RecordIndex(results).entries_of(path)]
    assert found == [one for one, _ in RecordStore(results).entries_of(path)] == [path, path.with_name(f"{path.stem}-1a2b3c4d.json")]


def test_an_index_that_cannot_be_written_is_no_error(results: Path, cache: Path) -> None:
    cache.write_text("a file where a folder belongs")
    assert len(list(_indexed(results).entries())) == 3
