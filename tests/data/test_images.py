"""Decode image files of every kind found in real datasets, with the same result as Pillow's own conversion."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from petlbench.data.images import decode_bytes, read_bytes
from petlbench.errors import DataError


def decoded(path: Path) -> NDArray[np.uint8]:
    return decode_bytes(read_bytes(path), str(path))


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8))


MODES = {"png": ["1", "L", "LA", "P", "RGBA"], "tif": ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"], "jpg": ["L", "CMYK", "YCbCr"]}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_every_mode_gives_the_pixels_of_pillows_conversion(tmp_path: Path, picture: Image.Image, suffix: str, mode: str) -> None:
    path = tmp_path / f"image.{suffix}"
    picture.convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decoded(path), expected)


def test_transparent_palette_entries_keep_their_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "image.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(tmp_path / "image.png").tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_the_exif_orientation_is_not_applied(tmp_path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    assert np.array_equal(decoded(tmp_path / "turned.jpg"), decoded(tmp_path / "plain.jpg"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_values_are_scaled_instead_of_cut_off(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)).save(path)
    assert decoded(path)[0].tolist() == [[value] * 3 for value in (0, 0, 1, 128, 255)]


def test_a_suffix_that_lies_does_no_harm(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.jpg")
    assert np.array_equal(decoded(tmp_path / "named.jpg"), np.asarray(picture))


def test_values_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 1200.5]], dtype=np.float32)).save(tmp_path / "heights.tif")
    with pytest.raises(DataError, match=r"heights\.tif: not a readable image \(its 32-bit values run from 0\.0 to 1200\.5"):
        decoded(tmp_path / "heights.tif")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg: cannot be read \(No such file or directory\)"):
        decoded(tmp_path / "absent.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it has 0 bytes"), (b"<html>404 Not Found</html>", "it begins with b'<html>404 No'")],
    ids=["empty", "a web page"],
)
def test_what_is_no_image_says_what_it_holds(content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_bytes(content, "cat.jpg")
    assert str(caught.value) == f"cat.jpg: not a readable image ({reason}); replace it from the source, or remove it"


@given(st.binary(max_size=40), st.integers(0, 120), st.sampled_from(["png", "jpg", "bmp", "webp"]))
def test_a_cut_off_or_damaged_file_gives_an_image_or_an_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, place: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"image.{kind}"
    Image.fromarray(np.random.default_rng(place).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for damaged in (content[:place], content[:place] + junk + content[place + len(junk) :]):
        try:
            assert decode_bytes(damaged, str(path)).ndim == 3
        except DataError as error:
            assert str(path) in str(error)
