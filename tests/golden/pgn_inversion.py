"""Prompt inversion: patches for prompts and for a whole library, with and without positions and bias, what a picture keeps of them, an embedding
that cannot be inverted exactly, and the logits of ``pgn_vit`` from images and patches alone, through the handle below GRADIENTS."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.access.endpoint import Card, ClassTexts
from petlbench.access.handle import grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.nn.inversion import Inversion, Normalisation, invert
from tests.golden.case import Case


def check(case: Case) -> None:
    tensors = case.tensors
    weight, bias, prompts, place = (tensors[name] for name in ("patch_embed.weight", "patch_embed.bias", "prompts", "slot_position"))
    inversion = invert(weight, bias, prompts)
    assert inversion.is_exact == (weight[0].numel() >= len(weight))
    _check(case, "patches", inversion.patches)
    _check(case, "reembedded", _embedded(weight, bias, inversion.patches))
    placed = invert(weight, bias, prompts, place)
    _check(case, "patches_position", placed.patches)
    _check(case, "reembedded_position", _embedded(weight, bias, placed.patches) + place)
    _check(case, "patches_no_bias", invert(weight, None, prompts).patches)
    library = invert(weight, bias, tensors["library"]).patches
    _check(case, "library_patches", library)
    _check(case, "patches", torch.tensordot(tensors["coefficients"], library, dims=1))
    _check_pictures(case, inversion)
    _check_small_patch(case)
    _check_logits(case, Case(case.folder.parent / "pgn_vit"))


def _check_pictures(case: Case, inversion: Inversion) -> None:
    tensors, normalisation = case.tensors, Normalisation(tuple(case.config["pixel_mean"]), tuple(case.config["pixel_std"]))
    _check(case, "raw_pixels", normalisation.raw(inversion.patches))
    _check(case, "fraction_out_of_range", normalisation.outside(inversion.patches).float().mean())
    clipped = _embedded(tensors["patch_embed.weight"], tensors["patch_embed.bias"], normalisation.clipped(inversion.patches))
    _check(case, "reembedded_clipped", clipped)
    sizes = torch.linalg.vector_norm(tensors["prompts"], dim=-1)
    _check(case, "clipping_relative_error", torch.linalg.vector_norm(clipped - tensors["prompts"], dim=-1) / sizes)


def _check_small_patch(case: Case) -> None:
    weight, bias, prompts = (case.tensors[f"small_patch.{name}"] for name in ("weight", "bias", "prompts"))
    inversion = invert(weight, bias, prompts)
    assert inversion.is_exact == (weight[0].numel() >= len(weight))
    _check(case, "small_patch.patches", inversion.patches)
    _check(case, "small_patch.reembedded", _embedded(weight, bias, inversion.patches))
    _check(case, "small_patch.residual", inversion.residual * torch.linalg.vector_norm(prompts, dim=-1))


def _check_logits(case: Case, whole: Case) -> None:
    """Check the logits; ``whole`` is the case with the backbone, the images and the head."""
    sizes, head = whole.config["backbone"], whole.below("head.")
    vit, _ = whole.backbone(sizes, sizes["layer_norm_eps"])
    patches = invert(vit.patch_embed.proj.weight, vit.patch_embed.proj.bias, case.tensors["pgn_vit.prompts_eval"]).patches
    _check(case, "pgn_vit.patches", patches)
    half = (0.5, 0.5, 0.5)  # the card's values are unused
    endpoint = Backbone(Card("golden", sizes["img_size"], half, half, source="golden case"), vit).endpoint(torch.device("cpu"))
    with grant(Access.FEATURES, endpoint, (), ClassTexts(()), Meter(), QueryConfig()) as model:
        features = model.features(whole.tensors["images"], patches=patches)
    _check(case, "pgn_vit.logits_eval", F.linear(features, head["weight"], head["bias"]))


def _embedded(weight: Tensor, bias: Tensor, patches: Tensor) -> Tensor:
    """Embed patches (B, K, 3, P, P) as tokens (B, K, D)."""
    return F.conv2d(patches.flatten(0, 1), weight, bias).flatten(1).unflatten(0, patches.shape[:2])


def _check(case: Case, name: str, value: Tensor) -> None:
    group = case.description["tensors"][f"expected.{name}"]["tolerance_group"]
    case.check(f"expected.{name}", value, **case.description["tolerances"][group])
