"""Which run goes to which worker: made-up costs, workers that are faster than any clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest

from petlbench.config.resolve import RunConfig
from petlbench.executors.schedule import MOST_LOST, Schedule, setting_of
from petlbench.runs.plan import PlannedRun
from tests.words import resolve

BOUND = 4 / 3 * (1 + 1e-9)  # of the earliest possible end, which the module's docstring proves; and of rounding


@cache
def of_task(task: str) -> RunConfig:
    return resolve(["method=linear", f"task={task}"])


def planned(seed: int, task: str = "mini/digits", backbone: str = "mini_clip") -> PlannedRun:
    config = of_task(task)
    return PlannedRun(replace(config, seed=seed, backbone=replace(config.backbone, name=backbone)), "missing")


def with_costs(costs: Sequence[float], tasks: Sequence[str] = ("mini/digits",)) -> tuple[list[PlannedRun], Callable[[RunConfig], float]]:
    """Runs of these costs, whose tasks take turns; the seed is the position."""
    return [planned(seed, tasks[seed % len(tasks)]) for seed in range(len(costs))], lambda config: costs[config.seed]


def carried_out(runs: Sequence[PlannedRun], cost: Callable[[RunConfig], float], workers: int) -> tuple[float, dict[str, list[PlannedRun]]]:
    """Let workers take runs until none waits. Returns when the last one ends, and the runs of each worker in their order."""
    schedule = Schedule(runs, cost, workers)
    took: dict[str, list[PlannedRun]] = {f"worker {number}": [] for number in range(workers)}
    free = [(0.0, name) for name in took]
    end = 0.0
    while len(schedule):
        now, name = heapq.heappop(free)
        if took[name]:
            schedule.done(name)
        run = schedule.take(name)
        assert run is not None
        took[name].append(run)
        end = max(end, now + cost(run.config))
        heapq.heappush(free, (now + cost(run.config), name))
    return end, took


def earliest(costs: Sequence[float], workers: int) -> float:
    """The earliest end of any division of the runs."""
    loads = (
        [sum(cost for cost, worker in zip(costs, division, strict=True) if worker == number) for number in range(workers)]
        for division in itertools.product(range(workers), repeat=len(costs))
    )
    return min(map(max, loads))


def test_one_long_run_begins_first() -> None:
    """Begun last, it would double the time."""
    runs, cost = with_costs([1, 1, 1, 1, 1, 1, 6])
    end, took = carried_out(runs, cost, 2)
    assert took["worker 0"][0].config.seed == 6 and end == 6


def test_the_last_runs_are_not_much_longer_than_the_best_division() -> None:
    draw = random.Random(0)
    for _ in range(150):
        costs = [draw.choice((1, 2, 3, 5, 8, 13)) * draw.uniform(0.9, 1.1) for _ in range(draw.randint(2, 8))]
        runs, cost = with_costs(costs, ("mini/digits", "mini/location", "mini/count"))
        workers = draw.choice((2, 3))
        assert carried_out(runs, cost, workers)[0] <= BOUND * earliest(costs, workers)


def test_a_long_run_of_a_task_that_nobody_has_open_does_not_wait_for_the_end() -> None:
    """Ten workers with a task each and short runs of it left; taken last, the long run of the eleventh task would end at 17."""
    tasks = [f"mini/{number}" for number in range(11)]
    costs = [6.1] * 10 + [6.0] + [1.0] * 50
    runs = [planned(seed) for seed in range(len(costs))]
    for seed, run in enumerate(runs):
        runs[seed] = replace(run, config=replace(run.config, task=tasks[seed if seed < 11 else seed % 10]))
    end, _ = carried_out(runs, lambda config: costs[config.seed], 10)
    assert end <= 12.2


def test_a_worker_keeps_its_backbone_and_task_while_enough_waits() -> None:
    tasks = ("mini/digits", "mini/location", "mini/count", "mini/textures")
    runs, cost = with_costs([1 + seed % 7 for seed in range(200)], tasks)
    end, took = carried_out(runs, cost, 4)
    changes = sum(first.config.task != second.config.task for own in took.values() for first, second in itertools.pairwise(own))
    assert changes <= 8  # as many as 150 if nobody looked at tasks
    assert end <= BOUND * sum(map(cost, (run.config for run in runs))) / 4


def test_a_worker_without_runs_of_its_own_helps_another() -> None:
    runs, cost = with_costs([1.0] * 12)
    end, _ = carried_out(runs, cost, 3)
    assert end == 4


def test_the_backbone_counts_more_than_the_task() -> None:
    """A new task is some memory maps; a new backbone is gigabytes."""
    costs = [1.0] * 40
    runs = [planned(seed, ("mini/digits", "mini/count")[seed % 2], ("mini_clip", "timm:vit")[seed // 2 % 2]) for seed in range(40)]
    _, took = carried_out(runs, lambda config: costs[config.seed], 1)
    (own,) = took.values()
    assert sum(first.config.backbone.name != second.config.backbone.name for first, second in itertools.pairwise(own)) == 1


def test_equal_input_gives_an_equal_order() -> None:
    runs, cost = with_costs([3, 1, 2] * 10, ("mini/digits", "mini/count"))
    first, again = carried_out(runs, cost, 3)[1], carried_out(list(runs), cost, 3)[1]
    assert first == again


def test_a_lost_run_is_next_for_another_worker_and_has_failed_the_second_time() -> None:
    runs, cost = with_costs([1, 1, 1])
    schedule = Schedule(runs, cost, 2)
    run = schedule.take("a")
    assert schedule.lost("a") == (run, True) and schedule.at_work == {}
    assert schedule.take("b") == run
    assert schedule.lost("b") == (run, False) and len(schedule) == len(runs) - 1
    assert schedule.lost("b") is None


def test_a_worker_that_is_lost_before_its_run_began_does_not_count() -> None:
    runs, cost = with_costs([1])
    schedule = Schedule(runs, cost, 1)
    for _ in range(MOST_LOST + 1):
        schedule.take("a")
        assert schedule.lost("a", by_run=False) == (runs[0], True)


@pytest.mark.parametrize(
    ("word", "is_other"), [("protocol.resize=40", True), ("train.epochs=3", False), ("out=elsewhere", False), ("device=cpu", True)]
)
def test_what_a_warm_worker_keeps_open_depends_on_backbone_task_protocol_and_device(word: str, is_other: bool) -> None:
    words = ["method=linear", "task=mini/digits", "train.warmup_epochs=0"]
    assert (setting_of(resolve(words)) != setting_of(resolve([*words, word]))) == is_other


def test_ten_thousand_runs_are_handed_out_without_looking_at_each_other() -> None:
    """Every step looks at the settings that wait, and not at the runs."""
    looks = 0

    def cost(config: RunConfig) -> float:
        nonlocal looks
        looks += 1
        return float(config.seed % 13)

    runs = [planned(seed, ("mini/digits", "mini/count")[seed % 2]) for seed in range(10_000)]
    schedule = Schedule(runs, cost, 1)
    assert all(schedule.take("a") and schedule.done("a") for _ in runs) and schedule.take("a") is None
    assert looks == len(runs)
