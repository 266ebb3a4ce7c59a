"""Zero-shot classification with class texts (CLIP, arXiv 2103.00020, section 3.1.2)."""

from __future__ import annotations

from torch import Tensor

from petlbench import Access, Output, QueryMethod, QueryModel, TrainingData, register_method


@register_method("zero_shot", cite="arXiv:2103.00020")
class ZeroShot(QueryMethod):
    """The frozen model's own answer: cosine similarity of the image and the class texts. Learns nothing."""

    access = Access.SCORES
    output = Output.LABEL
    learns = False

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        pass

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images)
