"""What a method is. The whole API: one class, one configuration dataclass, one decorator.

Letters in shapes: B images, C classes, D feature width, S input size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from petlbench.access.endpoint import Output
from petlbench.access.handle import QueryModel
from petlbench.access.rungs import Access
from petlbench.data.batches import TrainingData
from petlbench.registry import METHODS


@dataclass
class NoConfig:
    """For methods that have nothing to choose."""


class Method(ABC):
    """Adapts a frozen backbone to one task. ``config`` is an instance of the registered dataclass, ``seed`` the run's seed."""

    name: ClassVar[str]
    cite: ClassVar[str]
    Config: ClassVar[type]
    access: ClassVar[Access]
    learns: ClassVar[bool] = True  # False: ``fit`` does nothing and nothing is stored, as with the frozen model itself

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config
        self.seed = seed


class GradientMethod(Method):
    """A method that changes the network itself. The harness freezes, trains, counts, saves and evaluates; the method says what is new."""

    access = Access.WEIGHTS

    plan: dict[str, Tensor]  # what ``prepare`` returned, now or when the checkpoint was written

    def prepare(self, vit: Any, head: nn.Module, data: TrainingData) -> dict[str, Tensor]:
        """Look at the task before the network is changed. ``vit`` and ``head`` are frozen copies for looking only; the result is ``self.plan`` in
        ``adapt`` and is stored with what is learned. Most methods have nothing to find out."""
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
        """Whether weight decay applies to a trainable parameter: to matrices, not to vectors, nor to tokens and positions (timm's convention)."""
        return parameter.ndim > 1 and name.rpartition(".")[2] not in ("cls_token", "reg_token", "pos_embed")


@dataclass(frozen=True)
class Deployable:
    """Tokens that a method puts behind those of every image (B, 3, S, S), K mixtures of a library of N tokens of width V. Mixed from patches that the
    model's patch embedding turns into the library's tokens, they can be sent to a model that takes nothing but pixels."""

    library: Tensor  # (N, V)
    coefficients: Callable[[Tensor], Tensor]  # normalised images to (B, K, N), which sum to one over the library
    read: Callable[[Tensor], Tensor] | None = None  # features (B, D) to scores (B, C); None: the model scores the classes


class QueryMethod(Method, nn.Module):
    """A method that asks a model and never sees inside. What it learns are its own parameters and buffers, as of any ``nn.Module``."""

    output: ClassVar[Output] = Output.PROBABILITIES  # that it needs of the model's answers, at least
    requires_class_scores: bool = True  # at GRADIENTS; False: where a model cannot (``model.has_text``) its features suffice
    needs_tokens: ClassVar[bool] = False  # at GRADIENTS: whether a model that takes no tokens beside an image is of no use
    uses_classifier_outputs: ClassVar[bool] = (
        False  # whether the first outputs of a model's own classifier can stand for the classes of a task
    )
    number_format: str = "fp32"  # of forward passes; the run sets it
    images_encoded: int = 0  # by models of its own, such as the frozen encoder of BlackVIP's coordinator

    def __init__(self, config: Any, seed: int = 0) -> None:
        nn.Module.__init__(self)
        Method.__init__(self, config, seed)

    @classmethod
    def required_output(cls) -> Output:
        """What the model's answers must give: a label has no gradient, and that of a few classes would be wrong."""
        return max(cls.output, Output.PROBABILITIES) if cls.access is Access.GRADIENTS else cls.output

    @property
    def local_only_reason(self) -> str | None:
        """What its configuration asks of the model that no API gives, if anything."""
        return None

    def templates(self, of_task: tuple[str, ...]) -> tuple[str, ...]:
        """What class texts are made of, each with one {}. At CONTEXT exactly one, which starts with the words of the context."""
        return of_task

    def build(self, model: QueryModel) -> None:
        """Create the parameters and buffers that are learned; called before ``fit`` and before a checkpoint is loaded."""

    def check_state(self, state: dict[str, Tensor]) -> None:
        """CheckpointError when a saved state, about to be loaded, was learned beside another model of the method's own than it has now."""

    def deployable(self) -> Deployable | None:
        """What it has learned, in a form that needs pixels only; None: there is no such form."""
        return None

    @abstractmethod
    def fit(self, model: QueryModel, data: TrainingData) -> None:
        """Learn from the training data through the model's answers."""

    @abstractmethod
    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        """Scores (B, C) of normalised images (B, 3, S, S)."""


M = TypeVar("M", bound=type[Method])


def register_method(name: str, config: type = NoConfig, *, cite: str = "") -> Callable[[M], M]:
    """Make a method known. ``config``: its dataclass; ``cite``: where it is published."""

    def decorate(method: M) -> M:
        method.name, method.Config, method.cite = name, config, cite
        METHODS.register(name, method, method.__module__)
        return method

    return decorate
