"""Share the frozen backbone between runs, which leave it unchanged."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from petlbench.backbones.backbone import BACKBONES, Backbone, load_backbone, share
from petlbench.errors import ConfigError
from petlbench.testing.mocks import tiny_backbone

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def backbone() -> Backbone:
    return tiny_backbone()


def test_a_shared_copy_computes_the_same_from_the_same_memory(backbone: Backbone) -> None:
    shared = backbone.shared_copy()
    assert torch.equal(shared(IMAGES), backbone.vit(IMAGES))
    for mine, theirs in zip(shared.parameters(), backbone.vit.parameters(), strict=True):
        assert mine is not theirs and mine.data_ptr() == theirs.data_ptr()


def test_a_shared_copy_is_frozen_whatever_its_original_is() -> None:
    assert not any(parameter.requires_grad for parameter in share(nn.Linear(2, 2)).parameters())


def test_tied_parameters_stay_tied() -> None:
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    module[1].weight = module[0].weight
    shared: Any = share(module)
    assert shared[0].weight is shared[1].weight


def test_thawing_a_shared_copy_does_not_thaw_the_backbone(backbone: Backbone) -> None:
    shared = backbone.shared_copy()
    shared.requires_grad_(True)
    shared(IMAGES).sum().backward()
    assert not any(p.requires_grad or p.grad is not None for p in backbone.vit.parameters())


def test_hooks_and_modules_of_a_shared_copy_do_not_reach_the_backbone(backbone: Backbone) -> None:
    before, names = backbone.vit(IMAGES), [name for name, _ in backbone.vit.named_modules()]
    shared: Any = backbone.shared_copy()
    shared.blocks[0].register_forward_hook(lambda module, inputs, output: output + 1)
    shared.blocks[1].add_module("petl", nn.Linear(2, 2))
    shared.blocks[2].mlp = nn.Identity()
    assert not torch.equal(shared(IMAGES), before)
    assert torch.equal(backbone.vit(IMAGES), before)
    assert [name for name, _ in backbone.vit.named_modules()] == names


def test_a_backbone_is_frozen_and_in_evaluation_mode(backbone: Backbone) -> None:
    assert backbone.projection is not None
    for part in (backbone.vit, backbone.projection):
        assert not part.training and not any(parameter.requires_grad for parameter in part.parameters())


@pytest.mark.parametrize("change", ["value", "shape", "type", "buffer", "projection", "name"])
def test_the_checksum_sees_every_change(backbone: Backbone, change: str) -> None:
    other: Any = copy.deepcopy(backbone)
    norm = other.vit.norm
    if change == "value":
        norm.weight.data[0] += 1e-6
    elif change == "shape":
        norm.weight.data = norm.weight.data.view(2, -1)
    elif change == "type":
        norm.weight.data = norm.weight.data.bfloat16()
    elif change == "buffer":
        norm.register_buffer("steps", torch.tensor(1))
    elif change == "projection":
        other.projection.weight.data[0, 0] += 1e-6
    else:
        other.vit.add_module("final", norm)
        del other.vit.norm
    assert other.checksum() != backbone.checksum()


def test_the_checksum_of_equal_weights_is_equal() -> None:
    assert tiny_backbone(seed=3).checksum() == tiny_backbone(seed=3).checksum() != tiny_backbone(seed=4).checksum()


def test_parameters_are_counted_without_projection_and_text(backbone: Backbone) -> None:
    assert backbone.parameter_count == sum(parameter.numel() for parameter in backbone.vit.parameters())


def test_an_unknown_backbone_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'mini_clp'\. Did you mean 'mini_clip'\?"):
        load_backbone("mini_clp")


def test_a_single_backbone_takes_nothing_after_a_colon() -> None:
    with pytest.raises(ConfigError, match="takes nothing after a colon, got 'large'"):
        load_backbone("mini_clip:large")


def test_backbones_are_listed_and_looked_up_without_the_extra_for_remote_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "petlbench.remote.connection", raising=False)
    monkeypatch.setattr(BACKBONES, "_is_complete", False)
    monkeypatch.setattr(BACKBONES, "_broken", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BACKBONES.names() == ["mini_clip", "open_clip", "timm"]
    with pytest.raises(ConfigError, match=r"^no backbone 'mini_clp'\. Did you mean 'mini_clip'\? \(petlbench ls backbones lists all\)$"):
        load_backbone("mini_clp")
