"""A learned border around the image, trained by SPSA with gradient correction (Oh et al. 2023, arXiv 2303.14773, released code)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from petlbench import Access, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.nn.visual_prompts import Border, PromptConfig, losses_under
from petlbench.optim.loop import Epoch
from petlbench.optim.spsa import SPSA, SPSAConfig


@dataclass
class VPSPSAConfig(PromptConfig):
    spsa: SPSAConfig = field(default_factory=lambda: SPSAConfig(step=10.0, momentum=0.3))  # what most of the released runs share


@register_method("vp_spsa", VPSPSAConfig, cite="arXiv:2303.14773")
class VPSPSA(QueryMethod):
    """x + frame(w) in normalised pixels, without clipping; the frame is the same for all images and starts from N(0, spread^2). Cross entropy."""

    access = Access.SCORES
    uses_classifier_outputs = True

    def build(self, model: QueryModel) -> None:
        self.prompt = Border(model.input_size, self.config.pixels(model.input_size), self.config.spread)

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        config: SPSAConfig = self.config.spsa
        optimizer = SPSA(nn.utils.parameters_to_vector(self.prompt.parameters()), config, seed=self.seed)
        for epoch in data.steps.epochs(data.recipe.epochs, data.train, prompt=self.prompt, optimizer=optimizer):
            sums = epoch.tally(loss=torch.zeros((), device=data.train.device))
            for images, labels in epoch:
                sums.loss += optimizer.step(partial(self._losses, model, images, labels))
                nn.utils.vector_to_parameters(optimizer.vector, self.prompt.parameters())
                data.evaluate_curve()
            data.log_epoch(
                Epoch(epoch=epoch.number, loss=sums.loss.item() / len(data.train), learning_rate=config.step_gain(optimizer.steps))
            )

    def _losses(self, model: QueryModel, images: Tensor, labels: Tensor, vectors: Tensor) -> Tensor:
        return losses_under(self.prompt.frames(vectors), images, labels, model.scores)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(self.prompt(images))
