"""Cache the output of the frozen blocks below the first one that a method changes: same results as without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.backbones.backbone import share
from petlbench.data.batches import Batches
from petlbench.learners.prefix import Activations, Prefix, Suffix, _tokens_after, fingerprints, untouched_blocks
from petlbench.nn import Delta, Prompts, attach, insert
from petlbench.testing.mocks import SIZE, WIDTH, mock_task, tiny_backbone
from tests.near import assert_near

TASK = mock_task()
CPU = torch.device("cpu")


def vit() -> Any:
    return share(tiny_backbone().vit)


def batches(shuffled: bool = False) -> Batches:
    return Batches(TASK.train, TASK.transform, 8, CPU, torch.Generator().manual_seed(0) if shuffled else None)


def thaw(name: str) -> Callable[[Any], None]:
    return lambda tower: tower.get_parameter(name).requires_grad_(True)


@pytest.mark.parametrize(
    ("expected", "touch"),
    [
        (3, lambda tower: None),
        (3, thaw("norm.weight")),
        (2, thaw("blocks.2.norm1.bias")),
        (1, lambda tower: attach(tower.blocks[1], "q", Delta(WIDTH, WIDTH, 2))),
        (2, lambda tower: tower.blocks[2].mlp.register_forward_hook(lambda *_: None)),
        (0, lambda tower: tower.blocks[0].attn.proj.register_forward_pre_hook(lambda *_: None)),
        (0, thaw("cls_token")),
        (0, lambda tower: tower.patch_embed.register_forward_hook(lambda *_: None)),
        (0, lambda tower: insert(tower, Prompts(2, WIDTH, 3, 8, deep=False))),
        (0, lambda tower: tower.add_module("shared", nn.Linear(2, 2))),
        (1, lambda tower: setattr(tower.blocks[1], "mlp", nn.Identity())),
        (1, lambda tower: setattr(tower.blocks[1], "forward", lambda x: x)),
    ],
)
def test_blocks_up_to_the_first_change_are_untouched(expected: int, touch: Callable[[Any], Any]) -> None:
    tower = vit()
    before = fingerprints(tower)
    touch(tower)
    assert untouched_blocks(before, fingerprints(tower)) == expected


@pytest.mark.parametrize("start", [1, 2, 3])
def test_the_rest_of_a_model_gives_what_the_whole_model_gives(start: int) -> None:
    tower, head = vit(), nn.Linear(WIDTH, 3)
    kept = Activations(tower, batches(), start, "fp32", limit=2**20)
    rest = Suffix(tower, head, start).eval()
    whole = torch.cat([head(tower(images)) for images, _ in batches().in_order()])
    assert_near(torch.cat([rest(tokens) for tokens, _ in kept]), whole)


@pytest.mark.parametrize("images", [2, 4])
def test_a_tower_without_a_class_token_gives_its_patches(images: int) -> None:
    tower = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0, class_token=False, global_pool="avg"
    )
    seen: list[Tensor] = []
    tower.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inputs = torch.randn(images, 3, 16, 16)
    tower(inputs)
    assert torch.equal(_tokens_after(tower, inputs, 1), seen[0])


def test_activations_come_in_the_order_of_the_batches_that_they_stand_for() -> None:
    kept = Activations(vit(), batches(shuffled=True), 1, "fp32", limit=2**20)
    for _ in range(2):  # passes
        expected = list(batches(shuffled=True))
        for (_, labels), (_, others) in zip(kept, expected, strict=True):
            assert torch.equal(labels, others)
        kept._batches._generator.manual_seed(0)  # type: ignore[union-attr]
    assert len(kept) == len(expected) == 5


def test_every_image_enters_the_frozen_part_once() -> None:
    tower, seen = vit(), []
    tower.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    tower.blocks[2].register_forward_pre_hook(lambda *_: pytest.fail("a block above the frozen part ran"))
    kept = Activations(tower, batches(), 2, "fp32", limit=2**20)
    for _ in range(3):
        list(kept)
    assert sum(seen) == len(TASK.train)


def test_activations_above_the_limit_lie_in_a_file_that_goes_away() -> None:
    tower = vit()
    in_memory, on_disk = (Activations(tower, batches(), 1, "fp32", limit=limit) for limit in (2**20, 0))
    assert (in_memory.is_on_disk, on_disk.is_on_disk) == (False, True)
    for (one, _), (other, _) in zip(in_memory, on_disk, strict=True):
        assert torch.equal(one, other)
    folder = on_disk._file.name  # type: ignore[union-attr]
    del on_disk
    assert not Path(folder).exists()


def test_all_splits_together_keep_to_the_limit() -> None:
    """One split of 36 images x 5 tokens x 32 numbers fits into a budget of one and a half of its size, a second one does not."""
    first, second = batches(), batches()
    prefix = Prefix(vit(), 1, "fp32", 0, (first, second))
    prefix._bytes_left = 3 * 36 * 5 * 32 * 4 // 2
    assert [prefix[first].is_on_disk, prefix[second].is_on_disk] == [False, True]
    assert prefix[first] is prefix[first]


def test_no_gradient_enters_the_frozen_part() -> None:
    tower, head = vit(), nn.Linear(WIDTH, 3)
    tower.blocks[2].requires_grad_(True)
    tokens = torch.randn(2, (SIZE // 8) ** 2 + 1, WIDTH)
    Suffix(tower, head, 2)(tokens).sum().backward()
    reached = {name for name, p in tower.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in tower.named_parameters() if name.startswith("blocks.2.")}


def test_checkpointing_recomputes_blocks_and_changes_no_gradient() -> None:
    gradients: list[Tensor] = []
    passes = []
    for checkpointing in (False, True):
        tower, head = vit(), nn.Linear(WIDTH, 3)
        nn.init.ones_(head.weight)
        tower.blocks[2].requires_grad_(True)
        tower.set_grad_checkpointing(checkpointing)
        calls: list[int] = []
        tower.blocks[1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        Suffix(tower, head, 1).train()(torch.ones(2, (SIZE // 8) ** 2 + 1, WIDTH).requires_grad_()).square().sum().backward()
        gradients.append(tower.blocks[2].attn.qkv.weight.grad)
        passes.append(len(calls))
    assert passes == [1, 2]
    assert_near(*gradients)
