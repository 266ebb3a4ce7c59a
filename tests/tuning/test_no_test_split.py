"""A run that is scored on val neither opens nor decodes nor queries the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench.analysis.aggregate import leaderboard, runs_frame
from petlbench.analysis.validate import problems_of
from petlbench.data.source import ImageSource
from petlbench.data.store import TaskStore
from petlbench.data.task import TaskSpec
from petlbench.errors import ConfigError
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.registry import TASKS
from petlbench.report.leaderboard import write_leaderboard
from petlbench.runs.execute import execute
from tests.remote.processes import ServerProcess
from tests.words import resolve

FEW = ("protocol.shots=2", "train.epochs=2", "train.warmup_epochs=0", "threads=1")
TRIAL = "protocol.score_on=val"
Run = Callable[..., tuple[Record, Path]]


class Touched(Exception):
    """The test split was touched."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs on mini/digits whose test split may not be touched: neither its images, nor what is stored of them, nor its labels."""
    spec = TASKS.get("mini/digits")
    assert isinstance(spec, TaskSpec)

    def guarded(split: str) -> ImageSource:
        if split == "test":
            raise Touched("source")
        return spec.source(split)

    monkeypatch.setitem(TASKS._targets, "mini/digits", dataclasses.replace(spec, source=guarded))
    for name in ("open", "labels"):
        allowed = getattr(TaskStore, name)

        def refusing(self: TaskStore, split: str, *rest: object, allowed: Callable[..., object] = allowed, name: str = name) -> object:
            if split == "test":
                raise Touched(name)
            return allowed(self, split, *rest)

        monkeypatch.setattr(TaskStore, name, refusing)
    return lambda method, *words: execute(resolve([f"method={method}", "task=mini/digits", f"out={tmp_path}", *FEW, *words]), reraise=True)


@pytest.mark.parametrize(
    "words",
    [
        ("lora",),
        ("lora", "protocol.selection=best_val"),
        ("linear", "protocol.shots=null", "store_mb=0"),
        ("zero_shot", "budget.test.images=0"),
        ("bar", "budget.images=60", "budget.test.images=0", "curve=true"),
        ("craft", "budget.contexts=20", "budget.test.images=0"),
    ],
    ids=" ".join,
)
def test_a_trial_leaves_the_test_split_closed(run: Run, words: tuple[str, ...]) -> None:
    record, path = run(*words, TRIAL)
    assert record.has_result and record.metrics is not None
    assert record.scored_on == "val" and record.metrics.samples == (100 if "protocol.shots=null" in words else 20)
    assert record.split_hashes.keys() == {"train", "val"} and record.curve == []
    assert not any(record.cost.queries["test"].model_dump().values())
    if record.method.access != "WEIGHTS":
        assert record.cost.queries["val"].images + record.cost.queries["val"].cached >= record.metrics.samples
    assert problems_of(path) == []


def test_the_same_run_touches_it_when_it_is_scored_on_test(run: Run) -> None:
    with pytest.raises(Touched):
        run("lora")


@pytest.mark.slow  # starts a server: 15 s
def test_a_trial_with_a_served_model_sends_no_test_image(run: Run, tmp_path: Path) -> None:
    (folder := tmp_path / "server").mkdir()
    server = ServerProcess(folder)
    try:
        record, _ = run("zero_shot", TRIAL, "backbone=remote", f"url={server.url}", "budget.test.images=0")
    finally:
        server.end()
    assert record.backbone.transport == "http" and record.cost.queries["test"].images == 0 and record.cost.queries["val"].images == 20


def test_a_trial_counts_in_no_table_even_in_a_folder_of_results(run: Run, tmp_path: Path) -> None:
    record, _ = run("zero_shot", TRIAL)
    assert runs_frame([record]).empty and leaderboard([record], {"mini": ("mini/digits",)}).empty
    write_leaderboard(tmp_path, {"mini": ("mini/digits",)})
    text = (tmp_path / "leaderboard.md").read_text()
    assert "No finished run yet" in text and "1 run scored on val: no result of the test split" in text
    assert len(RecordStore(tmp_path).read()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("protocol.train_on=trainval", "score_on=val needs a validation split that is not trained on"),
        ("protocol.selection=oracle_test", "selection=oracle_test looks at test images, which score_on=val leaves closed"),
    ],
)
def test_rules_that_need_the_test_split_or_train_on_val_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(["method=lora", "task=mini/digits", TRIAL, words])
