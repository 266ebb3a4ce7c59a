"""Read CIFAR's pickles: every form in which they were written, and nothing that a hostile file asks for."""

from __future__ import annotations

import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.datasets.disk.layouts import _arrays, _pickles
from petlbench.errors import DataError

ROWS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
BATCH = {"batch_label": "testing batch 1 of 1", "data": ROWS, "labels": [0, 9, 2], "filenames": ["a.png", "b.png", "ü.png"]}


def read(content: bytes, folder: Path) -> tuple[Any, list[int]]:
    (folder / "test_batch").write_bytes(content)
    return _arrays._cifar_batch(folder / "test_batch", "labels")


def refusal(content: bytes, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(content, folder)
    message = str(caught.value)
    assert str(folder / "test_batch") in message and "\n" not in message and message.isprintable() and len(message) < 600
    return message


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"], ids=["numpy 2", "numpy 1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_of_every_protocol_and_numpy_are_read(protocol: int, core: str, order: Any, tmp_path: Path) -> None:
    content = pickle.dumps({**BATCH, "data": np.asarray(ROWS, order=order)}, protocol)
    if core == "numpy.core":
        content = content.replace(b"numpy._core", b"numpy.core").replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
        content = content.replace(b"\x8c\x13numpy.core.numeric", b"\x8c\x12numpy.core.numeric")
    images, labels = read(content, tmp_path)
    assert np.array_equal(images, ROWS) and labels == BATCH["labels"]


def of_python_2(protocol: int) -> bytes:
    """The file as Python 2 writes it: texts and bytes are one type, and a dtype is made with numbers."""
    raw = ROWS.tobytes()

    def text(value: bytes) -> bytes:
        if protocol == 0:
            return b"S'" + "".join(f"\\x{byte:02x}" for byte in value).encode() + b"'\n"
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"I%d\n" % value if protocol == 0 else b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR(" + number(3) + text(b"|") + b"NNN"
    dtype += number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR("
    array += number(1) + b"(" + number(3) + number(3072) + b"t" + dtype + (b"I00\n" if protocol == 0 else b"\x89") + text(raw) + b"tb"
    labels = b"(" + b"".join(map(number, BATCH["labels"])) + b"l"
    return (b"" if protocol == 0 else b"\x80\x02") + b"(" + text(b"data") + array + text(b"labels") + labels + b"d."


@pytest.mark.parametrize("protocol", [0, 2])
def test_files_that_python_2_wrote_are_read(protocol: int, tmp_path: Path) -> None:
    content = of_python_2(protocol)
    assert np.array_equal(pickle.loads(content, encoding="latin1")["data"], ROWS), "this is such a file"
    images, labels = read(content, tmp_path)
    assert np.array_equal(images, ROWS) and labels == BATCH["labels"]


def test_labels_may_be_an_array(tmp_path: Path) -> None:
    assert read(pickle.dumps({**BATCH, "labels": np.array([0, 9, 2])}), tmp_path)[1] == [0, 9, 2]


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


HOSTILE: dict[str, Any] = {
    "an array of objects over given bytes": Call(np.ndarray, (3072,), np.dtype("O"), b"\x41" * 8 * 3072),
    "an array over given bytes": Call(np.ndarray, (3, 3072), np.dtype("u1"), ROWS.tobytes()),
    "an array in one call": Call(np.ndarray, (2**40,)),
    "objects": ROWS.astype(object),
    "fields": np.zeros(3, [("a", "u1", 3072)]),
    "fields with objects": np.zeros(3, [("a", "O")]),
    "times": np.zeros((3, 3072), "M8[s]"),
    "texts": np.full((3, 3072), "a"),
    "floats": ROWS.astype(np.float32),
    "other order of bytes": ROWS.astype(">i4"),
    "wide integers": ROWS.astype(np.int64),
    "one row": ROWS[0],
    "rows of another size": ROWS[:, :3000],
    "a list": [[0] * 3072],
    "nothing": None,
    "a set": {1},
    "a float": 1.0,
    "code": Call(print, "this ran"),
    "an import": Call(__import__, "os"),
    "getattr": Call(getattr, "", "join"),
    "encode with another codec": Call(__import__("codecs").encode, "a", "rot13"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_other_things_than_rows_of_bytes_are_refused(data: Any, protocol: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusal(pickle.dumps({**BATCH, "data": data}, protocol), tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "labels", [[0, 1], [0, 1, 2, 3], [0, 1, 2.0], ["a", "b", "c"], [0, 1, True], [0, 1, 2**70], [0, 1, [2]], "abc", None, {}, (0, 1, 2)]
)
def test_labels_that_are_not_one_number_per_image_are_refused(labels: Any, tmp_path: Path) -> None:
    refusal(pickle.dumps({**BATCH, "labels": labels}), tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends in the middle"),
        (b".", "stack is empty"),
        (b"N.", "no mapping"),
        (b"}.", "has no 'data'"),
        (b"\x82\x01.", r"opcode b'\x82'"),  # an extension
        (b"Pid\n.", "opcode b'P'"),  # a persistent id
        (b"}r\xff\xff\xff\x7f.", "has no 'data'"),  # a memo with room for 2**31 entries
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", "has no 'data'"),  # a frame of 2**63 bytes
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "ends in the middle"),
        (b"T\xff\xff\xff\xff.", "ends in the middle"),
        (b"}" + b"(" * 1000 + b".", "stack is empty"),
        (b"(" * 100_000 + b"t" * 100_000 + b".", "no mapping"),
        (b"}(" + b"(" * 100_000 + b"t" * 100_000 + b"Nu.", "no mapping of texts"),  # a key whose hash has no end
        (b"]" + b"2]a" * 1000 + b".", "opcode b'2'"),
        (b"I" + b"9" * 10_000 + b"\n.", ""),
        (b"\x8b\x00\x00\x10\x00" + bytes(2**20) + b".", "64 bits"),
        (b"cos\nsystem\n.", "os.system"),
        (b"c\x1b[31m\nx\n.", r"\x1b"),
        (b"h\x00.", "no memo 0"),
    ],
)
def test_opcodes_that_such_files_do_not_use_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(content, tmp_path)


def test_a_pickle_without_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pickles, "_MOST_STEPS", 1000)
    assert "more than 1,000 opcodes" in refusal(b"N" * 2000 + b".", tmp_path)


def test_the_shape_and_the_bytes_of_an_array_agree(tmp_path: Path) -> None:
    content = pickle.dumps(BATCH, 4)
    for side in (2, 4, 2**14):
        refusal(content.replace(b"K\x03M\x00\x0c\x86", b"M" + struct.pack("<H", side) + b"M\x00\x0c\x86", 1), tmp_path)


@pytest.mark.parametrize("kind", ["a pipe", "missing", "too large"])
def test_a_file_that_is_no_such_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "test_batch"
    if kind == "a pipe":
        __import__("os").mkfifo(file)
    elif kind == "too large":
        with file.open("wb") as sparse:
            sparse.truncate(_pickles.MOST_BYTES + 1)
    with pytest.raises(DataError, match="test_batch: not a batch of CIFAR images"):
        _arrays._cifar_batch(file, "labels")


@given(st.data())
def test_changed_files_give_a_batch_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = pickle.dumps({"data": ROWS[:1], "labels": [1]}, data.draw(st.integers(0, 5)))
    places = [place for _, _, place in pickletools.genops(whole)]
    changed = bytearray(whole)
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        images, labels = read(bytes(changed), tmp_path_factory.mktemp("changed"))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert images.shape == (len(labels), 3072)
