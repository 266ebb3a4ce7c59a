"""Visual prompting with gradients (Bahng et al. 2022, arXiv 2203.17274, section 3; released code)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from petlbench import Access, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.nn.visual_prompts import Border, Patch, PromptConfig, RandomPatch
from petlbench.optim.loop import train


@dataclass
class VPConfig(PromptConfig):
    # padding: a border; fixed_patch: a patch in the corner; random_patch: a patch at random positions
    prompt: Literal["padding", "fixed_patch", "random_patch"] = "padding"


@register_method("vp", VPConfig, cite="arXiv:2203.17274")
class VP(QueryMethod):
    """x + prompt in normalised pixels, without clipping; the prompt starts from N(0, spread^2) and is trained by SGD through the frozen model:
    12 p (S - p) parameters of a border, 3 p^2 of a patch. For a model without texts the first C outputs of its own classifier are the scores of the C
    classes of the task, the others are left out (released code)."""

    access = Access.GRADIENTS
    uses_classifier_outputs = True

    def build(self, model: QueryModel) -> None:
        size, width, spread = model.input_size, self.config.pixels(model.input_size), self.config.spread
        if self.config.prompt == "random_patch":
            self.prompt: nn.Module = RandomPatch(size, width, self.seed, spread)
        else:
            self.prompt = (Border if self.config.prompt == "padding" else Patch)(size, width, spread)

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        train(
            self,
            data.train,
            data.recipe,
            decays=lambda *_: True,
            after_epoch=data.log_epoch,
            forward=partial(self.predict, model),
            resumable=data.steps,
        )

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(self.prompt(images))
