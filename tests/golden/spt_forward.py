"""SPT's tuned network for a given selection: logits, loss, gradients of everything that trains, parameter counts."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.learners import AdaptedModel
from petlbench.methods.spt import SPT, SPTConfig
from petlbench.methods.spt.candidates import candidates
from petlbench.methods.spt.selection import Selection
from tests.golden.case import Case
from tests.golden.structured import case_name

_PER_PART = re.compile(r"(.*)\.(?:qkv|proj|fc1|fc2)\.(entries|bias_entries|whole_bias)\.(\w+)")
_AS_WRITTEN = {"entries": "sparse.{}.weight", "bias_entries": "sparse.{}.bias", "whole_bias": "vec.{}.bias"}


def check(case: Case) -> None:
    for variant in case.description["per_variant"]:
        _check(case, variant)


def _check(case: Case, variant: str) -> None:
    sizes, rule, facts = case.config["backbone"], case.config["selection_rule"], case.description["per_variant"][variant]
    vit, head_weights = case.backbone(sizes, case.config["norm_eps"])
    config = SPTConfig(module=variant, rank=case.config["rank"], **{name: float(rule[name]) for name in ("unit", "alpha", "beta")})
    method = SPT(config)
    selection = _selection(case, variant, vit, method)
    method.plan = selection.state()
    method.adapt(vit)
    head = nn.Linear(sizes["embed_dim"], sizes["num_classes"])
    head.load_state_dict(head_weights)
    model = AdaptedModel(vit, head).eval()
    trainable = {_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trainable.items():
            if not name.startswith("head."):
                parameter.copy_(case.tensors[f"{variant}.{name}{'.delta' if name.startswith('sparse.') else ''}"])
    count = sum(p.numel() for name, p in trainable.items() if not name.startswith("head."))
    assert count == facts["trainable_excluding_head"]
    assert selection.kept_norm_entries == sum(facts["norm_entries_ignored"].values())
    assert selection.total == count + selection.kept_norm_entries
    logits = model(case.tensors["images"])
    loss = F.cross_entropy(logits, case.tensors["labels"])
    loss.backward()
    case.check(f"{variant}.logits", logits, atol=1e-4, rtol=1e-4)
    case.check(f"{variant}.loss", loss, atol=1e-4, rtol=1e-4)
    expected = case.below(f"{variant}.grad.")
    assert set(trainable) == set(expected), "what trains is not what the case has gradients of"
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, parameter in trainable.items():
        assert parameter.grad is not None, name
        case.check(f"{variant}.grad.{name}", parameter.grad, atol=1e-5 * largest, rtol=1e-3)


def _selection(case: Case, variant: str, vit: nn.Module, method: SPT) -> Selection:
    """Build a selection from the case's masks, names and index tensors. Of norms the case only counts the kept entries: take the first ones."""
    facts = case.description["per_variant"][variant]
    masks = iter(flag for row in facts["structured"] for flag in row)
    structured, positions, start = [], [], 0
    for candidate in (ranked := candidates(vit)):
        structured.append(bool(next(masks)) if candidate.is_matrix else candidate.name in facts["tuned_vectors"])
        if candidate.name in facts["norm_entries_ignored"]:
            positions.append(start + torch.arange(facts["norm_entries_ignored"][candidate.name]))
        elif (index := case.tensors.get(f"{variant}.sparse.{candidate.name}.index")) is not None:
            positions.append(start + _flat(index, candidate.shape))
        start += candidate.size
    return Selection(
        tuple(ranked), method.config.rule(case.config["backbone"]["embed_dim"]), torch.tensor(structured), torch.cat(positions)
    )


def _flat(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Turn rows (out, in) or (i,) into flat positions, which must be in ascending order as ours are."""
    flat = index[:, 0] * shape[1] + index[:, 1] if len(shape) == 2 else index[:, 0]
    assert bool((flat.diff() > 0).all()), "entries of a tensor are not in ascending order"
    return flat


def _name(name: str) -> str:
    """Translate our parameter name into the case's."""
    short = case_name(name)
    if match := _PER_PART.fullmatch(short):
        owner, kind, part = match.groups()
        return _AS_WRITTEN[kind].format(f"{owner}.{part}")
    return f"vec.{short}" if ".norm" in short or short.startswith("norm.") else short
