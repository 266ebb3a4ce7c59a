"""Black-box adversarial reprogramming (Tsai et al. 2020, arXiv 2007.08714), as BlackVIP's released code has it (arXiv 2303.14773)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench import Access, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.errors import ConfigError
from petlbench.nn.visual_prompts import losses_under, scaled
from petlbench.optim.loop import Epoch
from petlbench.optim.rgf import RGF, RGFConfig


@dataclass
class BARConfig:
    embedded_size: int | None = None  # e, side of the image inside its frame, even; null: 194 pixels of 224, scaled with the input
    learning_rate: float = 5.0  # learning rate of the first step
    min_learning_rate: float = 0.1  # learning rate of the last tenth of the steps
    focus: float = 2.0  # gamma of the focal loss; 0: cross entropy
    rgf: RGFConfig = field(default_factory=RGFConfig)

    def __post_init__(self) -> None:
        if self.embedded_size is not None and (self.embedded_size < 2 or self.embedded_size % 2):
            raise ValueError(f"embedded_size must be an even int >= 2 or null, got {self.embedded_size}")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"min_learning_rate must lie between 0 and learning_rate, {self.learning_rate:g}, got {self.min_learning_rate}"
            )
        if self.focus < 0:
            raise ValueError(f"focus must be >= 0, got {self.focus}")


@register_method("bar", BARConfig, cite="arXiv:2007.08714")
class BAR(QueryMethod):
    """The image, made smaller, in the middle of a learned frame sigmoid(W), trained by random gradient-free estimates of the focal loss.

    W is as large as the input, 3 S^2 scalars, 150,528 at 224: the part behind the image changes nothing but is perturbed all the same (released
    code). Scores are the model's own classes, without the label mapping of the paper (released code). Differs from the released code: there crops
    of the training images are taken at the embedded size, here the batch that the harness gives is made smaller (bicubic, antialiased).
    """

    access = Access.SCORES
    mean: Tensor  # (3, 1, 1), of the model's normalisation
    std: Tensor

    def build(self, model: QueryModel) -> None:
        size = model.input_size
        self.embedded_size = self.config.embedded_size or 2 * scaled(97, size)
        if self.embedded_size > size:
            raise ConfigError(f"method.embedded_size must be at most the input size of the backbone, {size}, got {self.embedded_size}")
        self.program = nn.Parameter(torch.randn(3, size, size))  # W
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(model, name)).view(3, 1, 1), persistent=False)

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        config, recipe = self.config, data.recipe
        optimizer = RGF(self.program.flatten(), config.rgf, seed=self.seed)
        last = 0.9 * recipe.epochs * len(data.train)
        for epoch in data.steps.epochs(recipe.epochs, data.train, method=self, optimizer=optimizer):
            sums = epoch.tally(loss=torch.zeros((), device=data.train.device), rate=0.0)
            for images, labels in epoch:
                step = epoch.number * len(data.train) + epoch.step + 1
                sums.rate = decayed_rate(step, last, config.learning_rate, config.min_learning_rate)
                sums.loss += optimizer.step(partial(self._losses, model, self.embed(images), labels), sums.rate)
                with torch.no_grad():
                    self.program.copy_(optimizer.vector.view_as(self.program))
                data.evaluate_curve()
            data.log_epoch(Epoch(epoch=epoch.number, loss=sums.loss.item() / len(data.train), learning_rate=sums.rate))

    def _losses(self, model: QueryModel, embedded: Tensor, labels: Tensor, vectors: Tensor) -> Tensor:
        return losses_under(self.frames(vectors), embedded, labels, model.scores, self.config.focus)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(self.embed(images) + self.frames(self.program.flatten()[None]))

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S), made smaller, in the middle of zeros."""
        inside = self.embedded_size
        if images.shape[-1] != inside:
            images = F.interpolate(images, size=(inside, inside), mode="bicubic", antialias=True)
            images = images.maximum(self.normalised(0.0)).minimum(self.normalised(1.0))  # a bicubic filter overshoots
        before, after = self._margins()
        return F.pad(images, (before, after, before, after))

    def frames(self, vectors: Tensor) -> Tensor:
        """Programs (Q, D) as frames (Q, 3, S, S) in normalised pixels, zero where the image is."""
        frames = self.normalised(vectors.view(-1, *self.program.shape).sigmoid())
        before, after = self._margins()
        inside = slice(before, self.program.shape[-1] - after)
        frames[..., inside, inside] = 0.0
        return frames

    def normalised(self, pixels: Tensor | float) -> Tensor:
        """Pixels (…, 3, S, S) in 0..1, as the model reads them."""
        return (pixels - self.mean) / self.std

    def _margins(self) -> tuple[int, int]:
        """Pixels before and after the image."""
        size = self.program.shape[-1]
        before = size // 2 - self.embedded_size // 2
        return before, size - before - self.embedded_size


def decayed_rate(step: int, last: float, first: float, least: float) -> float:
    """Return the rate at a step: it falls from ``first`` to ``least``, which is reached at step ``last``; steps count from 1 (released code)."""
    return (first - least) * (1 - min(step, last) / last) ** 0.9 + least
