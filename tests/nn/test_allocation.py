"""Count every trainable scalar once, at the right place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from petlbench import GradientMethod
from petlbench.access.meter import Meter
from petlbench.backbones.backbone import share
from petlbench.config.settings import Train
from petlbench.data.batches import Batches, TrainingData
from petlbench.learners import GradientLearner, open_learner
from petlbench.nn import PLACES, Delta, attach, widths
from petlbench.nn.allocation import OPERATIONS, allocation
from petlbench.registry import METHODS
from petlbench.testing.mocks import mock_task, tiny_backbone

CPU = torch.device("cpu")
D, BLOCKS = 32, 3
TASK = mock_task()


def frozen() -> Any:
    return share(tiny_backbone().vit)


def trainable(vit: nn.Module) -> int:
    return sum(parameter.numel() for parameter in vit.parameters() if parameter.requires_grad)


def nonzero(vit: nn.Module) -> dict[str, int]:
    return {place: count for place, count in allocation(vit).items() if count}


def with_everything() -> Any:
    """Build a model with every kind of parameter: a module at every place of every block, parts, layer scales, prompts."""
    vit = frozen()
    for block in vit.blocks:
        for place in PLACES:
            width_in, width_out = widths(block, place)
            attach(block, place, Delta(width_in, width_out, 2, bias=True))
        block.attn.qkv.sparse = nn.ParameterDict({"k": nn.Parameter(torch.zeros(5))})
        block.ls1 = nn.LayerNorm(D)
        block.invention = nn.Linear(3, 3)
    vit.prompts = nn.ParameterDict({"prompt_input": nn.Parameter(torch.zeros(1, 4, D)), "prompt_deep": nn.Parameter(torch.zeros(2, 4, D))})
    return vit


EVERYTHING = with_everything()
NAMES = [name for name, _ in EVERYTHING.named_parameters()]


@given(st.sets(st.sampled_from(NAMES)))
def test_places_add_up_to_all_that_trains_whatever_it_is(chosen: set[str]) -> None:
    for name, parameter in EVERYTHING.named_parameters():
        parameter.requires_grad_(name in chosen)
    assert sum(allocation(EVERYTHING).values()) == trainable(EVERYTHING)


@pytest.mark.parametrize("method", [name for name in METHODS.names() if issubclass(METHODS.get(name), GradientMethod)])
def test_places_add_up_for_every_method_that_changes_the_network(method: str) -> None:
    plugin = METHODS.get(method)
    recipe = Train(epochs=1, batch_size=12, warmup_epochs=0)
    data = TrainingData(
        Batches(TASK.train, TASK.transform, 12, CPU, torch.Generator().manual_seed(0)),
        Batches(TASK.val, TASK.transform, 64, CPU),
        recipe,
        TASK.spec.class_names,
        lambda epoch: None,
    )
    with open_learner(plugin(plugin.Config()), tiny_backbone(), TASK.spec, CPU, "fp32", Meter()) as learner:
        assert isinstance(learner, GradientLearner)
        learner.prepare(data)
        assert sum(allocation(learner.model.vit).values()) == learner.parameter_counts()[0] > 0


def test_every_operation_of_every_block_is_named_also_when_nothing_trains() -> None:
    assert allocation(frozen()) == {f"{block}.{operation}": 0 for block in range(BLOCKS) for operation in OPERATIONS}


def test_a_thawed_network_is_counted_where_its_weights_are() -> None:
    vit = frozen().requires_grad_(True)
    matrix = D * D + D
    expected = {"q": matrix, "k": matrix, "v": matrix, "proj": matrix, "fc1": 4 * D * D + 4 * D, "fc2": 4 * D * D + D}
    expected |= {"norm1": 2 * D, "norm2": 2 * D}
    patches = D * 3 * 8 * 8 + D + D + 5 * D  # weight and bias, class token, positions
    in_blocks = {f"{block}.{operation}": count for block in range(BLOCKS) for operation, count in expected.items()}
    assert allocation(vit) == {**in_blocks, "embed": patches, "norm": 2 * D}


@pytest.mark.parametrize("place", [place for place in PLACES if place != "qkv"])
def test_an_attached_module_is_counted_where_it_acts(place: str) -> None:
    vit = frozen()
    delta = Delta(*widths(vit.blocks[1], place), 2)
    delta.norm1 = nn.LayerNorm(3)  # what a module calls its own parts does not matter
    attach(vit.blocks[1], place, delta)
    assert nonzero(vit) == {f"1.{place.removesuffix('_branch')}": trainable(delta)}


def test_what_q_k_and_v_share_is_split_evenly_and_the_rest_goes_to_q() -> None:
    vit = frozen()
    attach(vit.blocks[0], "qkv", Delta(D, 3 * D, 1))
    vit.blocks[2].attn.qkv.gain = nn.Parameter(torch.zeros(5))
    down, up = (D, 3 * D)
    assert down % 3 == 2
    shared = {"0.q": down // 3 + 2 + up // 3, "0.k": down // 3 + up // 3, "0.v": down // 3 + up // 3}
    assert nonzero(vit) == {**shared, "2.q": 3, "2.k": 1, "2.v": 1}


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_what_one_part_of_the_fused_layer_trains_is_counted_there(part: str) -> None:
    vit = frozen()
    vit.blocks[2].attn.qkv.entries = nn.ParameterDict({part: nn.Parameter(torch.zeros(7))})
    assert nonzero(vit) == {f"2.{part}": 7}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cls_token", "embed"),
        ("pos_embed", "embed"),
        ("patch_embed.proj.weight", "embed"),
        ("prompts.prompt_input", "embed"),
        ("prompts.prompt_deep", "shared"),
        ("norm.bias", "norm"),
        ("blocks.0.attn.proj.bias", "0.proj"),
        ("blocks.0.ls1.weight", "0.attn"),
        ("blocks.0.invention.weight", "0.other"),
    ],
)
def test_a_parameter_is_counted_at(name: str, place: str) -> None:
    EVERYTHING.requires_grad_(False)
    EVERYTHING.get_parameter(name).requires_grad_(True)
    assert nonzero(EVERYTHING) == {place: EVERYTHING.get_parameter(name).numel()}
