"""Training a method that queries a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from petlbench.access.border import entries, own, plain
from petlbench.access.endpoint import ClassTexts, Endpoint
from petlbench.access.handle import QueryModel, grant, handed_to_method
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.task import TaskSpec
from petlbench.errors import ConfigError
from petlbench.learners.base import evaluating, load_into
from petlbench.learners.cost import ImageCounter
from petlbench.method import QueryMethod
from petlbench.remote.client import RemoteBackbone


@dataclass
class QueryLearner:
    """Runs a method that queries a model through handles, which count. Each is valid while the function of the method runs that it was given to."""

    method: QueryMethod
    backbone: Backbone | RemoteBackbone
    spec: TaskSpec
    device: torch.device
    number_format: str
    meter: Meter
    query_config: QueryConfig
    _endpoint: Endpoint = field(init=False)
    _handle: QueryModel | None = field(default=None, init=False)
    _encoded: ImageCounter = field(default_factory=ImageCounter, init=False)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Grant the model for the duration of a run."""
        self._endpoint = self.backbone.endpoint(self.device, self.number_format)
        self.method.number_format = self.number_format
        known = (self.spec.class_names, self._texts())
        try:
            with grant(self.method.access, self._endpoint, *known, self.meter, self.query_config) as handle:
                self._handle = handle
                with handed_to_method(handle) as model:
                    self.method.build(model)
                self.method.to(self.device).eval()  # training begins in ``fit``
                for encoder in self.method.encoders():
                    self._encoded.watch(encoder)
                yield
        finally:
            self._handle = None
            self._encoded.remove()

    def _texts(self) -> ClassTexts:
        if self.method.access is Access.FEATURES or not self._endpoint.facts.has_text:
            return ClassTexts(((),) * len(self.spec.class_names))  # class names are not needed
        templates = self.method.templates(self.spec.templates)
        captions = self.spec.prompts(templates)
        if self.method.access is not Access.CONTEXT:
            return ClassTexts(captions)
        words = templates[0].partition("{")[0].strip()
        if len(templates) != 1 or not words:
            raise ConfigError(
                f"method {self.method.name} replaces the words before the class name: it needs one template such as 'a photo of a {{}}.', got {templates}"
            )
        return ClassTexts(captions, words)

    def prepare(self, data: TrainingData) -> None:
        pass  # a query method prepares in ``fit``

    def fit(self, data: TrainingData) -> None:
        self.method.train()
        with handed_to_method(self.handle) as model:
            self.method.fit(model, data)
        self.method.eval()

    @torch.no_grad()
    def predict(self, batches: Batches) -> Tensor:
        classes = len(self.spec.class_names)
        with evaluating(self.method), handed_to_method(self.handle) as model:
            answers = ((self.method.predict(model, images), len(images)) for images, _ in batches.in_order())
            return torch.cat([plain("the scores of predict", scores, (count, classes)) for scores, count in answers]).cpu()

    def state(self) -> dict[str, Tensor]:
        return {name: own(name, tensor).detach().cpu() for name, tensor in self.method.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.method.check_state(state)
        load_into(self.method.state_dict(keep_vars=True), state)

    def parameter_counts(self) -> tuple[int, int]:
        head = entries(p for name, p in self.method.named_parameters() if name.startswith("head."))
        return entries(self.method.parameters()) - head, head

    def allocation(self) -> dict[str, int]:
        return {}

    def images_forwarded(self) -> int:
        return self._endpoint.images_forwarded

    def images_encoded(self) -> int:
        return self._encoded.images

    def flops_per_image(self) -> None:
        return None  # unknown behind an interface of queries

    @property
    def handle(self) -> QueryModel:
        """The handle of the run, from which those are made that the method is given."""
        assert self._handle is not None, "the learner is not opened"
        return self._handle
