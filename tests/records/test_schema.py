"""Read records; refuse an invalid one with its file and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.access.rungs import BOXES
from petlbench.analysis.aggregate import runs_frame
from petlbench.analysis.validate import problems_of
from petlbench.errors import RecordError
from petlbench.records.fields import Rung
from petlbench.records.schema import SCHEMA_VERSION, Record, parse_record, read_record
from petlbench.records.store import RecordStore
from tests.record_factory import make_record

TEXT = make_record().model_dump_json()


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(TEXT)
    change(data)
    return json.dumps(data)


def refusal(text: str) -> str:
    with pytest.raises(RecordError) as caught:
        parse_record(text, "results/a.json")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("results/a.json: ")
    return str(caught.value)


def test_a_record_survives_being_written_and_read() -> None:
    assert parse_record(TEXT, "here") == make_record()


def refuse_steps(*_: object) -> Record:
    raise AssertionError("not read in one pass")


def test_a_file_as_it_is_written_is_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = RecordStore(tmp_path).write(make_record())
    monkeypatch.setattr("petlbench.records.schema._checked", refuse_steps)
    assert read_record(path) == make_record()


@pytest.mark.parametrize("key", ['"seed": 0,', '"status": "ok",', '"epochs": 20,'])
def test_a_key_that_stands_twice_is_refused_in_a_file_as_it_is_written(tmp_path: Path, key: str) -> None:
    text = RecordStore(tmp_path).write(make_record()).read_text()
    assert key in text and "stands twice" in refusal(text.replace(key, key + key, 1))


def test_a_byte_order_mark_before_a_file_as_it_is_written_is_refused(tmp_path: Path) -> None:
    assert "byte order mark" in refusal("\ufeff" + RecordStore(tmp_path).write(make_record()).read_text())


def test_full_floats_are_kept() -> None:
    accuracy = 100 * 2 / 3
    record = parse_record(make_record(accuracy=accuracy).model_dump_json(), "here")
    assert record.metrics is not None and record.metrics.accuracy == accuracy


@given(st.integers(0, len(TEXT) - 1))
def test_a_truncated_record_is_named_wherever_it_was_cut(length: int) -> None:
    assert "not a complete JSON document" in refusal(TEXT[:length])


def test_a_record_of_a_newer_schema_asks_for_an_update() -> None:
    text = changed(lambda data: data.update(schema_version=SCHEMA_VERSION + 1, invention={}))
    assert refusal(text).endswith(f"schema version {SCHEMA_VERSION + 1}, this petlbench reads up to {SCHEMA_VERSION}; update petlbench")


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema_version": "1"}', "null"])
def test_json_of_another_kind_is_not_a_record(text: str) -> None:
    assert "this is not a petlbench record" in refusal(text)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: data.pop("seed"), "seed: Field required"),
        (lambda data: data["method"].pop("plugin"), "method.plugin: Field required"),
        (lambda data: data.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda data: data["cost"].update(extra=1), "cost.extra: Extra inputs"),
        (lambda data: data["parameters"].update(allocation={"x.q": 1}), "parameters.allocation.x.q"),
        (lambda data: data["parameters"].update(allocation={"3.q": -1}), "parameters.allocation.3.q: "),
        (lambda data: data.update(status="fine"), "status: "),
        (lambda data: data.update(run_id="../../etc"), "run_id: "),
        (lambda data: data["metrics"].update(accuracy=None), "metrics.accuracy: "),
    ],
)
def test_a_wrong_field_is_named(change: Callable[[dict[str, Any]], Any], field: str) -> None:
    assert field in refusal(changed(change))


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=r"a\.json: not a text file"):
        read_record(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"absent\.json: No such file"):
        read_record(tmp_path / "absent.json")


def test_a_record_cannot_be_changed_in_memory() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_record().seed = 3  # type: ignore[misc]


def test_every_field_has_a_place_in_the_file() -> None:
    assert set(json.loads(TEXT)) == set(Record.model_fields)


def test_a_record_from_before_the_allocation_was_recorded_is_read() -> None:
    record = parse_record(changed(lambda data: data["parameters"].pop("allocation")), "here")
    assert record.parameters is not None and record.parameters.allocation == {}


def test_records_know_the_rungs_of_the_access_ladder() -> None:
    assert get_args(Rung) == tuple(BOXES)


FIXTURES = Path(__file__).parent / "fixtures"  # results as the code of each version wrote them


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_record_of_every_version_is_read_and_in_good_order(version: int) -> None:
    (path,) = RecordStore(FIXTURES / f"version_{version}").paths()
    assert read_record(path).schema_version == version
    assert problems_of(path) == []


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_records_of_every_version_are_counted_in_tables(version: int) -> None:
    (record,) = RecordStore(FIXTURES / f"version_{version}").read()
    (row,) = runs_frame([record]).to_dict("records")
    assert (row["accuracy"], row["task"]) == (record.metrics and record.metrics.accuracy, "mini/digits")
