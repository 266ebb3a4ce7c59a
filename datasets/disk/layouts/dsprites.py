"""Layout ``dsprites``: the one archive of dSprites, whose 737,280 images are read by need."""

from __future__ import annotations

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._arrays import Rows, whole_numbers
from ._splits import Original, for_suite
from ._vtab_labels import dsprites_location, dsprites_orientation

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
PATHS = (f"dsprites/{FILE}", FILE)
ORIENTATION, X = 3, 4  # columns of latents_classes: colour, shape, scale, orientation, x, y
_MOST_BYTES = 2**28  # of the factors; the published ones have 35 MB
_LARGEST_SIDE = 1024  # pixels; the published images have 64
_CHUNK = 4096  # images
_BLOCK = 81_920  # images, 320 MB: more than VTAB tests on, so that the archive is passed through once for a split


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Horizontal positions or orientations."""
    path = next((root / path for path in PATHS if (root / path).is_file()), None)
    if path is None:
        return None
    latents = whole_numbers(path, "latents_classes", _latents(path), least=0)
    labels = dsprites_location(latents[:, X]) if dataset.name == "dsprites_loc" else dsprites_orientation(latents[:, ORIENTATION])
    everything = Rows(path, np.arange(len(labels)), labels, partial(_sprites, path), _BLOCK)
    return for_suite(root, "dsprites", Original(path, {"all": everything}), dataset, entry)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return PATHS[0]


def _latents(path: Path) -> NDArray[Any]:
    """The factors of each image (N, 6)."""
    try:
        if not path.is_file():
            raise ValueError("no plain file")
        with zipfile.ZipFile(path) as archive:
            if (size := archive.getinfo("latents_classes.npy").file_size) > _MOST_BYTES:
                raise ValueError(f"its latents_classes have {size:,} bytes, at most {_MOST_BYTES:,} expected")
        with np.load(path, allow_pickle=False) as file:
            latents = np.asarray(file["latents_classes"])
        if latents.ndim != 2 or latents.shape[1] != 6:
            raise ValueError(f"its latents_classes are {latents.shape}, expected (N, 6)")
        return latents
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not the archive of dSprites ({error}); fetch it again") from None


def _sprites(path: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some of the images (n, 64, 64), 0 or 255: the compressed array of 3 GB passes by piece by piece, as far as the last of them."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as file:
            return _chosen(file, rows)
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: its images cannot be read ({error}); fetch it again") from None


def _chosen(file: IO[bytes], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 3 or max(shape[1:]) > _LARGEST_SIDE or shape[0] <= rows[-1] or dtype != np.uint8 or is_fortran:
        raise ValueError(f"they are {dtype} {shape}, expected uint8 (N, H, W) of more than {rows[-1]} images")
    images = np.empty((len(rows), *shape[1:]), dtype=np.uint8)
    for start in range(0, int(rows[-1]) + 1, _CHUNK):
        count = min(_CHUNK, shape[0] - start)
        content = file.read(count * int(np.prod(shape[1:])) * dtype.itemsize)
        chunk = np.frombuffer(content, dtype=dtype).reshape(count, *shape[1:])
        wanted = slice(*np.searchsorted(rows, (start, start + count)))
        images[wanted] = chunk[rows[wanted] - start] * np.uint8(255)
    return images
