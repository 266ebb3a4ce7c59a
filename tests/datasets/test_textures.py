"""Procedural textures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlbench.datasets.mini import _textures


def first_seeds_of(label: int, count: int) -> list[int]:
    seeds = (seed for seed in range(10_000) if _textures.draw_texture_label(np.random.default_rng(seed)) == label)
    return [next(seeds) for _ in range(count)]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_every_image_has_contrast_and_is_the_same_again(seed: int) -> None:
    image = _textures.render_texture(np.random.default_rng(seed))
    assert image.shape == (64, 64) and image.dtype == np.uint8
    assert int(image.max()) - int(image.min()) > 60
    np.testing.assert_array_equal(image, _textures.render_texture(np.random.default_rng(seed)))


@pytest.mark.parametrize("name", _textures.PATTERNS)
def test_pattern_amounts_lie_between_the_two_grey_levels(name: str) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, y = _textures._pixels()
        amount = _textures.PATTERNS[name](_textures.Waves(x, y, 0.07, 1.0, 2.0, rng))
        assert amount.shape == (64, 64)
        assert amount.min() >= 0 and amount.max() <= 1
        assert np.ptp(amount) > 0.8


@pytest.mark.parametrize("name", ["banded", "chequered", "polka-dotted", "grid", "zigzagged", "sprinkled"])
def test_hard_edged_patterns_have_two_levels_only(name: str) -> None:
    (seed,) = first_seeds_of(list(_textures.PATTERNS).index(name), 1)
    x, y = _textures._pixels()
    assert set(np.unique(_textures.PATTERNS[name](_textures.Waves(x, y, 0.07, 1.0, 2.0, np.random.default_rng(seed))))) == {0.0, 1.0}


@pytest.mark.parametrize("label", [0, 1])
def test_frequencies_stay_where_32_pixels_can_show_them(label: int) -> None:
    for seed in first_seeds_of(label, 12):
        image = _textures.render_texture(np.random.default_rng(seed)).astype(float)
        power = abs(np.fft.fft2(image - image.mean())) ** 2
        row, col = np.unravel_index(power.argmax(), power.shape)
        assert 0.04 < np.hypot(np.fft.fftfreq(64)[row], np.fft.fftfreq(64)[col]) < 0.11


def test_classes_are_equally_likely() -> None:
    labels = [_textures.draw_texture_label(np.random.default_rng([2, 1, i])) for i in range(6000)]
    assert np.bincount(labels, minlength=12) == pytest.approx(500, abs=110)
