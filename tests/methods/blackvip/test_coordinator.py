"""The decoder of BlackVIP: its size, its order, two ways to the same prompt, and what is added to an image."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from petlbench.methods.blackvip.coordinator import Decoder, compose, geometry
from tests.near import assert_near

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize(
    ("input_size", "feature_width", "source_width", "groups", "trigger", "total"),
    [
        (224, 768, None, None, 800, 9920),
        (224, 2048, None, 32, 1088, 10464),
        (224, 768, 784, None, 16, 9136),
        (224, 768, 3136, None, 2368, 11488),
        (32, 128, None, None, 128, 7488),
        (32, 192, None, None, 320, 7680),
        (32, 384, None, None, 640, 8000),
        (32, 768, None, None, 1280, 8896),
    ],
)
def test_the_number_of_learned_scalars(
    input_size: int, feature_width: int, source_width: int | None, groups: int | None, trigger: int, total: int
) -> None:
    decoder = Decoder(feature_width, geometry(input_size, feature_width, source_width, groups))
    assert decoder.p_trigger.numel() == trigger
    assert sum(parameter.numel() for parameter in decoder.parameters()) == total


@pytest.mark.parametrize(
    ("input_size", "grid", "stages"), [(16, 4, 2), (64, 4, 4), (96, 6, 4), (128, 4, 5), (224, 7, 5), (336, 21, 4), (384, 12, 5)]
)
def test_as_many_doublings_as_a_grid_of_four_allows_and_five_at_most(input_size: int, grid: int, stages: int) -> None:
    shape = geometry(input_size, 192)
    assert (shape.grid, shape.stages) == (grid, stages)


@given(st.integers(1, 24).map(lambda n: 16 * n), st.integers(1, 1024))
def test_the_source_holds_the_feature_and_at_least_half_as_much_again(input_size: int, feature_width: int) -> None:
    shape = geometry(input_size, feature_width)
    assert shape.source_width == shape.channels * shape.grid**2 >= 1.5 * feature_width
    assert shape.grid << shape.stages == input_size


def test_the_flat_vector_starts_with_the_trigger_and_goes_by_layers() -> None:
    names = [name for name, _ in Decoder(768, geometry(224, 768)).named_parameters()]
    assert names[:7] == ["p_trigger", "body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight", "body.2.bias", "body.4.weight"]
    assert names[-1] == "body.16.weight"


def test_the_trigger_starts_uniform_between_zero_and_a_tenth() -> None:
    trigger = Decoder(768, geometry(224, 768)).p_trigger
    assert trigger.min() >= 0 and 0.09 < trigger.max() < 0.1 and trigger.mean().item() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("input_size", "feature_width", "images"), [(32, 128, 16), (16, 24, 1), (48, 40, 3), (30, 24, 3), (224, 768, 2)])
@torch.no_grad()
def test_the_fast_way_gives_the_plain_prompts_and_running_statistics(
    input_size: int, feature_width: int, images: int, training: bool
) -> None:
    torch.manual_seed(0)
    fast = Decoder(feature_width, geometry(input_size, feature_width))
    for parameter in fast.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    plain = copy.deepcopy(fast)
    fast.train(training), plain.train(training)
    for _ in range(3):
        features = torch.randn(images, feature_width)
        assert_near(fast(features), plain.plain(features))
    for found, expected in zip(fast.state_dict().values(), plain.state_dict().values(), strict=True):
        assert_near(found, expected)


def test_colours_end_where_the_models_normalisation_puts_black_and_white() -> None:
    """Numbers of the released code."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    prompts = torch.tensor([-100.0, 100.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    darkest, brightest = compose(torch.zeros(2, 3, 4, 4), prompts, 0.5, -mean / std, (1 - mean) / std)
    assert_near(darkest[:, 0, 0], torch.tensor([-1.79226253, -1.75209713, -1.48021977]))
    assert_near(brightest[:, 0, 0], torch.tensor([1.93033625, 2.07488384, 2.14589699]))


def test_a_prompt_counts_as_much_as_its_strength_says() -> None:
    images, prompts = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    bounds = torch.full((3, 1, 1), 10.0)
    assert_near(compose(images, prompts, 0.25, -bounds, bounds), images + 0.25 * prompts)


@pytest.mark.parametrize(
    ("input_size", "source_width", "groups", "message"),
    [
        (31, None, None, "31 px cannot be halved"),
        (6, None, None, "6 px cannot be halved"),
        (32, 100, None, "multiple of 16 above"),
        (32, 128, None, "multiple of 16 above"),
        (32, 48 * 16, None, "16 times a number that divides 64 or is a multiple of it, got 768, 48 times"),
        (32, 96 * 16, None, "16 times a number that divides 64 or is a multiple of it, got 1536, 96 times"),
        (32, 16 * 16, 32, "16 times a number that is a multiple of 32, got 256, 16 times"),
    ],
)
def test_a_decoder_that_cannot_be_built_is_refused(input_size: int, source_width: int | None, groups: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometry(input_size, 128, source_width, groups)
