"""A study: equal trials, no trial lost or repeated, the same again under the same seed, and what a broken journal says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench.errors import ConfigError, TuningError
from petlbench.tuning.study import Study
from petlbench.tuning.trial import Outcome, Trial, winner_of
from petlbench.tuning.tuned import StoredStudy, read_study
from tests.tuning.fakes import FakeExecutor, by_rate, study_of, tune


def points(out: Path) -> list[dict]:
    return [trial.point for trial in stored(out).trials]


def stored(out: Path) -> StoredStudy:
    (path,) = out.glob("studies/*/study.json")
    return read_study(path.parent)


def journal(out: Path) -> Path:
    (path,) = out.glob("studies/*/journal.log")
    return path


def ended(number: int, score: float, rate: float = 0.1, trainable: int = 100) -> Trial:
    outcome = Outcome(runs=["0" * 16], accuracies=[score], learning_rate=rate, trainable=trainable)
    return Trial(number, "done", {}, outcome)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([ended(0, 80.0), ended(1, 81.0, rate=1.0)], 1),
        ([ended(0, 80.0, rate=0.2), ended(1, 80.0, rate=0.1, trainable=999)], 1),
        ([ended(0, 80.0, trainable=200), ended(1, 80.0, trainable=100)], 1),
        ([ended(1, 80.0), ended(0, 80.0)], 0),
    ],
    ids=["score", "smaller rate", "fewer parameters", "earlier"],
)
def test_the_winner_and_ties(trials: list[Trial], expected: int) -> None:
    found = winner_of(trials)
    assert found is not None and found.number == expected


def test_the_first_trial_has_the_default_settings_so_the_winner_is_no_worse_on_val(tmp_path: Path) -> None:
    told = tune(tmp_path, FakeExecutor(lambda config: 90.0 if config.train.learning_rate == 6e-3 else 10.0), trials=4)
    assert told[0].point == {"train.learning_rate": 6e-3, "train.weight_decay": 1e-4, "method.rank": 8}
    study = stored(tmp_path)
    assert study.winner == study.default and len(study.trials) == 4


def test_a_trial_is_a_run_on_train_scored_on_val_whose_record_lies_apart(tmp_path: Path) -> None:
    executor = FakeExecutor()
    tune(tmp_path, executor, trials=3)
    assert {(run.protocol.score_on, run.protocol.train_on, run.execution.out) for run in executor.runs} == {
        ("val", "train", str(tmp_path / "studies"))
    }
    assert not (tmp_path / "records").exists() and len(list((tmp_path / "studies/records").rglob("*.json"))) == 3


def test_a_score_is_the_mean_over_seeds(tmp_path: Path) -> None:
    told = tune(tmp_path, FakeExecutor(lambda config: 70.0 + 10.0 * config.seed), trials=2, seeds=(0, 1, 2))
    assert [(one.outcome.score, len(one.outcome.runs)) for one in told] == [(80.0, 3), (80.0, 3)]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_one_seed_gives_one_study(tmp_path: Path, sampler: str) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune(tmp_path / name, FakeExecutor(), trials=13, sampler=sampler, sampler_seed=seed)
    assert points(tmp_path / "a") == points(tmp_path / "b") != points(tmp_path / "c")


@pytest.mark.parametrize("dies_at", [0, 1, 11, 12])
def test_a_study_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path, dies_at: int) -> None:
    tune(tmp_path / "whole", FakeExecutor(), trials=13)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "killed", FakeExecutor(dies_at=dies_at), trials=13)
    assert len(tune(tmp_path / "killed", FakeExecutor(), trials=13)) == 13 - dies_at
    assert points(tmp_path / "killed") == points(tmp_path / "whole")
    assert stored(tmp_path / "killed").is_finished


def test_a_last_line_that_was_not_written_to_its_end_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, FakeExecutor(dies_at=2), trials=3)
    with journal(tmp_path).open("ab") as file:
        file.write(b'{"op_code": 4, "worker_')
    tune(tmp_path, FakeExecutor(), trials=3)
    assert len(stored(tmp_path).trials) == 3


def test_a_process_that_is_at_work_keeps_its_trial_and_the_count_is_exact(tmp_path: Path) -> None:
    (first, _), (second, _) = study_of(tmp_path, trials=3), study_of(tmp_path, trials=3)
    with first, second:
        asked = [first.ask(), second.ask(), first.ask(), second.ask(), first.ask()]
        assert [None if one is None else one[0] for one in asked] == [0, 1, 2, None, None]
        assert second.ending() is None  # trials are at work
    with study_of(tmp_path, trials=3)[0] as third:  # both are gone: their trials begin again, with the same settings
        again = [third.ask(), third.ask(), third.ask(), third.ask()]
    assert sorted(str(one[1]) for one in again[:3] if one) == sorted(str(one[1]) for one in asked[:3] if one) and again[3] is None


def test_what_a_process_says_of_a_trial_that_another_took_over_is_dropped(tmp_path: Path) -> None:
    slow, _ = study_of(tmp_path, trials=1)
    outcome = Outcome(runs=["0" * 16], accuracies=[50.0], learning_rate=0.1)
    with slow:
        slow.ask()
        slow._presence.release()  # as on a file system whose locks other machines do not see
        with study_of(tmp_path, trials=1)[0] as quick:
            taken = quick.ask()
            assert taken is not None
            slow.tell(0, outcome)
            quick.tell(taken[0], outcome.model_copy(update={"accuracies": [60.0]}))
    assert [trial.outcome.score for trial in stored(tmp_path).trials if trial.outcome] == [60.0]


_OTHER = """
import sys
from pathlib import Path
from tests.tuning.fakes import FakeExecutor, tune
tune(Path(sys.argv[1]), FakeExecutor(), trials=12)
"""


def test_two_processes_share_a_journal(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", _OTHER, str(tmp_path)], cwd=Path(__file__).parents[2])
    tune(tmp_path, FakeExecutor(), trials=12)
    assert other.wait(120) == 0
    study = stored(tmp_path)
    assert len(study.trials) == 12 and study.is_finished
    assert sum(trial.point == study.about.default for trial in study.trials) == 1


def test_a_trial_that_diverges_counts_with_the_worst_score(tmp_path: Path) -> None:
    told = tune(
        tmp_path, FakeExecutor(lambda config: by_rate(config) if config.train.learning_rate < 0.05 else "the loss is nan"), trials=12
    )
    bad = [one.outcome for one in told if one.outcome.error]
    assert bad and all(outcome.score == 0.0 and outcome.error == "diverged: the loss is nan" for outcome in bad)
    study = stored(tmp_path)
    assert len(study.trials) == 12 and study.winner is not None and study.winner.point["train.learning_rate"] < 0.05


def test_settings_that_contradict_each_other_are_a_failed_trial(tmp_path: Path) -> None:
    space = {
        "train.learning_rate": [2e-3, 6e-3],
        "train.warmup_learning_rate": [0.0, 4e-3],
        "train.weight_decay": None,
        "method.rank": None,
    }
    executor = FakeExecutor()
    told = tune(tmp_path, executor, trials=4, sampler="grid", search=space)
    (refused,) = [one for one in told if one.outcome.error]
    assert refused.point == {"train.learning_rate": 2e-3, "train.warmup_learning_rate": 4e-3}
    assert "warmup_learning_rate must lie between 0 and the highest rate" in str(refused.outcome.error) and len(executor.runs) == 3


def test_a_grid_ends_with_its_points(tmp_path: Path) -> None:
    space = {"search": {"train.learning_rate": [1e-3, 6e-3], "train.weight_decay": None, "method.rank": [1, 8]}}
    told = tune(tmp_path, FakeExecutor(), trials=20, sampler="grid", **space)
    assert len(told) == 4 and len({str(one.point) for one in told}) == 4


def test_the_budget_of_a_study_is_not_passed(tmp_path: Path) -> None:
    told = tune(tmp_path, FakeExecutor(lambda config: 50.0, images=400), method="bar", trials=9, **{"budget.trials.images": 1999})
    assert len(told) == 4  # of 400 images each: a fifth would pass 1,999
    assert sum(count.images for one in told for count in one.outcome.queries.values()) == 1600


def test_the_default_settings_have_to_succeed(tmp_path: Path) -> None:
    class Failing(FakeExecutor):
        def carry_out(self, runs, watch, reraise=False):  # type: ignore[no-untyped-def]
            for outcome in super().carry_out(runs, watch):
                yield outcome._replace(record=outcome.record.model_copy(update={"status": "failed", "metrics": None, "error": "no disk"}))

    with pytest.raises(TuningError, match=r"lora on mini/digits: a trial that has to succeed failed \(failed: no disk\)"):
        tune(tmp_path, Failing(), trials=2)
    assert len(tune(tmp_path, FakeExecutor(), trials=2)) == 2  # the same command repeats it


def spoilt(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda path: path.write_text("\n".join(change(path.read_text().splitlines())) + "\n") and None  # type: ignore[return-value]


def with_value(lines: list[str]) -> list[str]:
    """A value that is not in the space."""
    return [line.replace('"param_value_internal":8', '"param_value_internal":3').replace('"high":0.1', '"high":1e9') for line in lines] + [
        json.dumps(
            {"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": "2026-01-01T00:00:00.000000", "state": 1, "values": [99.9]}
        )
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        spoilt(lambda lines: [*lines[:3], "what", *lines[3:]]),
        spoilt(lambda lines: [*lines, '{"op_code": 99}']),
        spoilt(lambda lines: [line.replace('"accuracies"', '"accuracy"') for line in lines]),
        spoilt(lambda lines: [line.replace('"accuracies":[', '"accuracies":[1e9,') for line in lines]),
        spoilt(with_value),
        spoilt(lambda lines: ["[1, 2]"]),
        lambda path: path.write_bytes(b"\xff\xfe" * 50 + b"\n") and None,
    ],
    ids=["no JSON", "unknown entry", "other field", "beyond percent", "a trial that ended without an outcome", "no entry", "no text"],
)
def test_a_broken_journal_is_one_line_that_names_it(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    tune(tmp_path, FakeExecutor(), trials=2)
    spoil(journal(tmp_path))
    with pytest.raises(TuningError) as caught:
        stored(tmp_path)
    assert "\n" not in str(caught.value) and str(journal(tmp_path)) in str(caught.value) and "petlbench tune again" in str(caught.value)


def test_other_code_is_refused(tmp_path: Path) -> None:
    study, found = study_of(tmp_path, trials=1)
    with study:
        pass
    changed = Study(tmp_path, study.about.model_copy(update={"code": "petlbench 9, lora 1a2b3c4d"}), found.space)
    with pytest.raises(TuningError, match="was begun by other code"), changed:
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials must be an int from 1 to"),
        ({"sampler": "best"}, "sampler must be one of tpe, random, grid, got 'best'"),
        ({"budget.trials.images": -1}, "budget.trials.images must be an int >= 0"),
        ({"search": "all"}, "search is a section"),
        ({"protocol.selection": "best_val"}, "leaves no images for protocol.selection=best_val"),
        ({"search.method.ranks": [1]}, "unknown key 'search.method.ranks'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_of(tmp_path, **settings)
    assert not (tmp_path / "studies").exists()
