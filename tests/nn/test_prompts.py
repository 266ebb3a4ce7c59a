"""Prompt tokens: position, initial values, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench.backbones.backbone import share
from petlbench.nn import Prompts, insert
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near

D, DEPTH, P = 32, 3, 2
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def prompted(**options: Any) -> tuple[Any, Prompts]:
    vit = share(tiny_backbone().vit).eval()
    prompts = Prompts(P, D, DEPTH, 8, **({"deep": True} | options)).eval()
    insert(vit, prompts)
    return vit, prompts


def inputs_of_blocks(vit: Any) -> list[Tensor]:
    """Return the input (B, N, D) of each block."""
    seen: list[Tensor] = []
    for block in vit.blocks:
        block.norm1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    vit(IMAGES)
    return seen


def test_prompts_stand_between_the_class_token_and_the_patches() -> None:
    plain = share(tiny_backbone().vit).eval()
    tokens = inputs_of_blocks(plain)[0]
    vit, prompts = prompted()
    found = inputs_of_blocks(vit)[0]
    assert torch.equal(found[:, :1], tokens[:, :1])
    assert torch.equal(found[:, 1 : 1 + P], prompts.prompt_input.expand(3, -1, -1))
    assert torch.equal(found[:, 1 + P :], tokens[:, 1:])


def test_deep_prompts_replace_the_outputs_at_their_places() -> None:
    vit, prompts = prompted()
    assert prompts.prompt_deep is not None
    for index, found in enumerate(inputs_of_blocks(vit)[1:]):
        assert found.shape[1] == 1 + P + 4
        assert torch.equal(found[:, 1 : 1 + P], prompts.prompt_deep[index].expand(3, -1, -1))


def test_shallow_prompts_are_carried_on_and_not_inserted_again() -> None:
    vit, prompts = prompted(deep=False)
    later = inputs_of_blocks(vit)[1:]
    assert prompts.prompt_deep is None
    assert {found.shape[1] for found in later} == {1 + P + 4}
    assert not torch.equal(later[0][0, 1 : 1 + P], later[0][1, 1 : 1 + P]), "outputs at prompts differ between images"


def test_the_class_token_is_what_leaves_the_tower() -> None:
    vit, _ = prompted()
    tokens = vit.forward_features(IMAGES)
    assert torch.equal(vit(IMAGES), tokens[:, 0])


def test_a_projection_maps_every_prompt() -> None:
    vit, prompts = prompted(project_from=5)
    assert prompts.prompt_input.shape == (1, P, 5)
    assert isinstance(prompts.prompt_proj, nn.Linear)
    expected = prompts.prompt_input[0] @ prompts.prompt_proj.weight.T + prompts.prompt_proj.bias
    assert_near(inputs_of_blocks(vit)[0][0, 1 : 1 + P], expected)


def test_every_image_of_a_batch_has_a_dropout_mask_of_its_own() -> None:
    _, prompts = prompted(dropout=0.5)
    tokens = prompts.train().tokens(0, torch.zeros(8, 5, D))
    masks = (tokens == 0).flatten(1)
    assert not torch.equal(masks[0], masks[1])
    kept = tokens[~(tokens == 0)]
    assert_near(kept, 2 * prompts.prompt_input.expand(8, -1, -1)[~(tokens == 0)])


def test_nothing_is_dropped_in_evaluation() -> None:
    _, prompts = prompted(dropout=0.5)
    assert torch.equal(prompts.tokens(1, torch.zeros(8, 5, D))[3], prompts.prompt_deep[0])  # type: ignore[index]


@pytest.mark.parametrize(("project_from", "bound"), [(None, (6 / (3 * 16**2 + 768)) ** 0.5), (50, (6 / (3 * 16**2 + 50)) ** 0.5)])
def test_prompts_start_uniform_within_xaviers_bound(project_from: int | None, bound: float) -> None:
    prompts = Prompts(50, 768, 4, 16, deep=True, project_from=project_from)
    for parameter in (prompts.prompt_input, prompts.prompt_deep):
        assert parameter is not None
        assert 0.97 * bound < parameter.abs().max() <= bound
        assert abs(parameter.mean()) < 0.05 * bound


def test_every_prompt_gets_a_gradient() -> None:
    vit, prompts = prompted(project_from=5)
    vit(IMAGES).square().sum().backward()
    for parameter in prompts.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
