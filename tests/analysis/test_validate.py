"""Find records that were tampered with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from petlbench.analysis.validate import check_record, missing_cells, problems_among, problems_of
from petlbench.checkpoints.file import packed_predictions
from petlbench.config.identity import run_id
from tests.conftest import Call
from tests.record_factory import LABELS, PREDICTED, PROTOCOL, TASKS, make_record, store_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record in good order."""
    return store_record(tmp_path)


def problem(path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """Change a record; return the only problem found in it."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    (found,) = problems_of(path)
    return found


def joined(**parts: tuple[float, float, int]) -> dict[str, dict[str, float]]:
    """Metrics of joined tasks."""
    return {name: dict(zip(("accuracy", "own_accuracy", "samples"), of_part, strict=True)) for name, of_part in parts.items()}


def epochs(*numbers: int) -> list[dict[str, float]]:
    return [{"epoch": number, "loss": 1.0, "learning_rate": 0.1} for number in numbers]


def points(*images: int) -> list[dict[str, float]]:
    """A curve that ends at the result."""
    return [{"images": count, "contexts": 0, "accuracy": 75.0} for count in images]


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
        (lambda data: data["protocol"].update(id="native-1a2b3c4d"), "protocol.id is 'native-1a2b3c4d', the configuration has 'native-"),
        (lambda data: data["method"].update(plugin="full"), "method.plugin is 'full', the configuration has 'lora'"),
        (lambda data: data["method"].update(config={"rank": 4}), "method.config is {'rank': 4}, the configuration has {}"),
        (lambda data: data.update(selection="best_val"), "selection is 'best_val', the configuration has 'last'"),
    ],
)
def test_what_a_table_sorts_by_must_be_what_was_configured(path: Path, change: Callable[[dict[str, Any]], Any], field: str) -> None:
    assert problem(path, change).startswith(field)


def test_changed_predictions_are_noticed(path: Path) -> None:
    path.with_suffix(".predictions.safetensors").write_bytes(packed_predictions(LABELS, LABELS))
    (found,) = problems_of(path)
    assert found.endswith("were changed: their SHA-256 is not the recorded one")


def test_missing_predictions_are_noticed(path: Path) -> None:
    path.with_suffix(".predictions.safetensors").unlink()
    (found,) = problems_of(path)
    assert found.endswith("are missing")


def test_a_result_without_evidence_is_noticed(path: Path) -> None:
    assert problem(path, lambda data: data.update(predictions=None)) == "status ok without metrics or predictions"
    assert problem(path, lambda data: data.update(metrics=None)).endswith("record: status ok without metrics")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/b", "..", "", "a\n"])
def test_files_outside_the_records_folder_are_not_read(path: Path, name: str) -> None:
    assert "predictions.file: expected the name of a file" in problem(path, lambda data: data["predictions"].update(file=name))


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_in_place_of_predictions_is_not_waited_for(path: Path, make: Callable[[Path], None]) -> None:
    predictions = path.with_suffix(".predictions.safetensors")
    predictions.unlink()
    make(predictions)
    (found,) = problems_of(path)
    assert found.endswith("are missing")


def test_a_failure_must_say_why(path: Path) -> None:
    lost = {"status": "failed", "metrics": None, "predictions": None}
    assert problem(path, lambda data: data.update(lost)) == "status failed without an error"


@pytest.mark.parametrize("field", ["predictions", "metrics"])
def test_a_failure_has_no_result(path: Path, field: str) -> None:
    assert problem(path, lambda data: data.update({"status": "failed", "error": "why", field: None})) == (
        "status failed with metrics or predictions"
    )


def test_an_unreadable_record_is_one_problem(path: Path) -> None:
    path.write_text(path.read_text()[:-20])
    (found,) = problems_of(path)
    assert "not a complete JSON document" in found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data["metrics"].update(standard_error=0.1), "metrics.standard_error is 0.1000, the predictions give 3.0619"),
        (lambda data: data["metrics"].update(val_accuracy=90.0), "metrics.val_accuracy is 90.0000, the best of the history is nan"),
        (
            lambda data: data["metrics"].update(parts=joined(a=(70.0, 80.0, 200))),
            "metrics.parts.a.accuracy is 70.0000, the predictions give 75",
        ),
        (
            lambda data: data["metrics"].update(parts=joined(a=(75.0, 70.0, 200))),
            "metrics.parts.a.own_accuracy is 70.0000, the predictions give",
        ),
        (
            lambda data: data["metrics"].update(parts=joined(a=(75.0, 80.0, 100))),
            "metrics.parts are about 100 images, there are 200 predictions",
        ),
        (lambda data: data["metrics"].update(parts=joined(a=(75.0, 80.0, 200), b=(0.0, 0.0, 0))), "metrics.parts are about 200 images"),
        (lambda data: data.update(checkpoint="../../x.safetensors"), "checkpoint: expected the name of a file below the results folder"),
        (lambda data: data.update(checkpoint="/x.safetensors"), "checkpoint: expected the name of a file below the results folder"),
        (lambda data: data.update(token_usage="x" * 300), " is missing"),
        (lambda data: data["predictions"].update(file="x" * 300), " are missing"),
        (lambda data: data["config"].update(x=float("nan")), "NaN is no finite number"),
        (lambda data: data.update(token_usage="../x.usage.safetensors"), "token_usage: expected the name of a file, without a folder"),
        (lambda data: data.update(token_usage="x.usage.safetensors"), "token usage x.usage.safetensors is missing"),
        (lambda data: data.update(class_count=2), "the predictions name class 2, classes are 0 to 1"),
        (
            lambda data: data.update(curve=[{"images": 0, "contexts": 0, "accuracy": 80.0}]),
            "the curve ends at 80.0000, metrics.accuracy is 75.0000",
        ),
        (
            lambda data: data["method"].update(access="EVERYTHING"),
            "method.access: Input should be 'SCORES', 'CONTEXT', 'FEATURES', 'GRADIENTS' or",
        ),
        (lambda data: data["method"].update(access_seen=None), "method.access_seen is null, the run had WEIGHTS"),
        (lambda data: data["method"].update(access_seen="../x"), "method.access_seen: Input should be 'SCORES'"),
        (lambda data: data.update(status="budget"), "status budget, the configuration has no budget"),
        (lambda data: data["parameters"].update(allocation={"0.q": 1, "head": 2}), "parameters.trainable is 147,456, the allocation has 3"),
        (lambda data: data["parameters"].update(backbone=1), "parameters.backbone is 1, backbone.parameters is 22,000,000"),
        (lambda data: data.update(parameters=None), "status ok without parameters"),
        (lambda data: data["backbone"].update(sha256=""), "backbone.sha256 is empty"),
        (lambda data: data.update(error="it failed"), "status ok with an error"),
        (lambda data: data.update(created="2999-01-01T00:00:00+00:00"), "created is 2999-01-01T00:00:00+00:00, which is in the future"),
        (lambda data: data["cost"].update(total_seconds=1.0), "training and evaluation took 12.50 s, cost.total_seconds is 1.00"),
        (lambda data: data.update(history=epochs(0, 2, 1)), "the epochs of the history are not in order: 0, 2, 1"),
        (lambda data: data.update(history=epochs(0, 0)), "the epochs of the history are not in order: 0, 0"),
        (lambda data: data.update(history=epochs(0, 20)), "the history ends with epoch 20, train.epochs is 20 and the first is 0"),
    ],
)
def test_what_does_not_follow_from_the_rest_is_found(path: Path, change: Callable[[dict[str, Any]], Any], found: str) -> None:
    assert found in problem(path, change)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data["cost"]["queries"]["test"].update(images=199), "cost.queries.test.images is 199, metrics.samples is 200"),
        (lambda data: data["cost"]["queries"]["test"].update(images=0), "cost.queries.test.images is 0, metrics.samples is 200"),
        (lambda data: data["cost"]["queries"].pop("test"), "cost.images_forwarded is 1,200, cost.queries have 1,000 images"),
        (lambda data: data["method"].update(access_seen=None), "method.access_seen is null, the run had SCORES and sent 1,200 images"),
        (lambda data: data["method"].update(access_seen="WEIGHTS"), "method.access_seen is WEIGHTS, SCORES was granted"),
        (lambda data: data["method"].update(access="FEATURES"), "method.access is FEATURES, the plugin bar declares SCORES"),
        (
            lambda data: data.update(curve=points(9, 1000)[::-1]),
            "the curve goes back: images and contexts that were sent cannot become fewer",
        ),
        (lambda data: data.update(curve=points(9, 999)), "the curve ends after 999 images and 0 contexts, training sent 1,000 and 0"),
    ],
)
def test_the_counts_of_a_model_that_is_queried_must_agree(tmp_path: Path, change: Callable[[dict[str, Any]], Any], found: str) -> None:
    path = store_record(tmp_path, method="bar", curve=[(500, 0, 50.0), (1000, 0, 75.0)])
    assert problems_of(path) == []
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    assert found in problems_of(path)


def test_images_that_a_cache_answered_are_counted(tmp_path: Path) -> None:
    path = store_record(tmp_path, method="bar")
    data = json.loads(path.read_text())
    data["cost"]["queries"]["test"].update(images=150, cached=50)
    data["cost"]["images_forwarded"] = 1150
    path.write_text(json.dumps(data))
    assert problems_of(path) == []


def test_a_record_of_version_1_need_not_say_which_rung_was_used(path: Path) -> None:
    data = json.loads(path.read_text())
    data["method"]["access_seen"], data["schema_version"] = None, 1
    path.write_text(json.dumps(data))
    assert problems_of(path) == []


def test_the_rung_of_a_plugin_that_is_not_installed_is_not_known(tmp_path: Path) -> None:
    assert problems_of(store_record(tmp_path, method="somebodys", access="SCORES")) == []


@pytest.mark.parametrize(
    ("budget", "found"),
    [
        ({"images": 1000, "calls": None}, ["cost.queries.train.images is 1,001, the budget is 1,000"]),
        ({"images": 1001}, []),
        ({"imags": 1}, ["unknown or invalid limit budget.imags=1"]),
        ({"images": "many"}, ["unknown or invalid limit budget.images='many'"]),
    ],
)
def test_more_queries_than_the_budget_allows_are_found(path: Path, budget: dict[str, Any], found: list[str]) -> None:
    data = json.loads(path.read_text())
    data["config"]["budget"] = budget
    data["run_id"] = run_id(data["config"])
    data["cost"]["queries"] = {"train": {"images": 1001}, "test": {"images": 5000}}
    new = path.with_name(f"x-{data['run_id']}.json")
    new.write_text(json.dumps(data))
    assert problems_of(new) == found


def test_the_accuracy_of_each_joined_task_is_recomputed(path: Path) -> None:
    """Every third of four of 200 images is wrong; the first two are one task. The mean over both tasks stays what it was."""

    def change(data: dict[str, Any]) -> None:
        data["metrics"]["parts"] = joined(a=(50.0, 100.0, 2), b=(100 * 149 / 198, 80.0, 198))

    data = json.loads(path.read_text())
    data["metrics"]["parts"] = joined(a=(100.0, 100.0, 2), b=(100 * 148 / 198, 80.0, 198))
    path.write_text(json.dumps(data))
    assert problems_of(path) == []
    change(data)
    path.write_text(json.dumps(data))
    assert [found.partition(" is ")[0] for found in problems_of(path)] == ["metrics.parts.a.accuracy", "metrics.parts.b.accuracy"]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_classes_are_whole_numbers_as_they_are_stored(path: Path, kind: torch.dtype) -> None:
    assert "classes are " in problem(
        path, lambda data: data["predictions"].update(sha256=stored(path, PREDICTED.to(kind), LABELS.to(kind)))
    )


def test_no_class_is_below_zero(path: Path) -> None:
    odd = torch.where(PREDICTED == LABELS, PREDICTED, -1).int()
    found = problem(path, lambda data: data["predictions"].update(sha256=stored(path, odd, LABELS.int())))
    assert found == "the predictions name class -1, classes are 0 to 2"


def stored(path: Path, predicted: torch.Tensor, labels: torch.Tensor) -> str:
    """The hash of predictions that were put beside a record."""
    content = save({"predicted": predicted, "labels": labels})
    path.with_suffix(".predictions.safetensors").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_one_run_with_two_results_is_found(tmp_path: Path) -> None:
    first, second, other = (
        store_record(tmp_path / "a"),
        store_record(tmp_path / "b", predicted=LABELS),
        store_record(tmp_path / "b", seed=1),
    )
    found = problems_among(map(check_record, [first, second, other]))
    assert found.keys() == {first, second}
    assert found[first] == [f"run {first.stem[-16:]} has another result in {second}"]


def test_a_copy_of_a_record_is_no_problem(tmp_path: Path) -> None:
    assert problems_among(map(check_record, [store_record(tmp_path / "a"), store_record(tmp_path / "b")])) == {}


def test_test_labels_that_others_do_not_have_are_found(tmp_path: Path) -> None:
    usual = [store_record(tmp_path, seed=seed) for seed in range(2)]
    odd = store_record(tmp_path, labels=LABELS.roll(1), seed=2)
    assert problems_among(map(check_record, [*usual, odd])) == {
        odd: ["its test labels differ from those of 2 other records of mini/digits, data r1"]
    }


def test_test_labels_of_other_data_may_differ(tmp_path: Path) -> None:
    assert (
        problems_among(map(check_record, [store_record(tmp_path), store_record(tmp_path, labels=LABELS.roll(1), seed=1, revision="r2")]))
        == {}
    )


def test_a_record_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    usual = [store_record(tmp_path, seed=seed) for seed in range(2)]
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert (
        problems_among(map(check_record, [broken, *usual, store_record(tmp_path, labels=LABELS.roll(1), seed=2)]))
        .keys()
        .isdisjoint({broken, *usual})
    )


def test_every_method_needs_every_task_with_every_seed_that_the_suite_has_been_run_with() -> None:
    records = [make_record("lora", task, seed) for task in TASKS[:2] for seed in (0, 1)]
    records += [make_record("full", TASKS[0], 0), make_record("full", TASKS[0], 1), make_record("full", TASKS[1], 0, status="failed")]
    found = missing_cells(records, {"mini": TASKS[:2], "zoo": ("zoo/cats",)})
    where = f"mini on mini_clip, protocol {PROTOCOL}"
    assert found == [f"{where}: full lacks {TASKS[1]} seed 0", f"{where}: full lacks {TASKS[1]} seed 1"]


def answering(path: Path, activation: str, *answers: float) -> Path:
    """Let a record say how its backbone answered a fixed picture."""
    content = json.loads(path.read_text())
    content["backbone"] |= {"activation": activation, "mean": [0.5] * 3, "std": [0.5] * 3, "self_check": answers}
    path.write_text(json.dumps(content))
    return path


def test_equal_weights_that_answer_a_fixed_picture_otherwise_are_reported(tmp_path: Path) -> None:
    first = answering(store_record(tmp_path), "GELU", 20.0, -3.0, 1.0)
    rounded = answering(store_record(tmp_path, seed=1), "GELU", 20.01, -3.01, 1.01)  # another processor; 1 % of 1.0, less of the largest
    other = answering(store_record(tmp_path, seed=2), "QuickGELU", 20.3, -3.0, 1.0)
    elsewhere = answering(store_record(tmp_path, seed=3, weights="beef" * 16), "GELU", 2.0, 3.0, 1.0)
    without_texts = answering(store_record(tmp_path, seed=4), "GELU", *[0.1] * 8)
    found = problems_among(map(check_record, [first, rounded, other, elsewhere, without_texts]))
    assert found.keys() == {other}
    assert found[other][0].startswith(
        f"the weights c0ffee00c0ff… answer a fixed picture otherwise than in {first}: by 0.3 where the largest"
    )
    assert "QuickGELU, mean [0.5, 0.5, 0.5]" in found[other][0]


def test_every_file_is_read_once(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        store_record(tmp_path, seed=seed)
    read: list[str] = []

    def spy(path: Path, most: int | None = None) -> bytes:
        read.append(path.name)
        return path.read_bytes()

    monkeypatch.setattr("petlbench.records.schema.read_regular", spy)
    monkeypatch.setattr("petlbench.analysis.validate.read_regular", spy)
    code, out, _ = call("validate", str(tmp_path))
    assert code == 0 and out.startswith("3 records, 0 with problems")
    assert len(read) == len(set(read)) == 6
