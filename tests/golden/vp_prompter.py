"""VP: the border, the patch in the corner and the patch at a place, with their gradients; the learning rate; the hard-coded mapping of outputs and
the loss under it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petlbench.access.endpoint import Card, ClassTexts
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.local import LocalEndpoint
from petlbench.config.settings import Train
from petlbench.nn.visual_prompts import Border, Patch, RandomPatch, focal_losses
from petlbench.optim.schedule import learning_rate
from tests.golden.case import Case


def check(case: Case) -> None:
    config, images = case.config, case.tensors["images"]
    size = config["image_size"]
    border = _loaded(case, "padding", Border(size, config["pad"]))
    assert sum(parameter.numel() for parameter in border.parameters()) == config["padding_parameters"]
    _check_prompt(case, "padding", border, border(images))
    corner = _loaded(case, "fixed_patch", Patch(size, config["patch"]))
    _check_prompt(case, "fixed_patch", corner, corner(images))
    moving = RandomPatch(size, config["patch"], seed=0)
    _loaded(case, "random_patch", moving)
    _check_prompt(case, "random_patch", moving, moving.placed(images, *case.tensors["random_patch.offset"].tolist()))
    _check_rates(case)
    mapped = _mapped(case.tensors["source_logits"], config["target_classes"])
    _check(case, "expected.mapped_logits", mapped)
    _check(case, "expected.mapped_loss", focal_losses(mapped[None], case.tensors["labels"], focus=0.0))


def _mapped(source_logits: Tensor, targets: int) -> Tensor:
    """Score with a model without texts whose classifier is the identity."""
    width = source_logits.shape[1]
    classifier = nn.Linear(width, width)
    nn.init.eye_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    backbone = Backbone(
        Card("golden", 1, (0.0,) * 3, (1.0,) * 3, source="golden case"), nn.Identity(), feature_width=width, classifier=classifier
    )
    endpoint = LocalEndpoint(backbone, torch.device("cpu"))
    return endpoint.logits(source_logits, endpoint.described(ClassTexts(((),) * targets))).detach()


def _loaded(case: Case, name: str, prompt: nn.Module) -> nn.Module:
    prompt.load_state_dict(case.below(f"{name}."), strict=name != "random_patch")  # whose part of the case holds the offset as well
    return prompt


def _check_prompt(case: Case, name: str, prompt: nn.Module, prompted: Tensor) -> None:
    _check(case, f"expected.{name}.prompted", prompted)
    (prompted * case.tensors["cotangent"]).sum().backward()
    for expected in case.below(f"expected.{name}.grad."):
        _check(case, f"expected.{name}.grad.{expected}", prompt.get_parameter(expected).grad)


def _check_rates(case: Case) -> None:
    schedule = case.config["schedule"]
    recipe = Train(
        epochs=schedule["total"],  # of one step each
        learning_rate=schedule["lr"],
        schedule="vp_cosine",
        schedule_step="step",
        warmup_epochs=schedule["warmup"],
    )
    _check(case, "expected.lr", torch.tensor([learning_rate(step, recipe, step_length=1.0) for step in range(schedule["total"])]))


def _check(case: Case, name: str, value: Tensor | None) -> None:
    assert value is not None, f"{name}: no gradient"
    case.check(name, value, **case.description["tolerances"]["all"])
