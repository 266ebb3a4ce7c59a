"""List the weights that SPT ranks, and find them in timm's model."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock

from petlbench.errors import ConfigError
from petlbench.methods.spt.candidates import Candidate, candidates, places
from petlbench.testing.mocks import tiny_backbone
from tests.methods.spt.sizes import on_meta, vit_b

IN_BLOCK = [
    *("norm1.weight", "norm1.bias", "attn.q.weight", "attn.q.bias", "attn.k.weight", "attn.k.bias", "attn.v.weight", "attn.v.bias"),
    *(
        "attn.proj.weight",
        "attn.proj.bias",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    ),
]


def test_candidates_come_in_the_order_of_the_released_code() -> None:
    names = [candidate.name for candidate in candidates(on_meta(depth=2))]
    assert names == [f"blocks.{block}.{name}" for block in (0, 1) for name in IN_BLOCK] + ["norm.weight", "norm.bias"]


def test_vit_b_has_all_weights_but_embeddings_and_class_token_as_candidates() -> None:
    assert sum(candidate.size for candidate in vit_b()) == 85_798_656 - 768 * (1 + 197 + 16 * 16 * 3 + 1)


def test_widths_are_those_of_the_modules() -> None:
    shapes = {candidate.name: candidate.shape for candidate in candidates(on_meta(embed_dim=24, mlp_ratio=2.5))}
    assert shapes["blocks.1.mlp.fc1.weight"] == (60, 24)
    assert shapes["blocks.1.mlp.fc2.weight"] == (24, 60)
    assert shapes["blocks.1.attn.k.weight"] == (24, 24)


@pytest.mark.parametrize(("option", "missing"), [("qkv_bias", ["q", "k", "v"]), ("proj_bias", ["proj"])])
def test_a_bias_that_a_block_lacks_is_no_candidate(option: str, missing: list[str]) -> None:
    full, less = ([candidate.name for candidate in candidates(on_meta(**{option: value}))] for value in (True, False))
    biases = {f"{part}.bias" for part in missing}
    lost = set(full) - set(less)
    assert {name.split(".", 3)[3] for name in lost if ".attn." in name} == biases


def test_only_vectors_of_norms_count_as_norms() -> None:
    norms = [candidate.name for candidate in candidates(on_meta(depth=1)) if candidate.is_norm]
    assert norms == [*(f"blocks.0.norm{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")), "norm.weight", "norm.bias"]


def test_size_and_kind_follow_from_the_shape() -> None:
    assert (Candidate("a.weight", (6, 7)).size, Candidate("a.weight", (6, 7)).is_matrix) == (42, True)
    assert (Candidate("a.bias", (6,)).size, Candidate("a.bias", (6,)).is_matrix) == (6, False)


def test_places_cover_every_weight_of_the_parameters_once_and_split_qkv_by_thirds() -> None:
    vit = tiny_backbone().vit
    touched = {name: torch.zeros_like(parameter) for name, parameter in vit.named_parameters()}
    found = places(vit)  # type: ignore[arg-type]
    for candidate in candidates(vit):  # type: ignore[arg-type]
        part = touched[found[candidate.name].parameter][found[candidate.name].rows]
        assert part.shape == candidate.shape
        part += 1
    outside = {name for name, count in touched.items() if not bool((count == 1).all())}
    assert outside == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert found["blocks.2.attn.k.bias"].parameter == "blocks.2.attn.qkv.bias"
    assert found["blocks.2.attn.k.bias"].rows == slice(32, 64)


def test_blocks_of_another_build_are_named() -> None:
    with pytest.raises(ConfigError, match=r"ParallelScalingBlock has no norm1; choose another backbone\.name"):
        candidates(on_meta(block_fn=ParallelScalingBlock))
