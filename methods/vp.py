"""Visual prompting with gradients (Bahng et al. 2022, arXiv 2203.17274, section 3; released code)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from petlbench import Access, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.nn.visual_prompts import Border, Patch, RandomPatch, check_prompt, scaled
from petlbench.optim.loop import train


@dataclass
class VPConfig:
    prompt: Literal["padding", "fixed_patch", "random_patch"] = "padding"  # a border, a patch in the corner, a patch that moves
    width: int | None = None  # p, pixels of the border or the patch; null: 30 at an input of 224, scaled; 12 p (S - p) or 3 p^2 parameters
    spread: float = 1.0  # standard deviation of the prompt at the start; 0 starts from the unchanged image

    def __post_init__(self) -> None:
        check_prompt(self.width, self.spread)


@register_method("vp", VPConfig, cite="arXiv:2203.17274")
class VP(QueryMethod):
    """x + prompt in normalised pixels, without clipping; the prompt starts from N(0, spread^2) and is trained by SGD through the frozen model."""

    access = Access.GRADIENTS

    def build(self, model: QueryModel) -> None:
        size, spread = model.input_size, self.config.spread
        width = self.config.width or scaled(30, size)
        if self.config.prompt == "random_patch":
            self.prompt: nn.Module = RandomPatch(size, width, self.seed, spread)
        else:
            self.prompt = (Border if self.config.prompt == "padding" else Patch)(size, width, spread)

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        train(_Prompted(self.prompt, model.scores), data.train, data.recipe, decays=lambda *_: True, after_epoch=data.report)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(self.prompt(images))


class _Prompted(nn.Module):
    """Images (B, 3, S, S) to the scores (B, C) of the prompted images."""

    def __init__(self, prompt: nn.Module, scores: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.prompt, self.scores = prompt, scores

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.prompt(images))
