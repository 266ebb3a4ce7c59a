"""LoRA and adapters at every placement of the structured cases: logits, loss, gradients, parameter counts."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petlbench.learners import AdaptedModel
from petlbench.method import GradientMethod
from petlbench.methods.adapter import Adapter, AdapterConfig
from petlbench.methods.lora import LoRA, LoRAConfig
from tests.golden.case import Case

_NAME = re.compile(r"vit\.blocks\.(\d+)\.petl\.(\w+)\.(.+)")


def check_lora(case: Case) -> None:
    for variant, layout in case.config["variants"].items():
        targets = _placed(layout)
        _check(case, variant, LoRA(LoRAConfig(rank=case.config["rank"], scale=case.config["lora_scale"], targets=targets)))


def check_adapter(case: Case) -> None:
    assert case.config["adapter_activation"] == "exact GELU"
    for variant, layout in case.config["variants"].items():
        places = _placed(layout)
        if layout["block_layout"] == "parallel":
            after, beside = (), places
        else:  # the sequential layout, in which the module of the attention's projection is parallel all the same
            after, beside = tuple(p for p in places if p != "proj"), tuple(p for p in places if p == "proj")
        _check(case, variant, Adapter(AdapterConfig(bottleneck=case.config["rank"], after=after, beside=beside, activation="gelu")))


def _placed(layout: dict[str, Any]) -> tuple[str, ...]:
    return tuple(place for place, count in layout["positions_per_block"].items() if count)


def _check(case: Case, variant: str, method: GradientMethod) -> None:
    sizes = case.config["backbone"]
    vit, head_weights = case.backbone(sizes, case.config["norm_eps"])
    method.adapt(vit)
    head = nn.Linear(sizes["embed_dim"], sizes["num_classes"])
    head.load_state_dict(head_weights)
    vit.cls_token.requires_grad_(True)  # trained in these cases, frozen in our presets
    model = AdaptedModel(vit, head).eval()
    trainable = {case_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trainable.items():
            if not name.startswith("head."):
                parameter.copy_(case.tensors[f"{variant}.{name}"])
    count = sum(p.numel() for name, p in trainable.items() if not name.startswith("head."))
    assert count == case.description["per_variant"][variant]["trainable_excluding_head"]
    logits = model(case.tensors["images"])
    loss = F.cross_entropy(logits, case.tensors["labels"])
    loss.backward()
    limits = case.description["tolerance_numeric"]
    case.check(f"{variant}.logits", logits, **limits["<variant>.logits"])
    case.check(f"{variant}.loss", loss, **limits["<variant>.loss"])
    expected = case.below(f"{variant}.grad.")
    assert set(trainable) == set(expected), "what trains is not what the case has gradients of"
    gradient_limits = limits["<variant>.grad.*"]
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    atol = gradient_limits["atol_per_largest_abs_expected_grad_of_variant"] * largest
    for name, parameter in trainable.items():
        case.check(f"{variant}.grad.{name}", parameter.grad, atol=atol, rtol=gradient_limits["rtol"])


def case_name(name: str) -> str:
    """Translate our parameter name into the case's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return name.removeprefix("vit.")
    block, place, rest = match.groups()
    part = "mlp" if place in ("fc1", "fc2") else "attn"
    return f"structured.blocks.{block}.{part}.{place}.{rest}"
