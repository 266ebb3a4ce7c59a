"""A record that was tampered with is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petlbench.checkpoint import save_predictions
from petlbench.records import schema
from petlbench.records.store import RecordStore, run_id
from petlbench.records.validate import problems_of
from tests.record_factory import make_record

PREDICTED, LABELS = torch.tensor([0, 1, 2, 0] * 50), torch.tensor([0, 1, 1, 0] * 50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record in good order, 75 % right, with its predictions."""
    record = make_record(accuracy=75.0)
    settings = schema.ProtocolId(id=record.protocol.id, settings=record.config["protocol"])
    path = RecordStore(tmp_path).path_of(record)
    predictions = save_predictions(path.with_suffix(".predictions.safetensors"), PREDICTED, LABELS)
    return RecordStore(tmp_path).write(record.model_copy(update={"predictions": predictions, "protocol": settings}))


def problem(path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """The only problem of a record after a change."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    (found,) = problems_of(path)
    return found


def test_a_record_in_good_order_has_no_problems(path: Path) -> None:
    assert problems_of(path) == []


def test_a_changed_accuracy_is_recomputed(path: Path) -> None:
    assert problem(path, lambda data: data["metrics"].update(accuracy=76.0)) == "metrics.accuracy is 76.0000, the predictions give 75.0000"


def test_a_changed_number_of_samples_is_counted(path: Path) -> None:
    assert problem(path, lambda data: data["metrics"].update(samples=400)) == "metrics.samples is 400, there are 200 predictions"


def test_a_changed_setting_breaks_the_run_id(path: Path) -> None:
    assert "is not the hash of the configuration" in problem(path, lambda data: data["config"]["train"].update(epochs=1))


def test_a_changed_setting_with_a_new_run_id_breaks_the_files_name(path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["config"]["train"]["epochs"] = 1
        data["run_id"] = run_id(data["config"])

    assert "the file is not named after its run_id" in problem(path, change)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: data["method"].update(name="full"), "method.name is 'full', the configuration has 'lora'"),
        (lambda data: data["backbone"].update(name="large"), "backbone.name is 'large', the configuration has 'mini_clip'"),
        (lambda data: data.update(seed=7), "seed is 7, the configuration has 0"),
        (lambda data: data.update(suite="vtab"), "suite is 'vtab', the configuration has 'mini'"),
        (lambda data: data["protocol"]["settings"].update(shots=4), "protocol.settings is "),
    ],
)
def test_what_a_table_sorts_by_must_be_what_was_configured(path: Path, change: Callable[[dict[str, Any]], Any], field: str) -> None:
    assert problem(path, change).startswith(field)


def test_changed_predictions_are_noticed(path: Path) -> None:
    save_predictions(path.with_suffix(".predictions.safetensors"), LABELS, LABELS)
    (found,) = problems_of(path)
    assert found.endswith("were changed: their SHA-256 is not the recorded one")


def test_missing_predictions_are_noticed(path: Path) -> None:
    path.with_suffix(".predictions.safetensors").unlink()
    (found,) = problems_of(path)
    assert found.endswith("are missing")


@pytest.mark.parametrize("field", ["predictions", "metrics"])
def test_a_result_without_evidence_is_noticed(path: Path, field: str) -> None:
    assert problem(path, lambda data: data.update({field: None})) == "status ok without metrics or predictions"


def test_predictions_outside_the_records_folder_are_not_read(path: Path) -> None:
    assert "are missing" in problem(path, lambda data: data["predictions"].update(file="../../../etc/passwd"))


def test_a_failure_must_say_why(path: Path) -> None:
    assert problem(path, lambda data: data.update(status="failed")) == "status failed without an error"


def test_an_unreadable_record_is_one_problem(path: Path) -> None:
    path.write_text(path.read_text()[:-20])
    (found,) = problems_of(path)
    assert "not a complete JSON document" in found
