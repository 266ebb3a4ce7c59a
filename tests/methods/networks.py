"""The networks that the white-box methods make, small or without memory, as the command line would configure them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.backbones.backbone import share
from petlbench.config.resolve import RunConfig, load_method, method_names
from petlbench.data.batches import Batches, TrainingData
from petlbench.method import GradientMethod
from petlbench.testing.mocks import CLASSES, WIDTH, mock_task, tiny_backbone
from tests.words import resolve

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
DIRECTION = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2)).double()


@cache
def white_box() -> list[str]:
    """Name every plugin and preset that changes the network."""
    return [name for name in method_names() if issubclass(load_method(name)[0], GradientMethod)]


def looks_at_the_task(name: str) -> bool:
    """Tell whether the network of a method depends on training data."""
    plugin, _ = load_method(name)
    return plugin.prepare is not GradientMethod.prepare  # type: ignore[attr-defined]


def configured(name: str, *words: str) -> tuple[GradientMethod, RunConfig]:
    """A method with the settings of its YAML, those for particular suites left out."""
    config = resolve([f"method={name}", "task=folder:none", *words])
    method = load_method(name)[0](config.method_config, config.seed)
    assert isinstance(method, GradientMethod)
    return method, config


def small(name: str, *words: str) -> Any:
    """A tiny network in float64 and evaluation mode that a method has changed, over tensors of its own."""
    method, config = configured(name, *words)
    backbone, task, cpu = tiny_backbone(), mock_task(), torch.device("cpu")
    torch.manual_seed(0)
    if looks_at_the_task(name):
        train, val = (Batches(split, task.transform, 12, cpu) for split in (task.train, task.val))
        data = TrainingData(train, val, config.train, task.spec.class_names, lambda epoch: None)
        method.plan = method.prepare(backbone.shared_copy(), method.build_head(WIDTH, CLASSES), data)
    else:
        method.plan = {}
    vit = backbone.shared_copy()
    method.adapt(vit)
    return vit.double().eval()


def frozen() -> Any:
    """Return the unchanged network from which ``small`` starts."""
    return tiny_backbone().vit.double().eval()


def vit_b(name: str, *words: str) -> nn.Module:
    """ViT-B/16 at 224 pixels, changed by a method, on the meta device: shapes without memory."""
    vit = share(_vit_b())
    method, _ = configured(name, *words)
    method.plan = {}
    with torch.device("meta"):
        method.adapt(vit)
    assert all(parameter.is_meta for parameter in vit.parameters())
    return vit


@cache
def _vit_b() -> nn.Module:
    with torch.device("meta"):
        return VisionTransformer(num_classes=0).requires_grad_(False)


def trainable(vit: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in vit.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def fill(vit: nn.Module) -> None:
    """Fill trainable tensors with random values, the same for networks with the same shapes in the same order."""
    known = dict(frozen().named_parameters())
    generator = torch.Generator().manual_seed(3)
    for name, parameter in trainable(vit).items():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(known[name] + noise if name in known else noise)


def take_steps(vit: nn.Module, count: int) -> None:
    """Steps of plain gradient descent on a fixed linear function of the features, whose gradient does not vanish."""
    optimizer = torch.optim.SGD(trainable(vit).values(), lr=0.1)
    for _ in range(count):
        optimizer.zero_grad()
        (vit(IMAGES) * DIRECTION).sum().backward()
        optimizer.step()


def outputs(vit: nn.Module) -> Tensor:
    """Features (B, D) of fixed images."""
    with torch.no_grad():
        return vit(IMAGES)
