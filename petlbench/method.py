"""The API of a method: one class, one configuration dataclass, one decorator.

Letters in shapes: B images, C classes, D feature width, S input size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from petlbench.access.endpoint import Output
from petlbench.access.handle import QueryModel
from petlbench.access.rungs import Access
from petlbench.data.batches import TrainingData
from petlbench.registry import METHODS


@dataclass
class NoConfig:
    """The configuration of methods without settings."""


class Method(ABC):
    """Adapts a frozen backbone to one task. ``config`` is an instance of the registered dataclass, ``seed`` the run's seed."""

    name: ClassVar[str]
    cite: ClassVar[str]
    Config: ClassVar[type]
    access: ClassVar[Access]
    learns: ClassVar[bool] = True  # False: ``fit`` does nothing and nothing is stored, as with the frozen model itself
    default_search: ClassVar[Mapping[str, Any] | None] = (
        None  # what is tuned where the method's YAML has no ``search`` (petlbench.config.search)
    )

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config
        self.seed = seed


class GradientMethod(Method):
    """A method that changes the network itself. The harness freezes, trains, counts, saves and evaluates; the method says what is new."""

    access = Access.WEIGHTS
    default_search = MappingProxyType(
        {"train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "train.weight_decay": [0.0, 1e-4, 1e-3, 1e-2]}
    )

    plan: dict[str, Tensor]  # what ``prepare`` returned, now or when the checkpoint was written

    def prepare(self, vit: Any, head: nn.Module, data: TrainingData) -> dict[str, Tensor]:
        """Inspect the task before the network is changed. ``vit`` and ``head`` are frozen copies to read only; the result is ``self.plan`` in
        ``adapt`` and is stored with what is learned. Most methods need no preparation."""
        return {}

    @abstractmethod
    def adapt(self, vit: Any) -> None:
        """Change a timm VisionTransformer, a private module tree over the shared frozen tensors: add modules or hooks, or call
        ``requires_grad_(True)`` on what shall train. Everything that requires a gradient afterwards is trained and saved, nothing else."""

    def build_head(self, feature_width: int, class_count: int) -> nn.Module:
        """The task head, (B, D) -> (B, C)."""
        head = nn.Linear(feature_width, class_count)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Return True if weight decay applies to a trainable parameter: to matrices, not to vectors, nor to tokens and positions (timm's convention)."""
        return parameter.ndim > 1 and name.rpartition(".")[2] not in ("cls_token", "reg_token", "dist_token", "pos_embed")


@dataclass(frozen=True)
class Deployable:
    """The tokens that a method appends to those of every image (B, 3, S, S): K mixtures of a library of N tokens of width V. The same mixtures of patches
    that the patch embedding turns into the library's tokens can be sent to a model that takes pixels only."""

    library: Tensor  # (N, V)
    coefficients: Callable[[Tensor], Tensor]  # normalised images to (B, K, N), which sum to one over the library
    read: Callable[[Tensor], Tensor] | None = None  # features (B, D) to scores (B, C); None: the model scores the classes


class QueryMethod(Method, nn.Module):
    """A method that queries a model and never sees inside. It learns its own parameters and buffers, as any ``nn.Module``."""

    output: ClassVar[Output] = Output.PROBABILITIES  # the least that the model's answers must give
    requires_class_scores: bool = True  # at GRADIENTS; False: features suffice where a model has no class scores (``model.has_text``)
    needs_tokens: ClassVar[bool] = False  # at GRADIENTS: whether the model must take extra tokens
    # Whether the first outputs of a model's own classifier can be mapped to the classes of a task
    uses_classifier_outputs: ClassVar[bool] = False
    number_format: str = "fp32"  # of forward passes; the run sets it

    def __init__(self, config: Any, seed: int = 0) -> None:
        nn.Module.__init__(self)
        Method.__init__(self, config, seed)

    @classmethod
    def required_output(cls) -> Output:
        """Return the least output that the method can use. At GRADIENTS that is probabilities: labels have none, and that of a few classes is wrong."""
        return max(cls.output, Output.PROBABILITIES) if cls.access is Access.GRADIENTS else cls.output

    @property
    def local_only_reason(self) -> str | None:
        """The reason why this configuration needs a model in this process; None: any model will do."""
        return None

    def templates(self, of_task: tuple[str, ...]) -> tuple[str, ...]:
        """Return the templates of class texts, each with one {}. At CONTEXT exactly one, which starts with the words of the context."""
        return of_task

    def build(self, model: QueryModel) -> None:
        """Create the parameters and buffers that are learned; called before ``fit`` and before a checkpoint is loaded."""

    def encoders(self) -> tuple[nn.Module, ...]:
        """Return the models of its own that the method encodes images with, such as the frozen encoder of BlackVIP's coordinator: modules whose first
        input is (B, 3, S, S). The harness counts what enters them; called after ``build``."""
        return ()

    def check_state(self, state: dict[str, Tensor]) -> None:
        """CheckpointError when a saved state was learned with another auxiliary model than the method has now; called before the state is loaded."""

    def deployable(self) -> Deployable | None:
        """Return what was learned in a form that needs pixels only; None: there is no such form."""
        return None

    @abstractmethod
    def fit(self, model: QueryModel, data: TrainingData) -> None:
        """Learn from the training data through the model's answers."""

    @abstractmethod
    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        """Scores (B, C) of normalised images (B, 3, S, S)."""


M = TypeVar("M", bound=type[Method])


def register_method(name: str, config: type = NoConfig, *, cite: str = "") -> Callable[[M], M]:
    """Register a method. ``config``: its dataclass; ``cite``: where it is published."""

    def decorate(method: M) -> M:
        method.name, method.Config, method.cite = name, config, cite
        METHODS.register(name, method, method.__module__)
        return method

    return decorate
