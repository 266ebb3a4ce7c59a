"""Training a method that asks a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from petlbench.access import Meter, QueryModel, grant
from petlbench.backbones.backbone import Backbone
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.task import TaskSpec
from petlbench.learners.base import evaluating, load_into
from petlbench.measure import ImageCounter
from petlbench.method import QueryMethod


@dataclass
class QueryLearner:
    """Lets a method ask a model through a handle that counts, and lends the handle only for as long as it is needed."""

    method: QueryMethod
    backbone: Backbone
    spec: TaskSpec
    device: torch.device
    number_format: str
    meter: Meter
    _counter: ImageCounter = field(init=False)
    _handle: QueryModel | None = field(default=None, init=False)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Grant the model for the duration of a run."""
        self._counter = ImageCounter()
        self._counter.watch(self.backbone.vit)
        known = (self.spec.class_names, self.spec.prompts())
        try:
            with grant(self.method.access, self.backbone, *known, self.meter, self.device, self.number_format) as handle:
                self._handle = handle
                self.method.build(handle)
                self.method.to(self.device)
                yield
        finally:
            self._handle = None
            self._counter.remove()

    def prepare(self, data: TrainingData) -> None:
        pass  # a method that asks prepares where it fits

    def fit(self, data: TrainingData) -> None:
        self.method.train()
        self.method.fit(self._model(), data)
        self.method.eval()

    @torch.no_grad()
    def predict(self, batches: Batches) -> Tensor:
        with evaluating(self.method):
            return torch.cat([self.method.predict(self._model(), images).float() for images, _ in batches.in_order()]).cpu()

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.method.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_into(self.method.state_dict(keep_vars=True), state)

    def parameter_counts(self) -> tuple[int, int]:
        head = sum(p.numel() for name, p in self.method.named_parameters() if name.startswith("head."))
        return sum(p.numel() for p in self.method.parameters()) - head, head

    def allocation(self) -> dict[str, int]:
        return {}

    def images_forwarded(self) -> int:
        return self._counter.images

    def flops_per_image(self) -> None:
        return None  # behind an interface that only answers, nobody can count

    def _model(self) -> QueryModel:
        assert self._handle is not None, "the learner is not opened"
        return self._handle
