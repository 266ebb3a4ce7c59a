"""Patches of pixels beside an image: the tokens that the patch embedding makes of them, at the rungs below GRADIENTS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.access.endpoint import CallLimits, Card, Endpoint, Output, as_scores, restrict
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.errors import AccessError
from petlbench.testing.mocks import tiny_backbone
from tests.asking import CPU, granted, images
from tests.near import assert_near


def patches(images: int = 2, count: int = 3) -> Tensor:
    return torch.randn(images, count, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def patches_of_images(images: Tensor) -> Tensor:
    """The four patches (B, 4, 3, 8, 8) that images of 16 pixels consist of."""
    return images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def test_patches_of_an_image_become_the_tokens_that_it_consists_of() -> None:
    backbone = tiny_backbone()
    with torch.no_grad():
        expected = backbone.vit.patch_embed(images())  # type: ignore[operator]
        assert_near(backbone.embed_patches(patches_of_images(images())), expected)


@pytest.mark.parametrize("rung", [Access.SCORES, Access.CONTEXT])
def test_scores_are_those_of_the_tokens_that_patches_become(rung: Access) -> None:
    backbone = tiny_backbone()
    with granted(Access.GRADIENTS, backbone) as model, torch.no_grad():
        expected = model.scores(images(), backbone.embed_patches(patches()))
        plain = model.scores(images())
    with granted(rung, backbone) as model:
        found = model.scores(images(), patches=patches())
    assert_near(found, expected)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_features_are_those_of_the_tokens_that_patches_become() -> None:
    backbone = tiny_backbone()
    with granted(Access.GRADIENTS, backbone) as model, torch.no_grad():
        expected = model.features(images(), backbone.embed_patches(patches()))
    with granted(Access.FEATURES, backbone) as model:
        assert_near(model.features(images(), patches=patches()), expected)


@pytest.mark.parametrize("output", Output)
def test_patches_get_no_more_out_of_a_model_than_its_output_allows(output: Output) -> None:
    with granted(Access.SCORES) as model:
        whole = model.scores(images(), patches=patches())
    with granted(Access.SCORES, answers=QueryConfig(output=output.value, top_k=2)) as model:  # type: ignore[arg-type]
        assert_near(model.scores(images(), patches=patches()), as_scores(restrict(whole, output, 2), 3))


def test_an_answer_about_patches_carries_no_graph() -> None:
    with granted(Access.SCORES) as model:
        assert not model.scores(images().requires_grad_(True), patches=patches().requires_grad_(True)).requires_grad


@pytest.mark.parametrize("verb", ["scores", "features"])
def test_every_image_keeps_its_own_patches_in_calls_of_any_size(verb: str) -> None:
    found = []
    for batch in (2, 256):
        meter = Meter()
        rung = Access.SCORES if verb == "scores" else Access.FEATURES
        with granted(rung, meter=meter, answers=QueryConfig(batch=batch)) as model:
            before = meter.counts["train"]["bytes"]
            found.append(getattr(model, verb)(images(5), patches=patches(5)))
        assert meter.counts["train"]["bytes"] - before == 4 * 5 * (3 * 16 * 16 + 3 * 3 * 8 * 8)
        assert (meter.counts["train"]["calls"], meter.counts["train"]["images"]) == (-(-5 // batch), 5)
        assert meter.seen is rung
    assert_near(*found)


class _Small:
    """An endpoint that limits the bytes and the patches of a call."""

    def __init__(self, endpoint: Endpoint, max_bytes: int, max_patches: int) -> None:
        self._endpoint = endpoint
        self.facts = replace(endpoint.facts, limits=CallLimits(max_bytes=max_bytes, max_patches=max_patches))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._endpoint, name)


class _Limited(Backbone):
    max_bytes, max_patches = 0, 0

    def endpoint(self, device: torch.device, number_format: str = "fp32") -> Endpoint:
        return _Small(super().endpoint(device, number_format), self.max_bytes, self.max_patches)  # type: ignore[return-value]


@pytest.mark.parametrize(("room", "calls"), [(2, 3), (5, 1), (0, 5)])
def test_a_call_holds_as_many_images_as_fit_with_their_patches_and_one_at_least(room: int, calls: int) -> None:
    tiny, meter = tiny_backbone(), Meter()
    backbone = _Limited(tiny.card, tiny.vit, tiny.projection, tiny.text, tiny.logit_scale)
    backbone.max_bytes, backbone.max_patches = 4 * room * (3 * 16 * 16 + 3 * 3 * 8 * 8) + 1, 3
    with granted(Access.SCORES, backbone, meter) as model:
        model.scores(images(5), patches=patches(5))
        assert meter.counts["train"]["calls"] == calls
        with pytest.raises(AccessError, match="tiny takes at most 3 patches per image, got 4"):
            model.scores(images(5), patches=patches(5, 4))
    assert meter.counts["train"]["images"] == 5


def test_patches_are_not_for_gradients() -> None:
    with granted(Access.GRADIENTS) as model, pytest.raises(AccessError, match="below GRADIENTS, which takes tokens"):
        model.features(images(), patches=patches())


def test_patches_beside_tokens_are_refused_and_not_left_out() -> None:
    with granted(Access.GRADIENTS) as model, pytest.raises(AccessError, match="below GRADIENTS, which takes tokens"):
        model.features(images(), torch.zeros(2, 1, 32), patches())


@pytest.mark.parametrize("shape", [(2, 3, 3, 8), (2, 3, 3, 4, 4), (1, 3, 3, 8, 8), (2, 3, 1, 8, 8)])
def test_patches_of_another_shape_are_refused_before_they_are_paid(shape: tuple[int, ...]) -> None:
    meter = Meter()
    with granted(Access.SCORES, meter=meter) as model:
        assert model.patch_size == 8
        with pytest.raises(ValueError, match=r"patches must have shape \(2, K, 3, 8, 8\), got"):
            model.scores(images(), patches=torch.zeros(shape))
    assert meter.counts["train"]["calls"] == 0


def tower(**options: Any) -> VisionTransformer:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4, "num_classes": 0, "global_pool": "token"}
    return VisionTransformer(**{**sizes, **options})


TOWERS = {
    "mean": tower(global_pool="avg"),
    "oblong": tower(patch_size=(8, 16)),
    "other": nn.Sequential(nn.Flatten(), nn.Linear(768, 32)),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_that_makes_no_single_tokens_of_square_patches_takes_none(kind: str) -> None:
    half = (0.5, 0.5, 0.5)
    backbone = Backbone(Card("tower", 16, half, half, source="random"), TOWERS[kind], feature_width=32)
    assert backbone.endpoint(CPU).facts.patch_size is None
    with granted(Access.FEATURES, backbone) as model, pytest.raises(AccessError, match="tower takes no extra patches"):
        model.features(images(), patches=patches())
