"""Merge results of several machines into one folder, or refuse all of them."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from petlbench.analysis import merge as module
from petlbench.analysis.merge import Merged, merge
from petlbench.analysis.validate import problems_of
from petlbench.errors import RecordError
from petlbench.records.schema import CurvePoint, read_record
from petlbench.records.store import RecordStore
from tests.record_factory import LABELS, make_record, store_record


def refusal(folders: list[Path], out: Path) -> str:
    """Return the error of a refused merge; check that nothing was written."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(RecordError) as caught:
        merge(folders, out)
    assert sorted(out.parent.rglob("*")) == before
    return str(caught.value)


def test_records_arrive_with_predictions_curves_and_checkpoints(tmp_path: Path) -> None:
    path = store_record(tmp_path / "a")
    path.with_suffix(".usage.safetensors").write_bytes(b"used")
    named = {"checkpoint": "checkpoints/x.safetensors", "token_usage": path.with_suffix(".usage.safetensors").name}
    record = read_record(path).model_copy(update={**named, "curve": [CurvePoint(images=0, contexts=0, accuracy=75.0)]})
    RecordStore(tmp_path / "a").write(record)
    (tmp_path / "a" / "checkpoints").mkdir()
    (tmp_path / "a" / "checkpoints" / "x.safetensors").write_bytes(b"learned")
    store_record(tmp_path / "b", seed=1)
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out") == Merged(records=2, repeated=0)
    found = {read_record(path).seed: path for path in RecordStore(tmp_path / "out").paths()}
    assert read_record(found[0]) == record
    assert [problems_of(path) for path in found.values()] == [[], []]
    assert found[0].with_suffix(".usage.safetensors").read_bytes() == b"used"
    assert (tmp_path / "out" / "checkpoints" / "x.safetensors").read_bytes() == b"learned"


