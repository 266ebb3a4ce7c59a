"""Prompt inversion: patches whose embedding is the token where that is possible, and as close as possible where it is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from petlbench.nn.inversion import Normalisation, invert
from tests.near import assert_near

SIDES = st.integers(1, 4)
SEEDS = st.integers(0, 2**16)
NORMALISATION = Normalisation((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def embedded(weight: Tensor, bias: Tensor | None, patches: Tensor) -> Tensor:
    """Embed patches (N, 3, P, P) as (N, D) by a convolution, as a vision transformer does."""
    return F.conv2d(patches.double(), weight.double(), None if bias is None else bias.double(), stride=weight.shape[-1]).flatten(1)


OF_THE_TOKEN = "a residual is a share of its token, and is wrong by a share of the token at most"


def relative(found: Tensor, wanted: Tensor) -> Tensor:
    return torch.linalg.vector_norm(found - wanted, dim=-1) / torch.linalg.vector_norm(wanted, dim=-1)


@settings(max_examples=30)
@given(side=SIDES, width=st.integers(1, 60), has_bias=st.booleans(), is_placed=st.booleans(), seed=SEEDS)
def test_a_token_is_met_exactly_wherever_a_patch_has_as_many_values_as_it(
    side: int, width: int, has_bias: bool, is_placed: bool, seed: int
) -> None:
    weight, bias, tokens, place = drawn(seed, (width, 3, side, side), (width,), (4, width), (width,))
    inversion = invert(weight.double(), bias if has_bias else None, tokens.double(), place if is_placed else None)
    found = embedded(weight, bias if has_bias else None, inversion.patches) + (place if is_placed else 0)
    assert inversion.is_exact == (3 * side**2 >= width)
    assert_near(1 + inversion.residual, 1 + relative(found, tokens.double()), 1e-6, OF_THE_TOKEN)
    if inversion.is_exact:
        assert_near(found, tokens.double(), 1e-5, "a matrix that is nearly singular multiplies the roundings of float64")


@settings(max_examples=30)
@given(side=st.integers(1, 3), seed=SEEDS)
def test_no_other_patch_comes_closer(side: int, seed: int) -> None:
    width = 3 * side**2 + 5
    weight, bias, tokens, other = drawn(seed, (width, 3, side, side), (width,), (4, width), (4, 3, side, side))
    inversion = invert(weight, bias, tokens)
    moved = relative(embedded(weight, bias, inversion.patches + 0.1 * other), tokens.double())
    assert not inversion.is_exact
    assert bool((moved >= inversion.residual * (1 - 1e-5)).all())


@settings(max_examples=30)
@given(side=SIDES, seed=SEEDS)
def test_no_other_patch_of_the_same_embedding_is_smaller(side: int, seed: int) -> None:
    """Anything added lies in the null space of the embedding."""
    weight, tokens, other = drawn(seed, (2, 3, side, side), (4, 2), (4, 3, side, side))
    patches = invert(weight, None, tokens).patches.flatten(1)
    matrix = weight.flatten(1)
    unseen = other.flatten(1) - other.flatten(1) @ torch.linalg.pinv(matrix) @ matrix
    assert bool((torch.linalg.vector_norm(patches + unseen, dim=1) >= torch.linalg.vector_norm(patches, dim=1) - 1e-4).all())


@settings(max_examples=30)
@given(side=st.integers(2, 4), width=st.integers(1, 60), seed=SEEDS)
def test_a_mixture_of_patches_is_the_patch_of_the_mixture(side: int, width: int, seed: int) -> None:
    weight, bias, library, logits = drawn(seed, (width, 3, side, side), (width,), (5, width), (7, 5))
    mixing = logits.double().softmax(dim=1)
    mixed = torch.tensordot(mixing, invert(weight, bias, library.double()).patches, dims=1)
    whole = invert(weight, bias, mixing @ library.double()).patches
    assert_near(mixed, whole, 1e-6, "a matrix that is nearly singular multiplies the roundings of float64")


def test_weights_that_do_not_sum_to_one_mix_another_patch() -> None:
    weight, bias, library = drawn(0, (4, 3, 2, 2), (4,), (5, 4))
    mixing = torch.full((1, 5), 0.5)
    mixed = torch.tensordot(mixing, invert(weight, bias, library).patches, dims=1)
    assert float((mixed - invert(weight, bias, mixing @ library).patches).abs().max()) > 0.1


def test_an_embedding_that_loses_a_direction_is_not_exact_however_large_its_patches_are() -> None:
    weight, tokens = drawn(0, (6, 3, 4, 4), (3, 6))
    weight[5] = weight[4]
    inversion = invert(weight, None, tokens)
    assert not inversion.is_exact
    assert float(inversion.residual.min()) > 0.01


def test_the_residual_has_what_rounding_costs_the_large_pixels_of_an_ill_conditioned_embedding() -> None:
    weight, tokens, other = drawn(0, (12, 3, 2, 2), (4, 12), (3, 2, 2))
    weight[11] = weight[10] + 1e-5 * other
    inversion = invert(weight, None, tokens)
    assert inversion.is_exact and float(inversion.patches.abs().max()) > 1e4
    assert float(inversion.residual.max()) > 1e-5
    assert_near(
        1 + inversion.residual.double(), 1 + relative(embedded(weight, None, inversion.patches), tokens.double()), 1e-6, OF_THE_TOKEN
    )


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
def test_patches_and_residuals_are_arranged_like_their_tokens(shape: tuple[int, ...]) -> None:
    weight, tokens = drawn(0, (8, 3, 2, 2), (*shape, 8))
    inversion = invert(weight, None, tokens)
    assert (inversion.patches.shape, inversion.residual.shape) == ((*shape, 3, 2, 2), shape)
    assert inversion.patches.dtype is inversion.residual.dtype is torch.float32


@given(seed=SEEDS)
@settings(max_examples=20)
def test_a_picture_keeps_what_it_can_hold(seed: int) -> None:
    raw = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    patches = (raw - torch.tensor(NORMALISATION.mean).view(3, 1, 1)) / torch.tensor(NORMALISATION.std).view(3, 1, 1)
    assert_near(NORMALISATION.raw(patches), raw)
    assert_near(NORMALISATION.clipped(patches), patches)
    assert float((NORMALISATION.raw(NORMALISATION.rounded(patches)) - raw).abs().max()) < 0.5 / 255 + 1e-6


def test_a_picture_cuts_off_what_it_cannot_hold() -> None:
    patches = torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    for kept in (NORMALISATION.clipped(patches), NORMALISATION.rounded(patches)):
        assert_near(NORMALISATION.raw(kept), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2))
