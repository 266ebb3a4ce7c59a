"""FacT: its formula matrix by matrix, and how training starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from petlbench.errors import ConfigError
from petlbench.methods.fact import FacTConfig
from tests.methods.networks import configured, fill, frozen, outputs, small, take_steps, trainable
from tests.near import assert_near

D, SCALE = 32, 0.7


def increments(fact: Any) -> Tensor:
    """dW_m for (x dW_m), (M, D, D), entry by entry as the paper writes them."""
    if hasattr(fact, "sigma"):
        return SCALE * torch.einsum("ia,mab,jb->mij", fact.u, fact.sigma, fact.v)
    return SCALE * torch.einsum("ia,mk,abk,jb->mij", fact.u, fact.mixing, fact.core, fact.v)


@pytest.mark.parametrize("name", ["fact", "fact_tk"])
@torch.no_grad()
def test_every_layer_gets_its_squares_of_the_tensor(name: str) -> None:
    """Twelve matrices per block in this order: q, k, v, proj, the four parts of fc1's output, the four of fc2's input."""
    vit = small(name, "method.rank=5", f"method.scale={SCALE}")
    fill(vit)
    plain = frozen()
    for index, block in enumerate(plain.blocks):
        squares = increments(vit.fact)[12 * index : 12 * (index + 1)].mT  # (out, in), as torch keeps weights
        for part in range(3):
            block.attn.qkv.weight[part * D : (part + 1) * D] += squares[part]
        block.attn.proj.weight += squares[3]
        for part in range(4):
            block.mlp.fc1.weight[part * D : (part + 1) * D] += squares[4 + part]
            block.mlp.fc2.weight[:, part * D : (part + 1) * D] += squares[8 + part]
    assert_near(outputs(vit), outputs(plain))


@pytest.mark.parametrize(("name", "cores"), [("fact", {"sigma"}), ("fact_tk", {"core", "mixing"})])
def test_v_moves_in_the_first_step_and_the_rest_in_the_second(name: str, cores: set[str]) -> None:
    vit = small(name)
    seen = []
    for _ in range(2):
        starts = {key: parameter.detach().clone() for key, parameter in trainable(vit).items()}
        take_steps(vit, 1)
        seen.append({key.split(".")[-1] for key, parameter in trainable(vit).items() if not torch.equal(parameter, starts[key])})
    assert seen == [{"v"}, {"u", "v"} | cores]


def test_what_layers_share_is_stored_once() -> None:
    vit = small("fact")
    stored = [name for name in vit.state_dict() if name not in frozen().state_dict()]
    assert sorted(stored) == ["fact.sigma", "fact.u", "fact.v"]


def test_layers_that_are_no_multiple_of_the_block_width_are_refused() -> None:
    method, _ = configured("fact")
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=D, depth=1, num_heads=4, mlp_ratio=3.5, num_classes=0)
    with pytest.raises(ConfigError, match=r"squares of the block width 32; fc1 of this backbone is 112 x 32"):
        method.adapt(vit)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be an int >= 1, got 0"):
        FacTConfig(rank=0)
