"""Compute only the class token in the last block of timm's vision transformer: same outputs and gradients, less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from petlbench.backbones.backbone import share
from petlbench.backbones.vit import end_with_the_class_token
from tests.near import assert_near

# float64, so that a sum in another order shows in no digit that a wrong formula would
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tower(kind: type[VisionTransformer] = VisionTransformer, **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
    return kind(**{**sizes, **options}).double().eval()


def gradients(vit: VisionTransformer) -> dict[str, torch.Tensor]:
    direction = torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (vit(IMAGES) * direction).sum().backward()
    return {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"reg_tokens": 2}, {"depth": 1}, {"kind": VisionTransformerDistilled}])
def test_answers_and_gradients_are_those_of_timm(options: dict[str, Any]) -> None:
    plain, short = tower(**options), tower(**options)
    end_with_the_class_token(short)
    assert_near(short(IMAGES), plain(IMAGES))
    assert_near(gradients(short), gradients(plain))  # all together: some are zero but for rounding


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
    assert torch.equal(vit(IMAGES), tower(global_pool="avg")(IMAGES))
    assert not any("forward" in vars(block) for block in vit.blocks)


def test_a_copy_of_the_tower_uses_its_own_modules() -> None:
    vit = tower()
    end_with_the_class_token(vit)
    copied = share(vit)
    copied.blocks[-1].mlp.fc2.bias.data = torch.arange(16, dtype=torch.float64)  # type: ignore[index, union-attr]
    assert not torch.allclose(copied(IMAGES), vit(IMAGES))
    assert copied.blocks[-1].forward.args[0] is copied.blocks[-1]  # type: ignore[index, union-attr]
