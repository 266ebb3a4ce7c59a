"""Decode image files to RGB arrays with the same pixels as the reference loaders.

Those open a file with Pillow and call ``convert("RGB")``, so that:

* the EXIF orientation is not applied: a photograph stays as the sensor wrote it, as in every published number;
* transparency is dropped, not blended: a transparent pixel shows the colour stored below it;
* CMYK is inverted or not as Pillow decides, and no colour profile is applied;
* the content decides the format, not the file's suffix.

One thing differs: ``convert("RGB")`` cuts 16-bit grey values off at 255, which makes nearly every pixel white. Here their upper byte is taken,
as Pillow itself does for 16-bit colour. No registered dataset has such files, so no published number depends on it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from petlbench.errors import DataError

# Of the files that torchvision's ImageFolder reads, and further ones of the same formats and of GIF, whose first picture counts.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jpe", ".dib", ".pbm", ".pnm", ".gif"}
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}  # files and folders that systems put beside images


def is_passed_over(name: str) -> bool:
    """Return True for the name of a file or folder that is never looked at: a hidden one, such as ``._x.jpg``, or one that a system made for itself."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. DataError names the file when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check that it is there and that you may read it") from None


def decode_bytes(content: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the content of an image file to (H, W, 3) RGB. DataError, with ``name``, when that fails."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _rgb(image)
    except UnidentifiedImageError:
        what = f"it begins with {content[:12]!r}" if content else "it has 0 bytes"
    except Exception as error:  # broken bytes make Pillow raise errors of many kinds
        what = str(error) or type(error).__name__
    raise DataError(f"{name}: not a readable image ({what}); replace it from the source, or remove it")


def is_jpeg(content: bytes) -> bool:
    """Return True for the content of a JPEG file."""
    return content.startswith(b"\xff\xd8\xff")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if low < 0 or high > 255:
            raise ValueError(f"its 32-bit values run from {low} to {high}, and 0 to 255 was expected")
    image.load()
    image.info.pop("transparency", None)  # convert would leave it aside too, but warn of it
    return np.asarray(image.convert("RGB"))
