"""Export the table of all runs: one column per field of a record, with types that do not depend on the records."""

from __future__ import annotations

import json
import sys
import typing
import weakref
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pydantic import BaseModel

from petlbench.access.meter import COUNTED, PHASES
from petlbench.analysis.export import COLUMNS, flat_frame, write_flat
from petlbench.errors import RecordError
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from tests.record_factory import make_record


def field_names(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Name every field of a record that is not a section, with its sections in front."""
    found = set()
    for name, field in model.model_fields.items():
        sections = [
            kind
            for kind in (field.annotation, *typing.get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        is_collection = typing.get_origin(field.annotation) in (list, dict)
        found |= field_names(sections[0], f"{prefix}{name}.") if sections and not is_collection else {f"{prefix}{name}"}
    return found


def test_every_field_of_a_record_has_one_column() -> None:
    in_columns = [column.field for column in COLUMNS]
    assert len(set(in_columns)) == len(in_columns) and len({column.name for column in COLUMNS}) == len(COLUMNS)
    queries = {f"cost.queries.{phase}.{what}" for phase in PHASES for what in COUNTED}
    splits = {f"split_hashes.{split}" for split in ("train", "val", "test")}
    assert set(in_columns) == field_names(Record) - {"cost.queries", "split_hashes"} | queries | splits


def test_values_are_those_of_the_record() -> None:
    record = make_record("craft", seed=3, accuracy=100 / 3, settings={"rank": 4}, curve=[(100, 2, 50.0)])
    (row,) = flat_frame([record]).to_dict("records")
    assert (row["run_id"], row["method"], row["seed"], row["accuracy"]) == (record.run_id, "craft", 3, 100 / 3)
    assert (row["train_images"], row["test_images"], row["params_trainable"]) == (1000, 200, 19_968)
    assert json.loads(row["method_config"]) == {"rank": 4}
    assert json.loads(row["curve"]) == [{"images": 100, "contexts": 2, "accuracy": 50.0}]


def test_runs_without_a_result_are_rows_with_empty_cells() -> None:
    frame = flat_frame([make_record(status="failed").model_copy(update={"parameters": None})])
    row = frame.iloc[0]
    assert row["status"] == "failed" and row["error"] == "the loss is no longer finite"
    assert frame[["accuracy", "params_trainable", "predictions_file", "curve_images"]].isna().all(axis=None)


def test_types_do_not_depend_on_the_records() -> None:
    """Whole-number and missing accuracies get the same column types."""
    frames = [flat_frame(records) for records in ([], [make_record(accuracy=80)], [make_record(status="failed")])]
    assert all((frame.dtypes == frames[0].dtypes).all() for frame in frames)


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    records = [make_record(accuracy=100 / 3), make_record(seed=1, status="failed")]
    for record in records:
        RecordStore(tmp_path).write(record)
    csv, parquet = write_flat(tmp_path, RecordStore(tmp_path).read())
    expected = flat_frame(RecordStore(tmp_path).read())
    pd.testing.assert_frame_equal(pd.read_parquet(parquet, dtype_backend="numpy_nullable"), expected, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(csv, dtype=expected.dtypes.to_dict()), expected)


def test_without_pyarrow_the_csv_is_written_and_one_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RecordStore(tmp_path).write(make_record())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RecordError, match=r"pip install 'petlbench\[parquet\]'; .*runs\.csv is written"):
        write_flat(tmp_path, RecordStore(tmp_path).read())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["runs.csv"]


def test_pieces_give_the_same_files_as_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [make_record(seed=0, status="failed"), *(make_record(seed=seed, accuracy=70 + seed / 3) for seed in range(1, 6))]
    folders = [tmp_path / name for name in ("whole", "pieces")]
    for folder, at_once in zip(folders, (200, 2), strict=True):
        monkeypatch.setattr("petlbench.analysis.export._AT_ONCE", at_once)
        RecordStore(folder).write(records[0])
        write_flat(folder, iter(records))
    whole, pieces = folders
    assert (whole / "runs.csv").read_bytes() == (pieces / "runs.csv").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(whole / "runs.parquet"), pd.read_parquet(pieces / "runs.parquet"))


def test_no_more_records_are_held_than_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.analysis.export._AT_ONCE", 3)
    RecordStore(tmp_path).write(make_record())
    made: list[weakref.ref[Record]] = []
    most = 0

    def read() -> Iterator[Record]:
        nonlocal most
        for seed in range(12):
            record = make_record(seed=seed)
            made.append(weakref.ref(record))
            most = max(most, sum(one() is not None for one in made))
            yield record
            del record

    write_flat(tmp_path, read())
    assert most <= 4
