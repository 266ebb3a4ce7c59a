"""Linear probe: a linear classifier on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petlbench import Access, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.optim.loop import TensorBatches, train


@register_method("linear")
class Linear(QueryMethod):
    """softmax(W f(x) + b) with f the pooled features. Every training image is sent once; all epochs run on the answers."""

    access = Access.FEATURES

    def build(self, model: QueryModel) -> None:
        self.head = nn.Linear(model.feature_width, len(model.class_names))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        features = torch.cat([model.features(images) for images, _ in data.train.in_order()])
        order = torch.Generator().manual_seed(self.seed)
        examples = TensorBatches(features, data.train.labels, data.recipe.batch_size, order)
        train(
            self.head,
            examples,
            data.recipe,
            decays=lambda _, parameter: parameter.ndim > 1,
            after_epoch=data.log_epoch,
            resumable=data.steps,
        )

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return self.head(model.features(images))
