"""Layout ``dsprites``: the one archive of dSprites, whose 737,280 images are read by need."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._arrays import Rows
from ._splits import Original, for_suite
from ._vtab_labels import dsprites_location, dsprites_orientation

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
PATHS = (f"dsprites/{FILE}", FILE)
ORIENTATION, X = 3, 4  # columns of latents_classes: colour, shape, scale, orientation, x, y
_CHUNK = 4096  # images
_BLOCK = 81_920  # images, 320 MB: more than VTAB tests on, so that the archive is passed through once for a split


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Horizontal positions or orientations."""
    path = next((root / path for path in PATHS if (root / path).is_file()), None)
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            latents = file["latents_classes"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not the archive of dSprites ({error}); fetch it again") from None
    labels = dsprites_location(latents[:, X]) if dataset.name == "dsprites_loc" else dsprites_orientation(latents[:, ORIENTATION])
    everything = Rows(path, np.arange(len(labels)), labels, partial(_sprites, path), _BLOCK)
    return for_suite(root, "dsprites", Original(path, {"all": everything}), dataset, entry)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return PATHS[0]


def _sprites(path: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some of the images (n, 64, 64), 0 or 255: the compressed array of 3 GB passes by piece by piece, as far as the last of them."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as file:
            return _chosen(file, rows)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: its images cannot be read ({error}); fetch it again") from None


def _chosen(file: IO[bytes], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    images = np.empty((len(rows), *shape[1:]), dtype=np.uint8)
    for start in range(0, int(rows[-1]) + 1, _CHUNK):
        count = min(_CHUNK, shape[0] - start)
        content = file.read(count * int(np.prod(shape[1:])) * dtype.itemsize)
        chunk = np.frombuffer(content, dtype=dtype).reshape(count, *shape[1:])
        wanted = slice(*np.searchsorted(rows, (start, start + count)))
        images[wanted] = chunk[rows[wanted] - start] * np.uint8(255)
    return images
