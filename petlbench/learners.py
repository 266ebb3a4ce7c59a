"""How the harness drives a method: one learner for methods that change the network, one for methods that ask a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from petlbench.access import Access, Meter, QueryModel, grant
from petlbench.backbones.backbone import Backbone
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.task import TaskSpec
from petlbench.errors import AccessError, CheckpointError
from petlbench.measure import ImageCounter, flops_per_image
from petlbench.method import GradientMethod, Method, QueryMethod
from petlbench.optim import loop, precision


class Learner(Protocol):
    """A method on a backbone and a task."""

    def fit(self, data: TrainingData) -> None: ...

    def predict(self, batches: Batches) -> Tensor:
        """Scores (N, C) of all images of a split in their order, on the CPU in float32."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What was learned."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def parameter_counts(self) -> tuple[int, int]:
        """Learned scalars without the head, and of the head."""
        ...

    def images_forwarded(self) -> int: ...

    def flops_per_image(self) -> float | None: ...


class AdaptedModel(nn.Module):
    """A vision tower that a method has changed, and a task head: (B, 3, S, S) -> (B, C)."""

    def __init__(self, vit: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.vit(images))


class GradientLearner:
    """Trains what a method has added to or thawed in a private module tree over the backbone's frozen tensors."""

    def __init__(self, method: GradientMethod, backbone: Backbone, spec: TaskSpec, device: torch.device, number_format: str) -> None:
        self.method = method
        self.device = device
        vit = backbone.shared_copy()
        method.adapt(vit)
        _own_the_trainable(vit, backbone.vit)
        head = method.build_head(backbone.feature_width, len(spec.class_names))
        self.model = AdaptedModel(vit, head).to(device).eval()
        self.precision = number_format
        self._input_size = backbone.card.input_size
        self._frozen = {f"vit.{name}" for name in backbone.vit.state_dict()}
        self._counter = ImageCounter(vit)

    def fit(self, data: TrainingData) -> None:
        loop.train(self.model, data.train, data.recipe, decays=self.method.decays, precision=self.precision, after_epoch=data.report)

    @torch.inference_mode()
    def predict(self, batches: Batches) -> Tensor:
        with _evaluating(self.model), precision.autocast(self.precision, self.device):
            return torch.cat([self.model(images).float() for images, _ in batches.in_order()]).cpu()

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self._learned().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_into(self._learned(), state)

    def parameter_counts(self) -> tuple[int, int]:
        return _count(self.model.vit), _count(self.model.head)

    def images_forwarded(self) -> int:
        return self._counter.images

    def flops_per_image(self) -> float:
        counted = self._counter.images
        flops = flops_per_image(self.model, torch.zeros(1, 3, self._input_size, self._input_size, device=self.device))
        self._counter.images = counted
        return flops

    def _learned(self) -> dict[str, Tensor]:
        """Trainable parameters, and the buffers that the method brought (a batch norm's statistics)."""
        tensors = self.model.state_dict(keep_vars=True)
        parameters = dict(self.model.named_parameters())
        return {
            name: tensor
            for name, tensor in tensors.items()
            if tensor.requires_grad or (name not in parameters and name not in self._frozen)
        }


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
        self._counter = ImageCounter(self.backbone.vit)
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

    def fit(self, data: TrainingData) -> None:
        self.method.train()
        self.method.fit(self._model(), data)
        self.method.eval()

    @torch.no_grad()
    def predict(self, batches: Batches) -> Tensor:
        with _evaluating(self.method):
            return torch.cat([self.method.predict(self._model(), images).float() for images, _ in batches.in_order()]).cpu()

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.method.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_into(self.method.state_dict(keep_vars=True), state)

    def parameter_counts(self) -> tuple[int, int]:
        head = sum(p.numel() for name, p in self.method.named_parameters() if name.startswith("head."))
        return sum(p.numel() for p in self.method.parameters()) - head, head

    def images_forwarded(self) -> int:
        return self._counter.images

    def flops_per_image(self) -> None:
        return None  # behind an interface that only answers, nobody can count

    def _model(self) -> QueryModel:
        assert self._handle is not None, "the learner is not opened"
        return self._handle


@contextmanager
def open_learner(
    method: Method, backbone: Backbone, spec: TaskSpec, device: torch.device, number_format: str, meter: Meter
) -> Iterator[GradientLearner | QueryLearner]:
    """The learner that fits the method's rung, ready to fit or to load what was learned."""
    if isinstance(method, GradientMethod) and method.access is Access.WEIGHTS:
        yield GradientLearner(method, backbone, spec, device, number_format)
    elif isinstance(method, QueryMethod) and method.access <= Access.FEATURES:
        learner = QueryLearner(method, backbone, spec, device, number_format, meter)
        with learner.opened():
            yield learner
    else:
        raise AccessError(
            f"{type(method).__name__} declares access {method.access.name}, which {type(method).__mro__[1].__name__} does not have"
        )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: a method that is asked in the middle of its training goes on training."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def load_into(target: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Copy a saved state over tensors of the same names and shapes. CheckpointError names what is missing, unexpected or of another shape."""
    for label, names in (("lacks", target.keys() - state.keys()), ("has unexpected", state.keys() - target.keys())):
        if names:
            raise CheckpointError(f"the checkpoint {label} {', '.join(sorted(names)[:5])}{' and others' if len(names) > 5 else ''}")
    with torch.no_grad():
        for name, tensor in target.items():
            if tensor.shape != state[name].shape:
                raise CheckpointError(f"{name} has shape {tuple(state[name].shape)} in the checkpoint, {tuple(tensor.shape)} is expected")
            tensor.copy_(state[name])


def _own_the_trainable(vit: nn.Module, frozen: nn.Module) -> None:
    """Give every thawed parameter storage of its own, so that training it cannot reach the shared backbone."""
    shared = {parameter.data_ptr() for parameter in frozen.parameters()}
    for parameter in vit.parameters():
        if parameter.requires_grad and parameter.data_ptr() in shared:
            parameter.data = parameter.data.clone()


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
