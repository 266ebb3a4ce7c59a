"""A record is run again from itself alone, and what differs is said."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import petlbench
from petlbench.config.identity import run_id
from petlbench.errors import ConfigError, RecordError
from petlbench.records.schema import read_record
from petlbench.records.store import RecordStore
from petlbench.runs.reproduce import _configured, _filled_in
from tests.conftest import Call
from tests.data.test_folder import paint

RUN: dict[str, Any] = {"method": "linear", "task": "mini/digits", "threads": 1, "train.epochs": 1, "train.warmup_epochs": 0}
FIXTURES = Path(__file__).parents[1] / "records" / "fixtures"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    petlbench.run(RUN, out=folder, save=True, progress=False)
    return folder


@pytest.fixture
def record(results: Path, tmp_path: Path) -> Path:
    """A record with its files, which a test may change."""
    shutil.copytree(results, tmp_path / "theirs")
    (path,) = RecordStore(tmp_path / "theirs").paths()
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], Any], with_id: bool = False) -> Path:
    """Rewrite a record; ``with_id``: as if it had been made so, from its settings on."""
    data = json.loads(path.read_text())
    change(data)
    if with_id:
        data["run_id"] = run_id(data["config"])
    path.write_text(json.dumps(data))
    return path


def told(call: Call, path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code, out, err = call("reproduce", str(path), "--json", "out=again", *words)
    assert err == ""
    return code, json.loads(out)


def refusal(call: Call, path: Path, *words: str) -> str:
    code, out, err = call("reproduce", str(path), *words)
    assert (code, out) == (2, "") and err.count("\n") == 1
    return err


def test_the_same_run_is_the_same(record: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with other YAML than that of the record's time."""
    before = {path: path.read_bytes() for path in record.parents[3].rglob("*") if path.is_file()}
    yaml = {"train": {"learning_rate": 7.0, "momentum": 0.1}, "suites": {"mini": {"train": {"epochs": 1}}}}
    monkeypatch.setattr("petlbench.config.resolve.load_yaml", lambda folder, name: json.loads(json.dumps(yaml)))
    code, found = told(call, record)
    assert code == 0 and found["same"] and found["predictions"] == {"compared": 500, "differing": 0}
    assert found["learned"] == {"tensors": 2, "differing": 0, "largest difference": 0.0}
    assert (
        found["differences"]["result"] == {} and found["note"] == "" and {"accuracy", "images in train", "threads"} <= set(found["equal"])
    )
    assert found["differences"]["cost"].keys() >= {"total seconds"}
    assert {path: path.read_bytes() for path in before} == before
    assert Path(found["record"]).is_relative_to("again") and read_record(Path(found["record"])).run_id == read_record(record).run_id


def test_another_run_is_another(record: Path, call: Call) -> None:
    """As if the record's predictions had been made with a rate that was not written down."""

    def edited(data: dict[str, Any]) -> None:
        data["config"]["train"]["learning_rate"] = 1e-5
        data["code"]["commit"], data["hyperparameters"] = "a" * 40, "tuned (20 trials)"
        data["cost"]["images_forwarded"] += 1

    changed(record, edited, with_id=True)
    code, found = told(call, record)
    assert code == 1 and not found["same"]
    assert (
        0 < found["predictions"]["differing"] <= 500 and found["learned"]["differing"] == 2 and found["learned"]["largest difference"] > 0
    )
    assert {"accuracy", "training loss", "images forwarded"} <= found["differences"]["result"].keys()
    assert found["differences"]["surroundings"]["commit"][0] == "a" * 40
    assert read_record(Path(found["record"])).hyperparameters == "tuned (20 trials)"


def test_what_is_printed(record: Path, call: Call) -> None:
    changed(record, lambda data: data["config"].update(seed=1), with_id=True)
    code, out, _ = call("reproduce", str(record), "out=again")
    assert code == 1 and re.search(r"^linear on mini/digits, seed 0: another result: \d+ of 500 predictions differ$", out, re.MULTILINE)
    assert re.search(r"^training loss +[\d.]+ +[\d.]+ *$", out, re.MULTILINE) and re.search(
        r"^what was learned +2 tensors +2 differ", out, re.MULTILINE
    )
    assert re.search(r"^equal: status, .*images forwarded", out, re.MULTILINE) and "\nrecord: again/records/" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["config"]["train"].update(learning_rate=1e-5), "its settings were changed after the run: their hash is "),
        (lambda data: data.update(task_revision="0" * 16), "task mini/digits changed since (000000000000 → "),
        (lambda data: data["backbone"].update(sha256="0" * 64), "the weights of mini_clip changed since (000000000000 → "),
        (
            lambda data: data.update(status="cancelled", metrics=None, error="interrupted"),
            "the run was cancelled, so it has no result to reproduce",
        ),
        (lambda data: data.update(schema_version=99), "schema version 99"),
    ],
)
def test_what_is_no_longer_that_run_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], Any], said: str, record: Path, call: Call
) -> None:
    assert said in refusal(call, changed(record, change))


