"""Every preset's transform has the bytes of torchvision's transforms on Pillow images, given the same chance."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, RandomCrop, RandomResizedCrop, Resize, ToTensor
from torchvision.transforms import functional as reference

from petlbench.config import augment as augmentation
from petlbench.config.augment import Interpolation
from petlbench.data.transforms import Draws, Form, Pixels, Transform, crop_offsets, random_resized_box, resized

MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR, "nearest": InterpolationMode.NEAREST}
SIDE = st.integers(1, 150)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


@hypothesis_settings(max_examples=200)
@given(SIDE, SIDE, st.integers(1, 64), st.integers(0, 20), st.sampled_from(["squash", "short"]), st.sampled_from(sorted(MODES)))
def test_a_form_is_resize_and_centre_crop(height: int, width: int, cut: int, margin: int, mode: str, interpolation: str) -> None:
    image, size = noise(height, width), cut + margin
    resize = Resize((size, size) if mode == "squash" else size, MODES[interpolation])
    expected = np.asarray(Compose([resize, CenterCrop(cut)])(Image.fromarray(image)))
    form = Form(mode, size, interpolation, cut)  # type: ignore[arg-type]
    assert np.array_equal(form(image), expected)


@given(SIDE, SIDE, st.integers(1, 64), st.integers(0, 20), st.sampled_from(get_args(Interpolation)))
def test_what_is_stored_for_crops_is_cut_at_the_same_centre(height: int, width: int, cut: int, margin: int, by: Interpolation) -> None:
    image = noise(height, width)
    whole, evaluated = Form("short", cut + margin, by), Form("short", cut + margin, by, cut)
    assert np.array_equal(evaluated(whole(image)), evaluated(image))


@pytest.mark.parametrize(("height", "width"), [(45, 20), (20, 45), (321, 214), (214, 321), (330, 220), (220, 330)])
def test_the_longer_side_is_rounded_as_torchvision_rounds_it(height: int, width: int) -> None:
    """Sides where long * (size / short) in floating point falls just short of the whole number size * long / short."""
    image = noise(height, width)
    expected = np.asarray(Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])(Image.fromarray(image)))
    assert np.array_equal(Form("short", 224, "bicubic", 224)(image), expected)


@given(SIDE, SIDE, st.integers(1, 64), st.integers(1, 64))
def test_without_antialiasing_resizing_is_torchvisions_of_tensors(height: int, width: int, to_height: int, to_width: int) -> None:
    image = noise(height, width)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = reference.resize(tensor, [to_height, to_width], InterpolationMode.BILINEAR, antialias=False).permute(1, 2, 0).numpy()
    assert np.array_equal(resized(image, to_height, to_width, "bilinear_aliased"), expected)


def test_without_antialiasing_resizing_is_tensorflows() -> None:
    """Values by hand: half-pixel centres, two neighbours, edges repeated."""
    column = np.array([0, 80, 200], dtype=np.uint8)
    image = np.repeat(np.repeat(column[:, None, None], 2, 1), 3, 2)
    assert resized(image, 6, 2, "bilinear_aliased")[:, 0, 0].tolist() == [0, 20, 60, 110, 170, 200]
    assert resized(image, 1, 2, "bilinear_aliased")[:, 0, 0].tolist() == [80]


@given(SIDE, SIDE, st.integers(0, 2**62), st.floats(0.02, 1), st.floats(0.2, 1))
def test_a_random_window_is_the_one_that_torchvision_draws(height: int, width: int, seed: int, low: float, narrow: float) -> None:
    window = augmentation.RandomResizedCrop(low, 1.0, narrow, 1 / narrow)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = RandomResizedCrop.get_params(Image.fromarray(noise(height, width)), [low, 1.0], [narrow, 1 / narrow])
    assert random_resized_box(window, seed, height, width) == expected


def test_a_random_window_is_sought_as_often_as_torchvision_seeks_it() -> None:
    window, image = augmentation.RandomResizedCrop(0.5), Image.fromarray(noise(20, 50))
    for seed in range(300):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3])
        assert random_resized_box(window, seed, 20, 50) == expected


@pytest.mark.parametrize(("height", "width"), [(10, 150), (150, 10), (40, 41)])
def test_where_no_window_fits_the_centre_is_taken_as_torchvision_takes_it(height: int, width: int) -> None:
    window = augmentation.RandomResizedCrop(1.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = RandomResizedCrop.get_params(Image.fromarray(noise(height, width)), [1.0, 1.0], [3 / 4, 4 / 3])
    assert random_resized_box(window, 3, height, width) == expected


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 2**62))
def test_a_resized_window_has_the_bytes_of_resized_crop(height: int, width: int, seed: int) -> None:
    transform = Transform(Form("short", 8, cut=8), *CLIP, "random_resized_crop(0.2)")
    image = noise(height, width)
    box = random_resized_box(augmentation.RandomResizedCrop(0.2), seed, height, width)
    expected = reference.resized_crop(Image.fromarray(image), *box, [8, 8], InterpolationMode.BICUBIC)
    assert np.array_equal(transform.view(image, torch.tensor(seed)), np.asarray(expected))


def test_random_crops_reach_every_place_of_an_image_that_is_not_square_equally_often() -> None:
    drawn = torch.rand(12_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    offsets = crop_offsets(drawn, torch.tensor([6, 7]), 4)
    places, counts = offsets.unique(dim=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in range(3) for left in range(4)]
    assert counts.min() > 880 and counts.max() < 1120  # 1,000 expected
    with torch.random.fork_rng():
        found = {RandomCrop.get_params(Image.fromarray(noise(6, 7)), (4, 4))[:2] for _ in range(500)}
    assert found == {(top, left) for top, left in places.tolist()}


@given(st.integers(0, 2**32))
def test_operations_follow_one_another_as_in_pgns_preset(seed: int) -> None:
    augment = "random_resized_crop(1.0) + jitter(0.4, 0.4, 0.4, 0.4, 0.8) + greyscale(0.2) + solarize(128, 0.2) + flip + vertical_flip"
    transform = Transform(Form("short", 8, cut=8), *CLIP, augment)
    images = np.stack([noise(8, 8), noise(8, 8) // 2, noise(8, 8)[::-1]])
    draws = transform.draw(3, torch.Generator().manual_seed(seed))
    found = transform.finish(torch.from_numpy(images.copy()), draws)
    expected = torch.stack([_by_torchvision(Image.fromarray(image), draws, row) for row, image in enumerate(images)])
    assert torch.equal(found, expected)


def _by_torchvision(image: Image.Image, draws: Draws, row: int) -> torch.Tensor:
    jitter, grey, inverted, flipped, upside_down = (drawn[row] for drawn in draws.others)
    happens, factors, order = bool(jitter[0]), jitter[1:5].tolist(), jitter[5:].int().tolist()
    steps = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)
    for step in order if happens else ():
        image = steps[step](image, factors[step])
    if grey:
        image = reference.to_grayscale(image, 3)
    if inverted:
        image = reference.solarize(image, 128)
    if flipped:
        image = reference.hflip(image)
    if upside_down:
        image = reference.vflip(image)
    return Compose([ToTensor(), Normalize(*CLIP)])(image)


def test_jitter_draws_its_factors_and_orders_evenly_and_happens_as_often_as_it_says() -> None:
    transform = Transform(Form("short", 8, cut=8), *CLIP, "jitter(0.4, 0.3, 1.5, 0.2, 0.8)")
    drawn = transform.draw(20_000, torch.Generator().manual_seed(0)).others[0]
    assert abs(drawn[:, 0].mean() - 0.8) < 0.01
    assert torch.allclose(drawn[:, 1:5].amin(0), torch.tensor([0.6, 0.7, 0.0, -0.2]), atol=1e-3)
    assert torch.allclose(drawn[:, 1:5].amax(0), torch.tensor([1.4, 1.3, 2.5, 0.2]), atol=1e-3)
    orders, counts = drawn[:, 5:].unique(dim=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 700 and counts.max() < 970  # 833 expected
