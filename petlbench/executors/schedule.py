"""Which run goes to which worker next: the same for every executor, and the same again for the same runs and workers.

A worker that has opened a run's backbone and task begins it at once; any other opens them first. While more than a few runs wait it does not matter
which is next, so a worker takes what it has open, the longest first. Once a run takes more than a third of a worker's share of what waits, the longest
of all is next, so that no worker is left with a long run when the others are done. Then the runs end no later than 4/3 of the earliest time possible,
if they take as long as was estimated: a run that was ever passed over takes at most a third of every worker's load, and all others begin in the order
of Graham's rule (1969), whose bound is 4/3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

from petlbench.config.resolve import RunConfig
from petlbench.runs.plan import PlannedRun

URGENT = 1 / 3  # of a worker's share of what waits
MOST_LOST = 2  # workers that a run may lose; with the last it has failed
Estimate = Callable[[RunConfig], float]  # seconds, or any unit that is the same for all runs
_Backbone = tuple[Hashable, ...]
_Setting = tuple[_Backbone, tuple[Hashable, ...]]


class Schedule:
    """The runs that wait, and what each worker has open. ``workers``: how many there will be at a time."""

    def __init__(self, runs: Sequence[PlannedRun], estimate: Estimate, workers: int) -> None:
        self._workers = max(1, workers)
        self._cost = [estimate(run.config) for run in runs]
        self._runs = runs
        self._left = sum(self._cost)
        self._waiting: dict[_Setting, deque[int]] = {}  # positions in ``runs``, the longest first
        for position in sorted(range(len(runs)), key=lambda position: (-self._cost[position], position)):
            self._waiting.setdefault(setting_of(runs[position].config), deque()).append(position)
        self._again: deque[int] = deque()  # of lost workers
        self._lost = [0] * len(runs)
        self._at_work: dict[str, int] = {}  # worker -> position
        self._open: dict[str, _Setting] = {}  # worker -> what its last run had

    def __len__(self) -> int:
        """Return how many runs wait."""
        return len(self._again) + sum(map(len, self._waiting.values()))

    @property
    def at_work(self) -> dict[str, PlannedRun]:
        """The run of every worker that has one."""
        return {worker: self._runs[position] for worker, position in self._at_work.items()}

    def take(self, worker: str) -> PlannedRun | None:
        """Return the next run for a worker that has none; None when no run waits. A name that is new is a worker that has nothing open."""
        if self._again:
            position = self._again.popleft()
        elif self._waiting:
            position = self._take_waiting(worker)
        else:
            return None
        self._left -= self._cost[position]
        self._at_work[worker] = position
        self._open[worker] = setting_of(self._runs[position].config)
        return self._runs[position]

    def done(self, worker: str) -> PlannedRun:
        """Return the run that a worker had; it keeps open what the run had open."""
        return self._runs[self._at_work.pop(worker)]

    def lost(self, worker: str, by_run: bool = True) -> tuple[PlannedRun, bool] | None:
        """Forget a worker that is gone. Return the run that it had, and True if the run waits again: False if it is to be recorded as failed.

        ``by_run``: the worker had begun the run, which may be to blame. None when it had no run.
        """
        self._open.pop(worker, None)
        position = self._at_work.pop(worker, None)
        if position is None:
            return None
        self._lost[position] += by_run
        waits = self._lost[position] < MOST_LOST
        if waits:
            self._again.append(position)
            self._left += self._cost[position]
        return self._runs[position], waits

    def _take_waiting(self, worker: str) -> int:
        longest = max(self._cost[positions[0]] for positions in self._waiting.values())
        is_urgent = longest > URGENT * self._left / self._workers
        own, others = self._open.get(worker), [setting for name, setting in self._open.items() if name != worker]

        def rank(setting: _Setting) -> tuple[object, ...]:
            position = self._waiting[setting][0]
            distance = (own is None or setting[0] != own[0], 0 if setting == own else 1 + (setting in others))
            order = (-self._cost[position], distance) if is_urgent else (distance, -self._cost[position])
            return (*order, position)

        setting = min(self._waiting, key=rank)
        position = self._waiting[setting].popleft()
        if not self._waiting[setting]:
            del self._waiting[setting]
        return position


def setting_of(config: RunConfig) -> _Setting:
    """Return what identifies the backbone of a run, and its task under its protocol: what a warm worker keeps open."""
    execution, protocol = config.execution, config.protocol
    backbone = (config.backbone.name, config.backbone.checkpoint, execution.url, execution.device)
    follows_seed = protocol.shots is not None and protocol.split_seed is None  # every seed draws other images
    task = (config.task, execution.data_root, config.protocol_id, config.seed if follows_seed else None)
    return backbone, task
