"""Open a small random model at a rung."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.testing.mocks import tiny_backbone

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "newt")
PROMPTS = tuple((f"a photo of a {name}.",) for name in NAMES)


@contextmanager
def granted(
    rung: Access,
    backbone: Backbone | None = None,
    meter: Meter | None = None,
    answers: QueryConfig | None = None,
    number_format: str = "fp32",
) -> Iterator[QueryModel]:
    texts = ClassTexts(PROMPTS, "a photo of a" if rung is Access.CONTEXT else None)
    with grant(
        rung, (backbone or tiny_backbone()).endpoint(CPU, number_format), NAMES, texts, meter or Meter(), answers or QueryConfig()
    ) as model:
        yield model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def contexts(model: QueryModel, count: int) -> Tensor:
    return model.context + 0.3 * torch.randn(count, *model.context.shape, generator=torch.Generator().manual_seed(1))
