"""Read MATLAB and HDF5 files that would crash, fill or hold up the process that reads them: one line names the file, and this process goes on."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from petlbench.datasets.disk.layouts import _apart, _arrays
from petlbench.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)


def refusal(call: Callable[[], object], file: Path) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert str(file) in message and "\n" not in message and message.isprintable() and len(message) < 500
    return message


def svhn(folder: Path, images: object = IMAGES, digits: object = ((10,), (1,), (2,), (3,))) -> Path:
    savemat(folder / "train_32x32.mat", {"X": images, "y": np.asarray(digits)})
    return folder / "train_32x32.mat"


def test_a_file_that_crashes_the_library_is_one_line(tmp_path: Path) -> None:
    """The type of the pixels is no type: the library looks it up far outside its table."""
    file = svhn(tmp_path)
    content = file.read_bytes()
    place = content.index(IMAGES.tobytes(order="F")) - 8
    assert struct.unpack("<II", content[place : place + 8]) == (2, IMAGES.size)
    file.write_bytes(content[:place] + struct.pack("<I", 0x7FFFFFF0) + content[place + 4 :])
    images = _arrays.svhn(file)  # labels are whole
    assert "cannot be read for X" in refusal(lambda: images.decode(0), file)


def test_a_crash_is_named_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "crash.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(_apart, "__file__", str(script))
    with pytest.raises(ValueError, match="crashed with signal 11"):
        _apart.read_apart(svhn(tmp_path), "y")


def test_reading_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "endless.py"
    script.write_text("while True: pass\n")
    monkeypatch.setattr(_apart, "__file__", str(script))
    monkeypatch.setattr(_apart, "_SECONDS", 0.1)
    with pytest.raises(ValueError, match="took longer than 0 seconds"):
        _apart.read_apart(svhn(tmp_path), "y")


def test_a_file_that_unpacks_to_more_than_may_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train_list.mat"
    savemat(file, {"labels": np.zeros((1, 2**28), np.uint8)}, do_compression=True)
    assert file.stat().st_size < 2**20
    monkeypatch.setattr(_apart, "MEMORY", 2**29)
    assert "MemoryError" in refusal(lambda: _arrays.labels_of(file, "labels"), file)


@pytest.mark.parametrize(
    "numbers",
    [np.array([[0.5]]), np.array([[np.nan]]), np.array([[np.inf]]), np.array([[0]]), np.array([[-1]]), np.zeros((1, 0)), "text", {"a": 1}],
)
def test_labels_are_whole_numbers(numbers: object, tmp_path: Path) -> None:
    savemat(tmp_path / "labels.mat", {"labels": numbers})
    refusal(lambda: _arrays.labels_of(tmp_path / "labels.mat", "labels"), tmp_path / "labels.mat")


def test_labels_of_any_type_and_form_are_read(tmp_path: Path) -> None:
    for numbers in (np.array([[1, 2]], np.uint8), np.array([[1.0], [2.0]]), np.array([[1, 2]], np.int64)):
        savemat(tmp_path / "labels.mat", {"labels": numbers})
        os.utime(tmp_path / "labels.mat", ns=(1, numbers.itemsize))
        assert _arrays.labels_of(tmp_path / "labels.mat", "labels")[0].tolist() == [1, 2]


def test_names_and_labels_come_from_cells_and_structs(tmp_path: Path) -> None:
    file = tmp_path / "lists.mat"
    cells = np.array([["a.jpg"], ["ü b.jpg"]], dtype=object)
    structs = np.array([(("c.jpg"), 3), ("d.jpg", 4)], dtype=[("fname", "O"), ("class", "O")])
    savemat(file, {"file_list": cells, "labels": [[1], [2]], "annotations": structs, "few": [[1]]})
    names, labels = _arrays.names_and_labels(file, "file_list", "labels")
    assert (names, labels.tolist()) == (["a.jpg", "ü b.jpg"], [1, 2])
    names, labels = _arrays.names_and_labels(file, "annotations.fname", "annotations.class")
    assert (names, labels.tolist()) == (["c.jpg", "d.jpg"], [3, 4])
    for keys in (
        ("file_list", "few"),
        ("labels", "labels"),
        ("absent", "labels"),
        ("annotations.absent", "labels"),
        ("annotations", "labels"),
    ):
        refusal(lambda keys=keys: _arrays.names_and_labels(file, *keys), file)


@pytest.mark.parametrize("digits", [((11,),) * 4, ((0,),) * 4, ((1,),) * 3, "abcd"])
def test_svhn_has_digits_from_1_to_10_for_each_image(digits: object, tmp_path: Path) -> None:
    file = svhn(tmp_path, digits=digits)
    refusal(lambda: _arrays.svhn(file).decode(0), file)


@pytest.mark.parametrize("images", [IMAGES / 255, IMAGES.astype(np.uint16), IMAGES[:, :, 0], IMAGES[:16], "text"])
def test_svhn_has_images_of_32_x_32_bytes(images: object, tmp_path: Path) -> None:
    file = svhn(tmp_path, images)
    refusal(lambda: _arrays.svhn(file).decode(0), file)


def test_a_list_that_counts_from_0_is_no_list_of_the_last_image(tmp_path: Path) -> None:
    savemat(tmp_path / "setid.mat", {"trnid": np.arange(3)[None]})
    refusal(lambda: _arrays.labels_of(tmp_path / "setid.mat", "trnid"), tmp_path / "setid.mat")


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.mat")
    refusal(lambda: _arrays.labels_of(tmp_path / "labels.mat", "labels"), tmp_path / "labels.mat")


def pcam(folder: Path) -> Path:
    with h5py.File(folder / "a_x.h5", "w") as file:
        file["x"] = IMAGES.transpose(3, 0, 1, 2)
    with h5py.File(folder / "a_y.h5", "w") as file:
        file["y"] = np.array([0, 1, 1, 0]).reshape(4, 1, 1, 1)
    return folder / "a_x.h5"


def test_rows_of_hdf5_are_read(tmp_path: Path) -> None:
    pcam(tmp_path)
    images = _arrays.pcam(tmp_path, "a").take(np.array([2, 0]))
    assert np.array_equal(images.decode(0), IMAGES[..., 2]) and images.labels.tolist() == [1, 0]


def elsewhere(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "x")


def soft(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/nowhere")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 32, 32, 3), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4, 32, 32, 3))
    file.create_virtual_dataset("x", layout)


def raw(file: h5py.File) -> None:
    file.create_dataset("x", (4, 32, 32, 3), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize(
    "write",
    [
        elsewhere,
        soft,
        virtual,
        raw,
        lambda file: file.create_group("x"),
        lambda file: file.create_dataset("x", (4, 2**20, 2**20, 3), "u1", chunks=(1, 64, 64, 3)),
        lambda file: file.create_dataset("x", (2, 32, 32, 3), "u1"),
        lambda file: file.create_dataset("x", (4, 32, 32, 3), "f4"),
        lambda file: file.create_dataset("x", (4, 32, 32), "u1"),
        lambda file: file.create_dataset("x", (4,), h5py.string_dtype()),
    ],
)
def test_images_lie_in_the_file_and_have_the_shape_of_images(write: Callable[[h5py.File], object], tmp_path: Path) -> None:
    file = pcam(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = IMAGES.transpose(3, 0, 1, 2)
    with h5py.File(file, "w") as images:
        write(images)
    refusal(lambda: _arrays.pcam(tmp_path, "a").decode(0), file)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(128, 4000), st.binary(min_size=1, max_size=8))
def test_changed_files_give_labels_or_one_line(tmp_path: Path, place: int, junk: bytes) -> None:
    file = svhn(tmp_path, IMAGES[:, :, :, :1], ((1,),))
    content = file.read_bytes()
    place = min(place, len(content) - len(junk))
    file.write_bytes(content[:place] + junk + content[place + len(junk) :])
    try:
        _arrays.svhn(file).decode(0)
    except DataError as error:
        assert str(file) in str(error) and "\n" not in str(error)