def test_a_run_that_is_in_both_folders_is_one(tmp_path: Path) -> None:
    store_record(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out") == Merged(records=1, repeated=1)


def test_runs_without_a_result_are_merged_too(tmp_path: Path) -> None:
    RecordStore(tmp_path / "a").write(
        read_record(store_record(tmp_path / "b", seed=1)).model_copy(update={"predictions": None, "status": "failed"})
    )
    (path,) = RecordStore(tmp_path / "a").paths()
    record = read_record(path).model_copy(update={"error": "no reason", "metrics": None})
    RecordStore(tmp_path / "a").write(record)
    store_record(tmp_path / "c")
    assert merge([tmp_path / "a", tmp_path / "c"], tmp_path / "out").records == 2


def test_one_run_with_different_content_is_a_conflict_that_names_both(tmp_path: Path) -> None:
    first, second = store_record(tmp_path / "a"), store_record(tmp_path / "b", predicted=LABELS)
    assert f"{second} and {first} are one run with different content" in refusal([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_run_that_has_a_result_in_one_folder_and_failed_in_another_is_merged_with_its_result(tmp_path: Path, order: str) -> None:
    result = read_record(store_record(tmp_path / "a"))
    failed = {"status": "failed", "error": "no reason", "metrics": None, "predictions": None}
    RecordStore(tmp_path / "b").write(result.model_copy(update=failed))
    assert merge([tmp_path / name for name in order], tmp_path / "out") == Merged(records=1, repeated=1)
    (path,) = RecordStore(tmp_path / "out").paths()
    assert read_record(path) == result and problems_of(path) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"protocol": "other"}, "would mix protocol: native-1a2b3c4d-"),
        ({"revision": "r2"}, "would mix data revision: r1 in "),
        ({"weights": "deadbeef" * 8}, "would mix backbone weights: c0ffee00c0ff in "),
    ],
)
def test_what_may_not_share_a_column_is_refused_by_name(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    store_record(tmp_path / "a")
    store_record(tmp_path / "b", seed=1, **change)
    reason = refusal([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert reason.startswith("nothing merged: mini/digits on mini_clip ") and what in reason
    assert f"in {tmp_path / 'a'}" in reason and f"in {tmp_path / 'b'}" in reason


def test_protocols_of_different_tasks_may_differ(tmp_path: Path) -> None:
    store_record(tmp_path / "a")
    store_record(tmp_path / "b", task="mini/shapes", protocol="other", revision="r2")
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").records == 2


def test_what_a_folder_held_together_already_stays_together(tmp_path: Path) -> None:
    store_record(tmp_path / "a")
    store_record(tmp_path / "a", protocol="other")
    store_record(tmp_path / "b", seed=1)
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").records == 3


def test_a_record_with_a_problem_is_refused(tmp_path: Path) -> None:
    path = store_record(tmp_path / "a")
    path.with_suffix(".predictions.safetensors").unlink()
    assert refusal([tmp_path / "a"], tmp_path / "out").startswith(f"{path}: predictions ")


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    assert f"no records below {tmp_path / 'a' / 'records'}" in refusal([tmp_path / "a"], tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store_record(tmp_path / "a")
    (tmp_path / "out").mkdir()
    assert "already exists; choose a new folder" in refusal([tmp_path / "a"], tmp_path / "out")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_record(tmp_path / "a")
    store_record(tmp_path / "a", seed=1)
    copied: list[object] = []
    copy = shutil.copyfile

    def fill(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(module.shutil, "copyfile", fill)
    assert "No space left on device; free space or choose another folder" in refusal([tmp_path / "a"], tmp_path / "out")
    assert len(copied) == 3


def test_test_labels_that_are_not_those_of_the_others_are_refused(tmp_path: Path) -> None:
    """Two machines with other data of the same revision."""
    store_record(tmp_path / "a")
    odd = store_record(tmp_path / "b", seed=1, labels=LABELS.roll(1))
    assert f"{odd}: its test labels differ from those of 1 other records of mini/digits" in refusal(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "out"
    )


@pytest.mark.parametrize("name", ["../victim", "{}/victim"])
def test_no_checkpoint_is_read_or_written_outside_the_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    path = store_record(tmp_path / "a")
    path.write_text(path.read_text().replace('"checkpoint": null', f'"checkpoint": "{name.format(tmp_path)}"'))
    assert "checkpoint: expected the name of a file below the results folder" in refusal([tmp_path / "a"], tmp_path / "deep" / "out")


def test_of_many_reasons_the_first_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    for seed in range(7):
        store_record(tmp_path / "a", seed=seed)
        store_record(tmp_path / "b", seed=seed, predicted=LABELS)
    reason = refusal([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert reason.count("are one run with different content") == 5 and reason.endswith("; and 2 more reasons")


def test_every_mixture_comes_with_advice(tmp_path: Path) -> None:
    store_record(tmp_path / "a")
    store_record(tmp_path / "b", seed=1, protocol="other")
    assert refusal([tmp_path / "a", tmp_path / "b"], tmp_path / "out").endswith("; merge what belongs together")


def test_only_what_has_a_result_can_mix_a_column(tmp_path: Path) -> None:
    store_record(tmp_path / "a")
    failed = make_record(seed=1, revision="r2", status="failed")
    path = store_record(tmp_path / "b", seed=1, revision="r2")
    record = read_record(path).model_copy(update={"status": failed.status, "error": failed.error, "metrics": None, "predictions": None})
    path.unlink()  # a result would stay
    RecordStore(tmp_path / "b").write(record)
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").records == 2


def test_one_configuration_on_two_weights_in_one_folder_is_not_called_one_run(tmp_path: Path) -> None:
    first, second = store_record(tmp_path / "a"), store_record(tmp_path / "b", weights="deadbeef" * 8)
    shutil.copytree(second.parent, tmp_path / "a" / "records" / "elsewhere")
    reason = refusal([tmp_path / "a"], tmp_path / "out")
    assert "are one configuration on other weights or data" in reason and first.name in reason and "elsewhere" in reason
