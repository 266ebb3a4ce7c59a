"""A pruner ends trials early that are worse than others after as many epochs, and says what that saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from petlbench.config.executor import ExecutorChoice
from petlbench.config.pruning import Pruning
from petlbench.errors import ConfigError
from petlbench.executors.executor import Unwatched, open_executor
from petlbench.records.store import RecordStore
from petlbench.tuning.trials import carry_out
from tests.tuning.fakes import study_of


def test_looks_follow_after_one_ninth_and_one_third_of_the_epochs() -> None:
    pruning = Pruning("journal.log", "study", 0, least=1, factor=3)
    assert [epochs for epochs in range(1, 10) if pruning.is_due(epochs)] == [1, 3, 9]


def test_a_worse_trial_is_ended_and_its_epochs_are_saved(tmp_path: Path) -> None:
    settings = {"protocol.shots": 2, "train.epochs": 9, "train.warmup_epochs": 0, "train.learning_rate": 1e-2}
    space = {"train.weight_decay": [0.0, 1e-4, 1e4]}  # the last forgets whatever is learned
    choice = {"pruner": "halving", "sampler": "grid", "trials": 4}
    study, cell = study_of(tmp_path, method="linear", search=space, **settings, **choice)
    with study, open_executor(ExecutorChoice(jobs=1)) as executor:
        told = list(carry_out([(study, cell)], executor, Unwatched()))
        states = {trial.point["train.weight_decay"]: trial.state for trial in study.trials()}
    assert states[1e4] == "pruned" and "done" in states.values()
    pruned = [one.outcome for one in told if one.outcome.is_pruned]
    for outcome in pruned:
        assert (
            outcome.epochs < outcome.epochs_planned == 9 and outcome.error is not None and outcome.error.startswith("pruned: ended after")
        )
        assert outcome.queries["val"].images > 0  # a look is paid for
    statuses = [record.status for record in RecordStore(tmp_path / "studies").read()]
    assert statuses.count("pruned") == len(pruned) >= 1


def test_a_pruner_takes_one_seed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pruner=halving needs trials of one seed, got seeds=0,1"):
        study_of(tmp_path, pruner="halving", seeds=(0, 1))
