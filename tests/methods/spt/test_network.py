"""The tuned network of SPT: trained parameters of a selection, places, dropout and initial values of modules, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from petlbench.backbones.backbone import share
from petlbench.methods.spt import SPT, SPTConfig
from petlbench.methods.spt.candidates import candidates
from petlbench.methods.spt.network import TunedNorm
from petlbench.methods.spt.selection import Selection
from petlbench.nn import Delta, merge
from petlbench.testing.mocks import WIDTH, tiny_backbone
from tests.near import assert_near

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MATRICES = {"blocks.0.attn.v.weight", "blocks.0.mlp.fc1.weight", "blocks.1.attn.proj.weight"}
VECTORS = {"blocks.0.attn.k.bias", "blocks.1.norm2.weight", "norm.bias"}
ENTRIES = {"blocks.0.attn.q.weight": [3, 40], "blocks.1.mlp.fc2.bias": [5], "blocks.2.norm1.weight": [1, 2], "blocks.0.attn.v.bias": [7]}


def method(**settings: Any) -> SPT:
    """Make SPT with a selection made by hand."""
    spt = SPT(SPTConfig(**({"rank": 2} | settings)))
    ranked, positions, start = candidates(tiny_backbone().vit), [], 0
    for candidate in ranked:
        positions += [start + at for at in ENTRIES.get(candidate.name, [])]
        start += candidate.size
    structured = torch.tensor([candidate.name in MATRICES | VECTORS for candidate in ranked])
    spt.plan = Selection(tuple(ranked), spt.config.rule(WIDTH), structured, torch.tensor(positions)).state()
    return spt


def tuned(**settings: Any) -> Any:
    vit = share(tiny_backbone().vit)
    method(**settings).adapt(vit)
    return vit.eval()


def trained(vit: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in vit.named_parameters() if p.requires_grad}


def test_exactly_what_was_selected_trains() -> None:
    assert trained(tuned()) == {
        "cls_token": WIDTH,
        "blocks.0.petl.v.down.weight": 2 * WIDTH,
        "blocks.0.petl.v.up.weight": 2 * WIDTH,
        "blocks.0.petl.fc1.down.weight": 2 * WIDTH,
        "blocks.0.petl.fc1.up.weight": 8 * WIDTH,
        "blocks.0.attn.qkv.entries.q": 2,
        "blocks.0.attn.qkv.whole_bias.k": WIDTH,
        "blocks.0.attn.qkv.bias_entries.v": 1,
        "blocks.1.petl.proj.down.weight": 2 * WIDTH,
        "blocks.1.petl.proj.up.weight": 2 * WIDTH,
        "blocks.1.norm2.weight": WIDTH,
        "blocks.1.mlp.fc2.bias_entries.fc2": 1,
        "norm.bias": WIDTH,
    }


@pytest.mark.parametrize("module", ["lora", "adapter"])
def test_what_trains_and_the_kept_entries_of_norms_are_the_total_of_the_sweep(module: str) -> None:
    spt, vit = method(module=module), share(tiny_backbone().vit)
    spt.adapt(vit)
    selection = spt.selection(tiny_backbone().vit)
    assert selection.kept_norm_entries == 2
    assert sum(trained(vit).values()) + selection.kept_norm_entries == selection.total


def test_kept_entries_of_norms_train_only_when_asked_for() -> None:
    vit = tuned(train_norm_entries=True, init="zero_up")
    assert trained(vit)["blocks.2.norm1.entries.weight"] == 2
    assert_near(vit(IMAGES), tiny_backbone().vit(IMAGES))
    norm = vit.blocks[2].norm1
    assert isinstance(norm, TunedNorm)
    nn.init.ones_(norm.entries["weight"])
    x = torch.randn(3, WIDTH)
    plain = nn.LayerNorm(WIDTH, norm.eps)
    plain.weight.data[1:3] += 1
    assert_near(norm(x), plain(x))


@pytest.mark.parametrize("module", ["lora", "adapter"])
def test_zero_up_starts_from_the_frozen_model_and_the_release_does_not(module: str) -> None:
    frozen = tiny_backbone().vit(IMAGES)
    assert_near(tuned(module=module, init="zero_up")(IMAGES), frozen)
    vit = tuned(module=module, init="release")
    assert not torch.allclose(vit(IMAGES), frozen, atol=1e-4)
    deltas = [m for m in vit.modules() if isinstance(m, Delta)]
    weights = torch.cat([p.reshape(-1) for d in deltas for p in (d.down.weight, d.up.weight)])
    assert 0.018 < float(weights.detach().std()) < 0.022
    assert all(d.up.bias is None or not d.up.bias.any() for d in deltas)


@pytest.mark.parametrize(("module", "width"), [("lora", WIDTH), ("adapter", 4 * WIDTH)])
def test_an_adapter_reads_the_output_of_its_linear_and_an_update_its_input(module: str, width: int) -> None:
    assert tuned(module=module).blocks[0].petl["fc1"].down.in_features == width


@pytest.mark.parametrize("module", ["lora", "adapter"])
def test_the_module_at_proj_drops_nothing_of_its_input_and_all_modules_drop_whole_images(module: str) -> None:
    vit = tuned(module=module, dropout=0.3, drop_path=0.2)
    rates = {name.rpartition(".")[2]: (d.input_dropout.p, d.drop_path.drop_prob) for name, d in vit.named_modules() if isinstance(d, Delta)}
    assert rates == {"v": (0.3, 0.2), "fc1": (0.3, 0.2), "proj": (0.0, 0.2)}


def test_weight_decay_acts_on_modules_and_head_and_on_nothing_else() -> None:
    spt, vit = method(), tuned()
    decayed = {name for name, p in vit.named_parameters() if p.requires_grad and spt.decays(f"vit.{name}", p)}
    assert decayed == {name for name in trained(vit) if ".petl." in name}
    assert spt.decays("head.weight", nn.Parameter(torch.zeros(3, 2)))
    assert not spt.decays("head.bias", nn.Parameter(torch.zeros(3)))


def test_a_merged_network_is_plain_and_its_answers_agree() -> None:
    vit = tuned()
    with torch.no_grad():
        for parameter in vit.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = vit(IMAGES)
    merge(vit)
    assert_near(vit(IMAGES), before)
    assert set(vit.state_dict()) == set(tiny_backbone().vit.state_dict())
    with pytest.raises(ValueError, match="cannot be merged"):
        merge(tuned(module="adapter"))
