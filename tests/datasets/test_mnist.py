"""Biased-MNIST and Loc-MNIST from small idx files in MNIST's layout."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from petlbench.config.settings import Protocol
from petlbench.data.acquire.presence import presence
from petlbench.data.load import find_task, load_task
from petlbench.data.task import TaskSpec
from petlbench.datasets.mini import _digits
from petlbench.datasets.mini._digits import COLOURS
from petlbench.datasets.mini.mnist import read_idx
from petlbench.errors import DataError
from tests.words import resolve

COUNTS = {"train": 200, "t10k": 100}
TASKS = ["biased_mnist_easy", "biased_mnist_hard", "loc_mnist_1_1", "loc_mnist_1_4"]


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def digits(part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images whose first pixel row says which they are: none is twice. Two thirds of the pixels are empty."""
    count = COUNTS[part]
    rng = np.random.default_rng(count)
    images = rng.integers(1, 256, (count, 28, 28), dtype=np.uint8) * (rng.random((count, 28, 28)) < 1 / 3)
    return images.astype(np.uint8), (np.arange(count) % 10).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with MNIST, a part of it packed."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in COUNTS:
        images, labels = digits(part)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), 1))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def opened(name: str, root: Path) -> TaskSpec:
    return find_task(f"blackvip16/{name}", root)


@pytest.mark.parametrize(("name", "meant"), [("biased_mnist", "biased_mnist_easy"), ("LocMNIST", "loc_mnist_1_1")])
def test_without_a_variant_the_first_is_meant_and_is_not_augmented(name: str, meant: str) -> None:
    config = resolve(["method=blackvip", f"task=blackvip16/{name}"])
    assert (config.task, config.protocol.augment) == (f"blackvip16/{meant}", "none")


@pytest.mark.parametrize("name", TASKS)
def test_every_image_of_mnist_is_there_once_with_its_class(name: str, root: Path) -> None:
    spec = opened(name, root)
    labels = {split: spec.source(split).labels for split in ("train", "val", "test")}
    assert np.bincount(labels["test"]).tolist() == [10] * 10
    if name.startswith("biased"):
        assert np.bincount(labels["train"]).tolist() == [20] * 10 and np.bincount(labels["val"]).tolist() == [2] * 10
        assert spec.val_in_train is not None
        assert np.array_equal(labels["train"][spec.val_in_train], labels["val"])
    else:
        assert np.bincount(labels["train"]).tolist() == [16] * 10 and np.bincount(labels["val"]).tolist() == [4] * 10


@pytest.mark.parametrize(("name", "rho"), [("biased_mnist_easy", (0.8, 0.2)), ("biased_mnist_hard", (0.9, 0.1))])
def test_colours_go_with_the_class_as_often_as_the_variant_says(name: str, rho: tuple[float, float], root: Path) -> None:
    spec = opened(name, root)
    for split, part, share in (("train", "train", rho[0]), ("test", "t10k", rho[1])):
        source = spec.source(split)
        known = {(image > 0).tobytes(): int(label) for image, label in zip(*digits(part), strict=True)}
        own = 0
        for index, label in enumerate(source.labels):
            image = source.decode(index)
            is_glyph = (image == 255).all(-1)
            assert known[is_glyph.tobytes()] == label
            [colour] = np.unique(image[~is_glyph], axis=0)
            own += int((COLOURS[label] == colour).all())
        assert own == sum(int(count * share) for count in np.bincount(source.labels))


@pytest.mark.parametrize(("name", "side"), [("loc_mnist_1_1", 28), ("loc_mnist_1_4", 112)])
def test_the_digit_touches_the_border_and_the_distractor_covers_the_centre(name: str, side: int, root: Path) -> None:
    source = opened(name, root).source("test")
    images, labels = digits("t10k")
    for index in range(0, 100, 40):
        image = source.decode(index)
        assert image.shape == (224, 224, 3) and (image[..., 0] == image[..., 1]).all()
        grey = image[..., 0].astype(int)
        own = images[labels == source.labels[index]].astype(int)
        places = [(row, col) for row in range(197) for col in range(197) if row in (0, 196) or col in (0, 196)]
        densest = max(places, key=lambda place: grey[place[0] : place[0] + 28, place[1] : place[1] + 28].sum())
        found = grey[densest[0] : densest[0] + 28, densest[1] : densest[1] + 28]
        assert np.abs(own - found).mean((1, 2)).min() < 8, "no digit of the class is at the border"  # JPEG changes it a little
        centre = slice(112 - side // 2, 112 + side // 2)
        assert grey[centre, centre].mean() > 30


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("shots", [None, 16])
@pytest.mark.parametrize("name", ["biased_mnist_easy", "loc_mnist_1_1"])
def test_no_image_that_validates_is_trained_on(name: str, shots: int | None, root: Path) -> None:
    task = load_task(opened(name, root), Protocol(shots=shots), 28, (0.0,) * 3, (1.0,) * 3)
    splits = [{image.tobytes() for image in np.asarray(split.images)} for split in (task.train, task.val)]
    assert not splits[0] & splits[1]
    assert len(task.train) == (16 * 10 if shots else {"biased_mnist_easy": 180, "loc_mnist_1_1": 160}[name])


def test_another_file_is_another_revision_and_the_same_files_are_the_same(root: Path) -> None:
    before = opened("biased_mnist_easy", root).revision
    assert opened("biased_mnist_easy", root).revision == before != opened("biased_mnist_hard", root).revision
    labels = digits("t10k")[1]
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[::-1].copy()))
    changed = opened("biased_mnist_easy", root).revision
    images = digits("train")[0]
    images[7, 3, 5] ^= 1
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), 1))
    assert len({before, changed, opened("biased_mnist_easy", root).revision}) == 3


