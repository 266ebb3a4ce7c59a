"""Read arrays of MATLAB and HDF5 files in a process of its own: both libraries are written in C, and some damaged files end the process that reads them.

``python _apart.py FILE BYTES KEY...`` prints the arrays as .npy, one after another, from at most BYTES of memory. A key is the name of an array, or
``NAME.FIELD`` of an array of structs. Rows of an HDF5 array are chosen by an .npy array on stdin; without one it is read whole.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEMORY = 2**32  # bytes; the arrays of SVHN's largest file take up 1.6 GB
_SECONDS, _SECONDS_PER_MB = 60.0, 1.0
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # each would reserve memory


def read_apart(path: Path, *keys: str, rows: NDArray[np.int64] | None = None) -> list[NDArray[Any]]:
    """Return arrays of numbers or texts. ValueError says why they cannot be read."""
    if not path.is_file():
        raise ValueError("it is missing or no plain file")
    command = [sys.executable, "-P", __file__, str(path.absolute()), str(MEMORY), *keys]
    seconds = _SECONDS + _SECONDS_PER_MB * path.stat().st_size / 2**20
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command, input=_npy(rows), stdout=output, stderr=subprocess.PIPE, env=os.environ | _ONE_THREAD, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"reading it took longer than {seconds:.0f} seconds") from None
        if done.returncode < 0:
            raise ValueError(f"the library that reads it crashed with signal {-done.returncode}")
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise ValueError(ascii(said[-1][:200])[1:-1])
        output.seek(0)
        return [np.load(output, allow_pickle=False) for _ in keys]


def _npy(rows: NDArray[np.int64] | None) -> bytes:
    file = io.BytesIO()
    if rows is not None:
        np.save(file, rows)
    return file.getvalue()


def _print(path: str, memory: int, keys: list[str]) -> None:
    """Do the work of the other process."""
    with suppress(ImportError):  # on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arrays = _matlab(path, keys) if path.endswith(".mat") else _hdf5(path, keys)
    for array in arrays:
        if array.dtype.kind not in "biufU":
            raise TypeError(f"an array of {array.dtype}, numbers or texts expected")
        np.save(sys.stdout.buffer, array, allow_pickle=False)


def _matlab(path: str, keys: list[str]) -> list[NDArray[Any]]:
    from scipy.io import loadmat

    content = loadmat(path, variable_names=[key.partition(".")[0] for key in keys])
    arrays = []
    for key in keys:
        name, _, field = key.partition(".")
        array = content[name][field] if field else content[name]
        arrays.append(np.array([cell.item() for cell in array.ravel()]) if array.dtype == object else array)
    return arrays


def _hdf5(path: str, keys: list[str]) -> list[NDArray[Any]]:
    import h5py

    chosen = sys.stdin.buffer.read()
    rows = np.load(io.BytesIO(chosen), allow_pickle=False) if chosen else ...
    with h5py.File(path) as file:
        for key in keys:
            is_here = isinstance(file.get(key, getlink=True), h5py.HardLink) and isinstance(file[key], h5py.Dataset)
            if not is_here or file[key].is_virtual or file[key].external:
                raise TypeError(f"{key} does not lie in the file")
        return [np.asarray(file[key][rows]) for key in keys]


if __name__ == "__main__":
    try:
        _print(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    except Exception as error:  # both libraries let errors of many kinds through
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
