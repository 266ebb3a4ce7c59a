"""Image files to RGB arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petlbench.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def decode_file(path: Path) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) RGB. DataError names the file when it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # broken bytes make Pillow raise errors of many kinds
        raise DataError(f"{path}: not a readable image ({error}); replace or remove it") from None