def test_what_only_the_record_says_cannot_be_set(record: Path, call: Call) -> None:
    assert "reproduce takes cache_mb, data_root, device, out, store_mb, threads, url" in refusal(call, record, "seed=1")
    assert "holds" in refusal(call, record, "out=theirs") and "holds" in refusal(call, record, "out=.")
    assert "method.rank" in refusal(call, record, "method.rank=1")
    assert "task was 'mini/digits' and is 'mini/textures', so this would be another run" in refusal(call, record, "task=mini/textures")
    assert "no such file" in refusal(call, record.with_name("none.json")).lower()


def test_a_served_model_needs_its_address(record: Path, call: Call) -> None:
    changed(record, lambda data: data["config"]["backbone"].update(name="remote:mini_clip@172d9c1c"), with_id=True)
    assert "made on the served model remote:mini_clip@172d9c1c; add its address, url=http://HOST:PORT" in refusal(call, record)


def test_without_the_files_accuracy_is_compared(record: Path, call: Call) -> None:
    for file in record.parents[3].rglob("*.safetensors"):
        file.unlink()
    found = petlbench.reproduce(record, out="again", progress=False)
    assert found.is_same and found.samples is None and found.learned is None
    assert "predictions were not compared: predictions " in found.note and "what was learned was not compared: checkpoints/" in found.note
    assert found.original.metrics is not None
    other = found.original.model_copy(update={"metrics": found.original.metrics.model_copy(update={"accuracy": 12.0})})
    assert not dataclasses.replace(found, original=other).is_same


def test_a_run_that_diverged_has_to_diverge_again(call: Call, tmp_path: Path) -> None:
    result = petlbench.run({**RUN, "train.learning_rate": 1e30, "train.optimizer": "sgd"}, out="r", progress=False)
    assert result.status == "diverged"
    code, out, _ = call("reproduce", str(result.path), "out=again")
    assert code == 0 and "the same result: it is diverged again" in out
    found = petlbench.reproduce(result.path, progress=False, out="again")
    failed = found.original.model_copy(update={"status": "failed"})
    assert found.is_same and not dataclasses.replace(found, original=failed).is_same
    changed(result.path, lambda data: data["config"]["train"].update(learning_rate=1e-3), with_id=True)
    code, out, _ = call("reproduce", str(result.path), "out=again")
    assert code == 1 and "another result: it was diverged and is ok" in out


def test_own_images_are_found_by_what_is_in_them(call: Call, cache: Path, tmp_path: Path) -> None:
    for split, first in (("train", 1), ("test", 50)):
        for index, name in enumerate(("cat", "dog")):
            for number in range(5):
                paint(tmp_path / "birds" / split / name / f"{number}.png", first + 5 * index + number)
    result = petlbench.run({**RUN, "task": f"folder:{tmp_path / 'birds'}"}, out="r", progress=False)
    assert petlbench.reproduce(result.path, progress=False).is_same
    (tmp_path / "birds").rename(tmp_path / "moved")
    assert "say where they lie: task=folder:PATH" in refusal(call, result.path)
    found = petlbench.reproduce(result.path, task=f"folder:{tmp_path / 'moved'}", out=tmp_path / "again", progress=False)
    assert found.is_same and found.path.is_relative_to(tmp_path / "again")
    with pytest.raises(ConfigError, match="holds"):
        petlbench.reproduce(result.path, out="r")


@pytest.mark.parametrize("version", range(1, 5))
def test_an_older_record_keeps_its_settings(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not have is at the default of the code and not what YAML says today."""
    (path,) = RecordStore(FIXTURES / f"version_{version}").paths()
    record = read_record(path)
    monkeypatch.setattr("petlbench.config.resolve.load_yaml", lambda folder, name: {"train": {"drop_last": True, "schedule_step": "step"}})
    config = _configured(path, record, {})
    for section in ("train", "protocol", "budget"):
        now = config.identity[section]
        assert {key: value for key, value in record.config[section].items() if now[key] != value} == {}
    assert (config.run_id == record.run_id) == (version > 1)
    assert version > 1 or (config.train.drop_last is False and "drop_last" not in record.config["train"])


def test_a_configuration_that_is_none_is_one_line(tmp_path: Path) -> None:
    for stored in ({}, {"method": 3}, {"method": {"name": "none_such"}}, {"train": 3, "method": {"name": "linear"}, "task": "mini/digits"}):
        (path,) = RecordStore(FIXTURES / "version_4").paths()
        data = json.loads(path.read_text()) | {"config": stored, "run_id": run_id(stored)}
        (tmp_path / "one.json").write_text(json.dumps(data))
        with pytest.raises((ConfigError, RecordError)) as caught:
            petlbench.reproduce(tmp_path / "one.json")
        assert "\n" not in str(caught.value)
    assert _filled_in({}) is not None
