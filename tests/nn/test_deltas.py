"""LoRA and adapters: the forms of the papers, written out by hand, and their parameter counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.backbones.backbone import share
from petlbench.config.resolve import load_method
from petlbench.nn import LINEARS, PLACES, Delta, TunedLinear, attach, merge, widths
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near

D, S = 32, 0.7
TOKENS = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def fresh_vit() -> Any:
    return share(tiny_backbone().vit).eval()


def adapted(method: str, **settings: Any) -> Any:
    plugin, _ = load_method(method)
    vit = fresh_vit()
    plugin(plugin.Config(**settings)).adapt(vit)  # type: ignore[attr-defined]
    return vit


def filled(delta: Delta, seed: int = 2) -> Delta:
    """Fill every weight with random values, also where training starts from zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in delta.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return delta


def by_hand(delta: Delta, z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute s * (U act(V z + c1) + c2)."""
    hidden = activation(z @ delta.down.weight.T + delta.down.bias)
    return delta.scale * (hidden @ delta.up.weight.T + delta.up.bias)


def quick_gelu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-1.702 * z))


def adapter(activation: str = "gelu", scale: float = S) -> Delta:
    return filled(Delta(D, D, 4, activation=activation, bias=True, scale=scale))


@pytest.mark.parametrize(("name", "function"), [("gelu", F.gelu), ("quick_gelu", quick_gelu), ("relu", F.relu)])
def test_an_adapter_computes_its_formula(name: str, function: Callable[[Tensor], Tensor]) -> None:
    delta = adapter(name)
    assert_near(delta(TOKENS), by_hand(delta, TOKENS, function))


def test_pfeiffers_adapter_stands_behind_the_mlp_inside_the_residual() -> None:
    block, delta = fresh_vit().blocks[0], adapter("quick_gelu")
    attach(block, "mlp_branch", delta, "after")
    t = TOKENS + block.attn(block.norm1(TOKENS))
    branch = block.mlp(block.norm2(t))
    assert_near(block(TOKENS), t + branch + by_hand(delta, branch, quick_gelu))


def test_houlsbys_adapters_stand_behind_both_modules_before_the_residual() -> None:
    block, first, second = fresh_vit().blocks[0], adapter(), filled(adapter(), seed=3)
    attention, mlp = block.attn(block.norm1(TOKENS)), lambda t: share(block.mlp)(block.norm2(t))  # the frozen parts, without hooks
    t = TOKENS + attention + by_hand(first, attention, F.gelu)
    expected = t + mlp(t) + by_hand(second, mlp(t), F.gelu)
    attach(block, "attn", first, "after")
    attach(block, "mlp", second, "after")
    assert_near(block(TOKENS), expected)


def test_adaptformer_reads_the_blocks_state_before_the_norm() -> None:
    block, delta = fresh_vit().blocks[0], adapter("relu")
    attach(block, "mlp_branch", delta, "beside")
    t = TOKENS + block.attn(block.norm1(TOKENS))
    assert_near(block(TOKENS), t + block.mlp(block.norm2(t)) + by_hand(delta, t, F.relu))


def test_an_adapter_beside_the_attention_branch_reads_the_blocks_input() -> None:
    block, delta = fresh_vit().blocks[0], adapter("relu")
    attach(block, "attn_branch", delta, "beside")
    t = TOKENS + block.attn(block.norm1(TOKENS)) + by_hand(delta, TOKENS, F.relu)
    assert_near(block(TOKENS), t + block.mlp(block.norm2(t)))


@pytest.mark.parametrize("place", ["proj", "fc1", "fc2"])
@pytest.mark.parametrize("position", ["beside", "after"])
def test_a_delta_at_a_linear_reads_its_input_or_its_output(place: str, position: Any) -> None:
    block = fresh_vit().blocks[0]
    path = "attn.proj" if place == "proj" else f"mlp.{place}"
    frozen = block.get_submodule(path)
    width_in, width_out = widths(block, place)
    x = torch.randn(2, 5, width_in)
    y = F.linear(x, frozen.weight, frozen.bias)
    delta = filled(Delta(width_in if position == "beside" else width_out, width_out, 4))
    attach(block, place, delta, position)
    assert_near(block.get_submodule(path)(x), y + delta(x if position == "beside" else y))


@pytest.mark.parametrize(("place", "third"), [("q", 0), ("k", 1), ("v", 2)])
@pytest.mark.parametrize("position", ["beside", "after"])
def test_a_delta_at_q_k_or_v_changes_its_third_of_the_fused_output_only(place: str, third: int, position: Any) -> None:
    block = fresh_vit().blocks[0]
    thirds = list(F.linear(TOKENS, block.attn.qkv.weight, block.attn.qkv.bias).split(D, dim=-1))
    delta = filled(Delta(D, D, 4))
    attach(block, place, delta, position)
    thirds[third] = thirds[third] + delta(TOKENS if position == "beside" else thirds[third])
    assert_near(block.attn.qkv(TOKENS), torch.cat(thirds, dim=-1))


@pytest.mark.parametrize("scale", [1.0, S])
@pytest.mark.parametrize("place", LINEARS)
def test_a_merged_network_gives_the_same_answers_and_is_a_plain_one(place: str, scale: float) -> None:
    vit = fresh_vit()
    for block in vit.blocks:
        attach(block, place, filled(Delta(*widths(block, place), 4, scale=scale)))
    before = vit(IMAGES)
    merge(vit)
    assert_near(vit(IMAGES), before)
    assert {type(module) for module in vit.modules()}.isdisjoint({TunedLinear, Delta})
    assert not torch.equal(before, fresh_vit()(IMAGES))


@pytest.mark.parametrize("options", [{"activation": "gelu"}, {"bias": True}])
def test_what_is_not_linear_cannot_be_merged(options: dict[str, Any]) -> None:
    vit = fresh_vit()
    attach(vit.blocks[0], "fc1", Delta(D, 4 * D, 4, **options))
    with pytest.raises(ValueError, match="cannot be merged"):
        merge(vit)
    assert isinstance(vit.blocks[0].mlp.fc1, TunedLinear)


METHODS = [("lora", {}), ("lora", {"targets": LINEARS}), ("adapter", {}), ("adapter", {"after": ("attn", "mlp"), "train_norms": True})]
METHODS += [("adapter", {"after": (), "beside": ("mlp_branch",), "scale": 0.1}), ("adapter", {"after": ("q", "fc1"), "beside": ("proj",)})]


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_training_starts_from_the_frozen_model(method: str, settings: dict[str, Any]) -> None:
    assert torch.equal(adapted(method, **settings)(IMAGES), tiny_backbone().vit(IMAGES))


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_up_moves_in_the_first_step_and_down_in_the_second(method: str, settings: dict[str, Any]) -> None:
    """With both projections at zero, as in one released baseline, nothing but a bias would ever learn."""
    vit = adapted(method, **settings).double()  # the first moves of a query adapter are too small for fp32
    trained = [parameter for parameter in vit.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    deltas = [module for module in vit.modules() if isinstance(module, Delta)]
    starts = [(delta.down.weight.clone(), delta.up.weight.clone()) for delta in deltas]
    moved, direction = [], torch.randn(2, D, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        optimizer.zero_grad()
        (vit(IMAGES.double()) * direction).sum().backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
        moved.append(
            [(not torch.equal(d.down.weight, a), not torch.equal(d.up.weight, b)) for d, (a, b) in zip(deltas, starts, strict=True)]
        )
    assert set(moved[0]) == {(False, True)}
    assert set(moved[1]) == {(True, True)}


def test_down_starts_kaiming_uniform() -> None:
    weight = Delta(1000, 10, 8).down.weight
    assert 0.95 / math.sqrt(1000) < weight.abs().max() <= 1 / math.sqrt(1000)


@pytest.mark.parametrize("which", ["input_dropout", "hidden_dropout"])
def test_dropout_acts_where_it_is_asked_for_and_in_training_only(which: str) -> None:
    delta = filled(Delta(6, 7, 5, **{which: 0.5}))
    nn.init.eye_(delta.down.weight)
    seen: list[Tensor] = []
    (delta.up if which == "hidden_dropout" else delta.down).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for mode in (True, False):
        delta.train(mode)
        delta(torch.ones(50, 6))
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert seen[1].unique().tolist() == [1.0]


def test_a_place_that_is_taken_or_unknown_is_refused() -> None:
    block = fresh_vit().blocks[0]
    attach(block, "q", Delta(D, D, 4))
    with pytest.raises(ValueError, match="taken already"):
        attach(block, "q", Delta(D, D, 4))
    with pytest.raises(ValueError, match="known places are " + ", ".join(PLACES)):
        attach(block, "out_proj", Delta(D, D, 4))
