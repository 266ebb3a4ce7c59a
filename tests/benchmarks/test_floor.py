"""Floors of training steps, against numbers counted by hand.

The mock backbone: N = 5 tokens of width D = 32, three blocks, patches of 8 x 8 pixels, so that per image
a block's linears are 12 D² 2 N = 122,880 FLOPs, its attention 4 N² D = 3,200 and the patch embedding 2 * 4 * 192 D = 49,152.
The MLP of the last block is computed for one token.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.floor import GradientWatch, Needed, floor_flops, forward_products, own_counts, training_flops
from petlbench import GradientMethod, TrainingData
from petlbench.config.settings import Train
from petlbench.data.batches import Batches
from petlbench.learners import GradientLearner
from petlbench.method import NoConfig
from petlbench.nn import Delta, attach, widths
from petlbench.testing.mocks import mock_task, tiny_backbone

CPU = torch.device("cpu")
QKV, ATTENTION, PROJ, FC = 30_720, 3_200, 10_240, 40_960
BLOCK = QKV + ATTENTION + PROJ + 2 * FC
PATCHES = 49_152
LAST = QKV + ATTENTION + PROJ + 2 * FC // 5
BLOCKS = 2 * BLOCK + LAST
FORWARD = PATCHES + BLOCKS


class Everything(GradientMethod):
    def adapt(self, vit: Any) -> None:
        vit.requires_grad_(True)


class LastBlock(GradientMethod):
    def adapt(self, vit: Any) -> None:
        vit.blocks[2].requires_grad_(True)


class LowRank(GradientMethod):
    def adapt(self, vit: Any) -> None:
        for block in vit.blocks:
            attach(block, "v", Delta(*widths(block, "v"), 2))


class OnlyTheHead(GradientMethod):
    def adapt(self, vit: Any) -> None:
        pass


def step_flops(method: type[GradientMethod], batch: int = 12) -> float:
    """The floor per image, read off an epoch of real training."""
    backbone, task = tiny_backbone(), mock_task()
    products = forward_products(backbone.vit, backbone.card.input_size)
    method.name = method.__name__
    learner = GradientLearner(method(NoConfig()), backbone, task.spec, CPU, "fp32")
    batches = Batches(task.train, task.transform, batch, CPU, torch.Generator().manual_seed(0))
    watch = GradientWatch()
    try:
        learner.fit(TrainingData(batches, batches, Train(epochs=1, warmup_epochs=0), task.spec.class_names, lambda epoch: None))
    finally:
        watch.stop()
    return training_flops(learner.model.vit, products, batch, watch)["step"] / batch


def test_the_products_of_a_forward_pass_are_counted_by_module() -> None:
    products = forward_products(tiny_backbone().vit, 16)
    block = {"attn.qkv": QKV, "attn": ATTENTION, "attn.proj": PROJ, "mlp.fc1": FC, "mlp.fc2": FC}
    expected = {f"blocks.{index}.{name}": flops for index in range(3) for name, flops in block.items()}
    expected |= {"blocks.2.mlp.fc1": FC // 5, "blocks.2.mlp.fc2": FC // 5}
    assert products == {"patch_embed.proj": PATCHES, **expected}


def test_what_a_module_does_itself_is_its_count_less_its_childrens() -> None:
    totals = {"": 17.0, "attn": 10.0, "attn.qkv": 6.0, "attn.proj": 3.0, "mlp": 7.0, "mlp.fc1": 7.0}
    assert own_counts(totals) == {"attn": 1.0, "attn.qkv": 6.0, "attn.proj": 3.0, "mlp.fc1": 7.0}


def test_a_product_is_done_once_forward_and_once_for_each_gradient_that_is_needed() -> None:
    needed = Needed(of_input=frozenset({"b", "c"}), of_weight=frozenset({"c"}))
    assert floor_flops({"a": 1.0, "b": 10.0, "c": 100.0}, needed) == 1 + 20 + 300


@pytest.mark.parametrize(
    ("method", "backward"),
    [
        pytest.param(Everything, 2 * (FORWARD - PATCHES) + PATCHES, id="everything: all gradients but those of the images"),
        pytest.param(LastBlock, 2 * LAST, id="last block: nothing below it"),
        pytest.param(LowRank, (BLOCKS - QKV) + 3 * ATTENTION, id="updates of v: no weight gradients, none of block 0's input"),
        pytest.param(OnlyTheHead, 0, id="head: forward only"),
    ],
)
def test_the_floor_of_a_training_step_has_the_gradients_that_the_method_needs(method: type[GradientMethod], backward: int) -> None:
    assert step_flops(method) == FORWARD + backward
