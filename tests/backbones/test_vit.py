"""Compute only the class token in the last block of timm's vision transformer: same outputs and gradients, less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

from petlbench.backbones.backbone import share
from petlbench.backbones.vit import end_with_the_class_token

# float64, so that the order of summation shows in no compared digit
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tower(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**{**sizes, **options}).double().eval()


def gradients(vit: VisionTransformer) -> dict[str, torch.Tensor]:
    direction = torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (vit(IMAGES) * direction).sum().backward()
    return {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"reg_tokens": 2}, {"depth": 1}])
def test_answers_and_gradients_are_those_of_timm(options: dict[str, Any]) -> None:
    plain, short = tower(**options), tower(**options)
    end_with_the_class_token(short)
    assert_close(short(IMAGES), plain(IMAGES))
    expected = gradients(plain)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients(short).items():
        # sums of the same terms in another order: a few roundings of float32 (6e-8) of the largest term, whatever the entry itself is
        assert_close(gradient, expected.pop(name), rtol=0, atol=1e-6 * largest, msg=name)
    assert not expected


def test_the_last_mlp_sees_one_token_per_image_and_every_other_all() -> None:
    vit, seen = tower(), []
    end_with_the_class_token(vit)
    for block in vit.blocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    vit(IMAGES)
    assert seen == [(3, 5, 16), (3, 5, 16), (3, 1, 16)]


def test_a_tower_that_averages_its_tokens_is_left_alone() -> None:
    vit = tower(global_pool="avg")
    end_with_the_class_token(vit)
    assert_close(vit(IMAGES), tower(global_pool="avg")(IMAGES), rtol=0, atol=0)
    assert not any("forward" in vars(block) for block in vit.blocks)


def test_a_copy_of_the_tower_uses_its_own_modules() -> None:
    vit = tower()
    end_with_the_class_token(vit)
    copied = share(vit)
    copied.blocks[-1].mlp.fc2.bias.data = torch.arange(16, dtype=torch.float64)  # type: ignore[index, union-attr]
    assert not torch.allclose(copied(IMAGES), vit(IMAGES))
    assert copied.blocks[-1].forward.args[0] is copied.blocks[-1]  # type: ignore[index, union-attr]
