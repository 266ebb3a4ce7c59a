"""Colour operations on batches have the bytes of Pillow and of torchvision on Pillow images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as reference

from petlbench.data import colour

Step = Callable[[Tensor, Tensor], Tensor]


def images(seed: int, count: int = 3) -> Tensor:
    """Noise, of which the first image is dark, so that its hues and saturations are rough."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 13, 9, 3), dtype=np.uint8)
    pixels[0] //= 32
    return torch.from_numpy(pixels)


def expected(batch: Tensor, factors: Tensor, step: Callable[[Image.Image, float], Image.Image]) -> Tensor:
    results = [step(Image.fromarray(image.numpy()), float(factor)) for image, factor in zip(batch, factors, strict=True)]
    return torch.from_numpy(np.stack([np.asarray(result) for result in results]))


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (colour.brightness, reference.adjust_brightness),
        (colour.contrast, reference.adjust_contrast),
        (colour.saturation, reference.adjust_saturation),
    ],
)
@given(seed=st.integers(0, 2**32), factors=st.lists(st.floats(0, 3, width=32), min_size=3, max_size=3))
def test_blends_are_those_of_image_enhance(step: Step, wanted: Callable[..., Image.Image], seed: int, factors: list[float]) -> None:
    batch, chosen = images(seed), torch.tensor(factors)
    assert torch.equal(step(batch, chosen), expected(batch, chosen, wanted))


@given(st.integers(0, 2**32), st.lists(st.floats(-0.5, 0.5, width=32), min_size=3, max_size=3))
def test_hue_turns_as_in_torchvision(seed: int, factors: list[float]) -> None:
    batch, chosen = images(seed), torch.tensor(factors)
    assert torch.equal(colour.hue(batch, chosen), expected(batch, chosen, reference.adjust_hue))


@pytest.mark.slow
def test_hue_is_exact_for_every_colour() -> None:
    green, blue = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    for red in range(256):
        batch = torch.stack([torch.full_like(green, red), green, blue], -1).to(torch.uint8)[None]
        chosen = torch.tensor([red / 256 - 0.5])
        assert torch.equal(colour.hue(batch, chosen), expected(batch, chosen, reference.adjust_hue))


@given(st.integers(0, 2**32))
def test_greyscale_is_pillows_luminance(seed: int) -> None:
    batch = images(seed)
    assert torch.equal(colour.greyscale(batch)[..., 0], expected(batch, torch.zeros(3), lambda image, _: image.convert("L")))


def test_half_a_grey_level_is_rounded_up_as_pillow_rounds_it() -> None:
    batch = torch.tensor([[[[0, 52, 184], [255, 203, 71]]]], dtype=torch.uint8)  # luminances of 51.5 and 203.5
    assert torch.equal(colour.greyscale(batch)[..., 0], expected(batch, torch.zeros(1), lambda image, _: image.convert("L")))


@given(st.integers(0, 256))
def test_solarize_inverts_from_the_threshold_on(threshold: int) -> None:
    batch = images(0)
    wanted = expected(batch, torch.zeros(3), lambda image, _: reference.solarize(image, threshold))
    assert torch.equal(colour.solarize(batch, threshold), wanted)
