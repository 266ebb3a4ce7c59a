"""Decode image files of every kind found in real datasets, with the same result as Pillow's own conversion."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from petlbench.data.images import decode_bytes, read_bytes
from petlbench.data.listing import ZipMembers
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


def tiff(values: NDArray[Any], sample_format: int = 1, photometric: int = 1, bits: int | None = None) -> bytes:
    """Write an uncompressed TIFF of the bytes of ``values`` (H, W) or (H, W, C), in their byte order. ``bits``: of a value, when packed."""
    order, channels = (">" if values.dtype.str[0] == ">" else "<"), (values.shape[2] if values.ndim == 3 else 1)
    width, bits = (values.shape[1] if bits is None else values.shape[1] * 8 // bits), bits or 8 * values.itemsize
    shorts = {258: bits, 259: 1, 262: photometric, 277: channels, 339: sample_format}
    places = {258: 134, 339: 134 + 2 * channels} if channels > 1 else {}
    longs = {256: width, 257: values.shape[0], 273: 134 + 4 * channels, 278: values.shape[0], 279: values.nbytes} | places
    entries = b""
    for tag in sorted(shorts | longs):
        count = channels if tag in places else 1
        value = struct.pack(f"{order}I", longs[tag]) if tag in longs else struct.pack(f"{order}HH", shorts[tag], 0)
        entries += struct.pack(f"{order}HHI", tag, 3 if tag in shorts else 4, count) + value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 10) + entries + bytes(4)
    return head + struct.pack(f"{order}{2 * channels}H", *[bits] * channels, *[sample_format] * channels) + values.tobytes()


def png(values: NDArray[Any]) -> bytes:
    """Write a 16-bit PNG of values (H, W) or (H, W, C)."""
    channels = values.shape[2] if values.ndim == 3 else 1

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def frames(kind: str) -> bytes:
    file = io.BytesIO()
    pictures = [Image.fromarray(np.full((2, 4, 3), value, np.uint8)) for value in (10, 100, 200)]
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


DEEP = np.array([[0, 64 * 257, 128 * 257, 65535]], np.uint16)
COLOUR = np.repeat(DEEP[:, :, None], 3, 2)
SHADES = [0, 64, 128, 255]


@pytest.mark.parametrize(
    ("content", "levels"),
    [
        (tiff(DEEP), SHADES),
        (tiff(DEEP.astype(">u2")), SHADES),
        (tiff(COLOUR, photometric=2), SHADES),
        (tiff(COLOUR.astype(">u2"), photometric=2), SHADES),
        (tiff(DEEP, photometric=0), [255, 191, 127, 0]),  # white is zero
        (tiff((DEEP >> 8).astype(np.uint8), photometric=0), [255, 191, 127, 0]),
        (tiff(np.array([[0x00, 0x0F, 0xFF, 0x80, 0x00, 0xFF]], np.uint8), bits=12), [0, 255, 128, 15]),
        (tiff(np.array([SHADES], np.int32), 2), SHADES),
        (tiff(np.array([SHADES], np.int16), 2), SHADES),
        (tiff(np.array([SHADES], np.float32), 3), SHADES),
        (tiff(np.array([SHADES], ">f4"), 3), SHADES),
        (tiff(np.zeros((1, 4), np.float32), 3), [0] * 4),
        (tiff(np.zeros((1, 4), np.uint16)), [0] * 4),
        (png(DEEP), SHADES),
        (png(COLOUR), SHADES),
        (png(np.repeat(DEEP[:, :, None], 4, 2)), SHADES),
        (png(np.repeat(DEEP[:, :, None], 2, 2)), SHADES),
        (b"P5 4 1 65535\n" + DEEP.astype(">u2").tobytes(), SHADES),
        (b"P5 4 1 4095\n" + np.array([0, 1028, 2056, 4095], ">u2").tobytes(), SHADES),
        (b"P5 4 1 4095\n" + np.array([0, 1, 16, 32], ">u2").tobytes(), [0, 0, 1, 2]),  # dark, as the file says
        (frames("GIF"), [10] * 4),
        (frames("TIFF"), [10] * 4),
        (frames("WEBP"), [10] * 4),
        (frames("PNG"), [10] * 4),
    ],
)
def test_grey_levels_are_what_the_format_says(content: bytes, levels: list[int]) -> None:
    assert decode_bytes(content, "image")[0].tolist() == [[level] * 3 for level in levels]


def floats(*values: float) -> bytes:
    return tiff(np.array([values], np.float32), 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (floats(0, 1200.5), "its 32-bit values run from 0.0 to 1200.5"),
        (floats(0, 0.25, 1), "its values are fractions from 0 to 1"),
        (floats(0, 1), "its values are fractions from 0 to 1"),  # black and white, or two shades of black
        (floats(0, 0.001), "its values are fractions"),
        (floats(0, 0.5, 1.0625), "its values are fractions from 0 to 1.0625"),  # resized, so that it is beyond 1 by chance
        (floats(3, 17.5, 250), "its values are fractions"),
        (floats(0, float("nan"), 5), "its 32-bit values run from nan"),
        (floats(0, float("inf")), "its 32-bit values run from 0.0 to inf"),
        (floats(-1, 5), "its 32-bit values run from -1.0"),
        (b"Pf 2 1 -1.0\n" + np.array([0, 1], "<f4").tobytes(), "its values are fractions"),
        (tiff(np.array([[0, 65535]], np.int32), 2), "its 32-bit values run from 0 to 65535"),
        (tiff(np.array([[0, 255, 2**31]], np.uint32)), "its 32-bit values run from -2147483648"),
        (tiff(np.array([[-1, 255]], np.int16), 2), "its 32-bit values run from -1 to 255"),
        (tiff(np.array([[0, 4095]], ">i2"), 2), "its 32-bit values run from 0 to 4095"),
        (tiff(np.array([[-1, 127]], np.int8), 2), "its values are signed"),
        (tiff(DEEP >> 4), "its 16-bit values end at 4,095"),
        (tiff(DEEP >> 8), "its 16-bit values end at 255"),
        (tiff(DEEP >> 2), "its 16-bit values end at 16,383"),
        (tiff(COLOUR >> 4, photometric=2), "its 16-bit values end below 16,384"),
        (png(DEEP >> 4), "its 16-bit values end at 4,095"),
        (png(COLOUR >> 4), "its 16-bit values end below 16,384"),
        (png(COLOUR >> 8), "its 16-bit values end below 16,384"),
    ],
)
def test_values_of_unknown_range_are_refused_and_never_guessed_from_one_image(content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_bytes(content, "heights.tif")
    message = str(caught.value)
    assert message.startswith(f"heights.tif: not a readable image ({reason}") and "\n" not in message
    assert message.endswith("; save it with 8 bits per channel, or remove it")


def test_images_of_too_many_pixels_are_refused_before_they_are_unpacked() -> None:
    whole = png(DEEP)
    header = whole[12:16] + struct.pack(">II", 100_000, 100_000) + whole[24:29]
    with pytest.raises(DataError, match=r"bomb\.png: not a readable image \(Image size \(10000000000 pixels\) exceeds limit"):
        decode_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:], "bomb.png")


def test_no_program_is_run_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(DataError, match=r"drawing\.png: not a readable image \(it begins with b'%!PS-Adobe-3'\)"):
        decode_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n", "drawing.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg: cannot be read \(No such file or directory\)"):
        decoded(tmp_path / "absent.jpg")


def test_a_pipe_a_folder_and_a_file_without_end_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with (tmp_path / "huge.jpg").open("wb") as sparse:
        sparse.truncate(2**40)
    for name, reason in (("pipe", "no plain file"), ("folder", "no plain file"), ("huge", "1,099,511,627,776 bytes")):
        with pytest.raises(DataError, match=rf"{name}\.jpg: not a readable image \(it is {reason}\); replace it"):
            read_bytes(tmp_path / f"{name}.jpg")


def test_an_image_in_an_archive_that_unpacks_to_too_much_or_not_at_all_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.data.listing.MOST_BYTES", 2**20)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.png", bytes(2**21))
        file.writestr("secret.png", b"content")
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # encrypted
    content[content.index(b"PK\x03\x04", 10) + 6] |= 1
    archive.write_bytes(content)
    members = ZipMembers(archive, ["bomb.png", "secret.png", "absent.png"], [0, 0, 0])
    for index, reason in enumerate(["unpacks to 2,097,152 bytes", "encrypted", "no item named"]):
        with pytest.raises(DataError, match=reason):
            members.decode(index)


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
