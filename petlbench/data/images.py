"""Decode image files to RGB arrays with the same pixels as the reference loaders.

Those open a file with Pillow and call ``convert("RGB")``, so that:

* the EXIF orientation is not applied: a photograph stays as the sensor wrote it, as in every published number;
* transparency is dropped, not blended: a transparent pixel shows the colour stored below it;
* CMYK is inverted or not as Pillow decides, and no colour profile is applied;
* the content decides the format, not the file's suffix.

* of several frames or pages the first is taken.

What differs is how values of more than 8 bits become grey levels, where ``convert("RGB")`` cuts them off. The format decides, never the values of one
image: of 16 (or 12) bits the upper 8 are taken, as Pillow itself does for 16-bit colour. Where the format does not say what white is, the image is
refused: fractions and NaN, 32-bit and signed values beyond 0 to 255, and 16-bit files of which no value needs more than 14 bits (sensors of 10, 12 or
14 bits write such, and they would be nearly black). No registered dataset has such files, so no published number depends on it.
"""

from __future__ import annotations

import io
import stat
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from petlbench.errors import DataError

# Of the files that torchvision's ImageFolder reads, and further ones of the same formats and of GIF, whose first picture counts.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jpe", ".dib", ".pbm", ".pnm", ".gif"}
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}  # files and folders that systems put beside images
# Those that hold pixels; of the others that Pillow knows, some run a program or draw.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "SUN", "TGA", "TIFF", "WEBP")
_WHITE_IS_ZERO, _SIGNED = 0, 2  # values of the TIFF tags photometric interpretation and sample format
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
_LEAST_DEEP = 2**14  # the brightest value of a 16-bit image is at least this, or its range is another

MOST_BYTES = 2**30  # of an image file


def is_passed_over(name: str) -> bool:
    """Return True for the name of a file or folder that is never looked at: a hidden one, such as ``._x.jpg``, or one that a system made for itself."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


class _UnknownRange(ValueError):
    """The values of an image cannot be told to be dark or bright."""


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. DataError names the file when it cannot be read, is a pipe, which would block, or larger than any image."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
            return path.read_bytes()
        what = f"{status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else "no plain file"
        raise DataError(f"{path}: not a readable image (it is {what}); replace it from the source, or remove it")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check that it is there and that you may read it") from None


def decode_bytes(content: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the content of an image file to (H, W, 3) RGB. DataError, with ``name``, when that fails."""
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return _rgb(image)
    except _UnknownRange as error:
        raise DataError(f"{name}: not a readable image ({error}); save it with 8 bits per channel, or remove it") from None
    except UnidentifiedImageError:
        what = f"it begins with {content[:12]!r}" if content else "it has 0 bytes"
    except Exception as error:  # broken bytes make Pillow raise errors of many kinds
        what = str(error) or type(error).__name__
    raise DataError(f"{name}: not a readable image ({what}); replace it from the source, or remove it")


def is_jpeg(content: bytes) -> bool:
    """Return True for the content of a JPEG file."""
    return content.startswith(b"\xff\xd8\xff")


@cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    stored = _stored_as(image)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)) and image.mode not in ("I", "F"):
        raise _UnknownRange("its values are signed, and those of 0 to 255 were expected")
    if image.mode == "F" or image.mode.startswith("I"):
        return np.repeat(_grey(image, stored, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)[:, :, None], 3, axis=2)
    image.load()
    image.info.pop("transparency", None)  # convert would leave it aside too, but warn of it
    pixels = np.asarray(image.convert("RGB"))
    if ";16" in stored and pixels.max() < _LEAST_DEEP >> 8:
        raise _UnknownRange(f"its 16-bit values end below {_LEAST_DEEP:,}, so that they seem to have fewer bits")
    return pixels


def _stored_as(image: Image.Image) -> str:
    """Return Pillow's name for the numbers in the file, such as ``RGB;16B``; after loading an image it is gone."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _grey(image: Image.Image, stored: str, is_inverted: bool) -> NDArray[np.uint8]:
    """Return 8-bit grey levels (H, W) of an image of more bits. ``is_inverted``: of a TIFF whose zero is white, which Pillow takes for black."""
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # a PPM file says what white is, and Pillow scales it to 16 bits
        _check_grey_levels(values)
        levels = values.astype(np.uint8)
    elif ";12" in stored:
        levels = (values >> 4).astype(np.uint8)
    elif ";16" in stored and 0 < values.max() < _LEAST_DEEP:
        raise _UnknownRange(f"its 16-bit values end at {values.max():,}, so that they seem to have fewer bits")
    else:
        levels = (values >> 8).astype(np.uint8)
    return ~levels if is_inverted else levels


def _check_grey_levels(values: NDArray[Any]) -> None:
    """Raise _UnknownRange unless 32-bit values are grey levels from 0 to 255. Zeros and ones alone, as fractions, may be black and white."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # not so for NaN, either
        raise _UnknownRange(f"its 32-bit values run from {low} to {high}, and 0 to 255 was expected")
    if values.dtype.kind == "f" and ((values != np.floor(values)).any() or high == 1):
        raise _UnknownRange(f"its values are fractions from {low:g} to {high:g}, and whole numbers from 0 to 255 were expected")