def test_a_part_of_mnist_is_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened("loc_mnist_1_4", root)
    assert f"blackvip16/loc_mnist_1_4: {root / 'MNIST' / 'raw'} has 200 train images of 60,000" in caplog.text


@pytest.mark.parametrize(("name", "scale"), [("loc_mnist_1_1", 1), ("loc_mnist_1_4", 4)])
def test_composites_are_those_of_the_generators_seed_as_jpeg_files_of_opencv(name: str, scale: int, root: Path) -> None:
    images, labels = digits("t10k")
    placements = _digits.original_placements(labels, np.random.RandomState(1).randint)
    test = opened(name, root).source("test")
    for place, (own, placement) in enumerate(itertools.islice(placements, 12)):
        sizes = {"canvas": 224, "digit_size": 28, "distractor_size": 28 * scale}
        file = io.BytesIO()
        Image.fromarray(_digits.compose(images[own], images[placement.distractor], placement, **sizes)).save(file, "JPEG", quality=95)
        assert test.labels[place] == labels[own] and np.array_equal(test.decode(place)[..., 0], np.asarray(Image.open(file)))


def test_colours_are_those_of_seed_1(root: Path) -> None:
    images, labels = digits("t10k")
    order, colours = _digits.biased_colours(labels, 0.2, np.random.RandomState(1).shuffle)
    test = opened("biased_mnist_easy", root).source("test")
    assert test.labels.tolist() == labels[order].tolist()
    assert all(np.array_equal(test.decode(i), _digits.colour_background(images[order[i]], colours[i])) for i in range(100))


def test_what_validates_is_shuffled_by_class(root: Path) -> None:
    spec = opened("biased_mnist_easy", root)
    labels, chosen = spec.source("train").labels, spec.val_in_train
    assert chosen is not None
    members = np.flatnonzero(labels == 3).tolist()
    random.Random(0).shuffle(members)
    assert sorted(members[:2]) == [place for place in chosen.tolist() if labels[place] == 3]


def test_without_the_files_the_message_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)blackvip16/loc_mnist_1_1 is not there.*MNIST/raw/train-images-idx3-ubyte"):
        opened("loc_mnist_1_1", tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:-1], r"labels-idx1-ubyte says it holds 100 bytes, and it holds 99; download it again"),
        (lambda data: data + b"\0", r"labels-idx1-ubyte says it holds 100 bytes, and it holds 101; download it again"),
        (lambda data: idx(digits("train")[1]), r"are not 28 x 28 images and their labels 0 to 9"),
        (lambda data: b"<html>", r"labels-idx1-ubyte is not an idx file of 1 dimensions; download it again"),
        (lambda data: b"", r"labels-idx1-ubyte is not an idx file of 1 dimensions"),
        (lambda data: data.replace(b"\x07", b"\x0a"), r"are not 28 x 28 images and their labels 0 to 9"),
        (None, r"has no t10k-labels-idx1-ubyte and no t10k-labels-idx1-ubyte.gz; MNIST is four files"),
    ],
)
def test_a_broken_file_is_named(change: Callable[[bytes], bytes] | None, expected: str, root: Path) -> None:
    path = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    data = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(data))
    with pytest.raises(DataError, match=expected):
        opened("biased_mnist_easy", root)
    if change is None:
        assert presence("blackvip16/biased_mnist_easy", root).state == "broken"


def test_a_packed_file_that_is_cut_off_is_named(root: Path) -> None:
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read .*; download it again"):
        read_idx(path, 3)
