"""A method that queries the model, opened on the mock task as a run would open it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.batches import Batches, TrainingData
from petlbench.learners import QueryLearner, open_learner
from petlbench.optim.loop import Epoch
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.words import resolve

CPU = torch.device("cpu")
TASK = mock_task()


@dataclass
class Asking:
    """36 training images of 16 px in three batches of 12, and what was counted."""

    learner: QueryLearner
    config: RunConfig
    meter: Meter
    history: list[Epoch] = field(default_factory=list)

    def fit(self, look: Callable[[], None] = lambda: None, part_of_class: tuple[int, ...] = ()) -> None:
        train = Batches(TASK.train, TASK.transform, 12, CPU, torch.Generator().manual_seed(self.config.seed))
        val = Batches(TASK.val, TASK.transform, 12, CPU)
        told = (self.config.train, TASK.spec.class_names, self.history.append, look)
        self.learner.fit(TrainingData(train, val, *told, part_of_class=part_of_class))

    def predict(self) -> Tensor:
        return self.learner.predict(Batches(TASK.test, TASK.transform, 10, CPU))


@contextmanager
def asking(*words: str) -> Iterator[Asking]:
    """Open the method for two epochs with further settings, without its settings for particular suites."""
    config = resolve(["task=folder:none", "train.epochs=2", "train.warmup_epochs=0", *words])
    torch.manual_seed(config.seed)
    method, meter = load_method(config.method)[0](config.method_config, config.seed), Meter(config.budget)
    with open_learner(method, tiny_backbone(), TASK.spec, CPU, "fp32", meter, config.access) as learner:
        assert isinstance(learner, QueryLearner)
        yield Asking(learner, config, meter)
