"""Studies whose runs cost nothing: an executor that makes records up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from petlbench.access.meter import Meter
from petlbench.config.resolve import RunConfig, load_method, nested
from petlbench.config.tuning import split_tuning
from petlbench.executors.executor import Outcome, Unwatched, Watch
from petlbench.learners.cost import Stopwatch
from petlbench.optim.device import pick_device
from petlbench.records import schema
from petlbench.runs import plan as grid
from petlbench.runs.log import RunLog
from petlbench.runs.plan import PlannedRun
from petlbench.tuning.study import Study
from petlbench.tuning.trials import Cell, Told, about_of, carry_out, cells_of, trial_settings

Score = Callable[[RunConfig], float | str]  # percent, or why the run diverged


def by_rate(config: RunConfig) -> float:
    """The best rate is 0.02."""
    return 90.0 - 1000.0 * abs(config.train.learning_rate - 0.02)


class FakeExecutor:
    """Makes up the record of a run from its score; remembers the runs. ``dies_at``: interrupted instead of the run of that number."""

    def __init__(self, score: Score = by_rate, dies_at: int | None = None, images: int = 100) -> None:
        self.score, self.dies_at, self.images = score, dies_at, images
        self.runs: list[RunConfig] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        for run in runs:
            if len(self.runs) == self.dies_at:
                raise KeyboardInterrupt
            self.runs.append(run.config)
            yield Outcome(run, *record(run.config, self.score(run.config), self.images))


def record(config: RunConfig, score: float | str, images: int = 100) -> tuple[schema.Record, Path]:
    """Write a record without files, which counts as not whole, so it is never taken for done."""
    plugin, device = load_method(config.method)[0], pick_device("cpu")
    log = RunLog(config, plugin, device, Meter(config.budget), Stopwatch(device), "fp32")
    log.meter.counts["train"]["images"] = images
    log.fields["parameters"] = schema.Parameters(trainable=1000, head=10, stored_bytes=4040, backbone=1)
    if isinstance(score, str):
        return log.write("diverged", score)
    log.fields["metrics"] = schema.Metrics(accuracy=score, samples=100, standard_error=1.0)
    return log.write("ok")


def cell(out: Path, *, seeds: Sequence[int] = (0,), method: str = "lora", **settings: Any) -> tuple[Cell, Any]:
    """One method on mini/digits with settings of runs and of tuning."""
    tuning, of_runs = split_tuning(nested({"out": str(out), "threads": 1, **settings}))
    own = trial_settings(of_runs)
    (found,), _ = cells_of(grid.plan(method, "mini/digits", seeds, own), own, tuning)
    return found, tuning


def study_of(out: Path, **settings: Any) -> tuple[Study, Cell]:
    found, tuning = cell(out, **settings)
    return Study(out, about_of(found, tuning), found.space), found


def tune(out: Path, executor: FakeExecutor, at_once: int = 1, **settings: Any) -> list[Told]:
    """Carry out a study; returns what its trials told."""
    study, found = study_of(out, **settings)
    with ExitStack() as stack:
        stack.enter_context(study)
        return list(carry_out([(study, found)], executor, Unwatched(), at_once))
