"""SSF: where its scales and shifts act, and where they start."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tests.methods.networks import fill, frozen, outputs, small, trainable
from tests.near import assert_near


@torch.no_grad()
def test_it_is_the_frozen_network_with_scaled_and_shifted_operations() -> None:
    """Section 3.3 of the paper: after training, scale and shift vanish into weight and bias of the operation before them."""
    vit = small("ssf")
    fill(vit)
    plain = frozen()
    places = {"patch_embed.proj": vit.patch_embed.ssf, "norm": vit.norm.ssf}
    for index, block in enumerate(vit.blocks):
        for place in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            places[f"blocks.{index}.{place}"] = block.get_submodule(place).ssf
    for place, ssf in places.items():
        operation: nn.Module = plain.get_submodule(place)
        weight, bias = operation.weight, operation.bias
        weight.mul_(ssf.scale.view(-1, *(1 for _ in weight.shape[1:])))  # type: ignore[operator, union-attr]
        bias.mul_(ssf.scale).add_(ssf.shift)  # type: ignore[operator, union-attr]
    assert len(trainable(vit)) == 2 * len(places)
    assert_near(outputs(vit), outputs(plain))


def test_scales_start_around_one_and_shifts_around_zero() -> None:
    parameters = trainable(small("ssf"))
    for which, mean in (("scale", 1.0), ("shift", 0.0)):
        values = torch.cat([parameter.detach() for name, parameter in parameters.items() if name.endswith(f"ssf.{which}")])
        assert abs(values.mean().item() - mean) < 0.003  # of 1,120 draws
        assert 0.018 < values.std().item() < 0.022


def test_a_copy_of_the_network_uses_its_own_scales() -> None:
    vit = small("ssf")
    twin = copy.deepcopy(vit)
    before = outputs(twin)
    fill(vit)
    assert torch.equal(outputs(twin), before)
