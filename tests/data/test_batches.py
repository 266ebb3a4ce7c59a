"""Batches are normalised as torchvision does it and augmented reproducibly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Normalize, ToTensor

from petlbench.data.batches import Batches, Transform
from petlbench.data.load import load_task
from petlbench.data.store import Split
from petlbench.data.task import RenderedSource, TaskSpec
from petlbench.errors import ConfigError
from petlbench.settings import Protocol

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def pixels(count: int = 5, side: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng([count, side]).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def split(count: int = 5, side: int = 9) -> Split:
    return Split(pixels(count, side), np.arange(count, dtype=np.int64), "digest")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 12), st.integers(0, 7))
def test_a_transform_gives_the_bits_of_centre_crop_to_tensor_and_normalize(size: int, margin: int) -> None:
    images = pixels(2, size + margin)
    reference = Compose([CenterCrop(size), ToTensor(), Normalize(*IMAGENET)])
    expected = torch.stack([reference(Image.fromarray(image)) for image in images])
    assert torch.equal(Transform(size, *IMAGENET)(torch.from_numpy(images)), expected)


def test_images_come_in_order_with_their_labels_and_a_short_last_batch() -> None:
    batches = Batches(split(), Transform(9, *PLAIN), 2, CPU)
    parts = list(batches.in_order())
    assert [len(images) for images, _ in parts] == [2, 2, 1]
    assert torch.cat([labels for _, labels in parts]).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(torch.cat([images for images, _ in parts]), Transform(9, *PLAIN)(torch.from_numpy(pixels())))
    assert len(batches) == 3


def test_a_pass_has_every_image_once_with_its_own_label() -> None:
    batches = Batches(split(), Transform(9, *PLAIN), 2, CPU, seeded())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(images, batches.images(labels))


def test_passes_are_shuffled_differently_and_a_seed_repeats_them() -> None:
    def orders() -> list[list[int]]:
        batches = Batches(split(20), Transform(9, *PLAIN), 7, CPU, seeded())
        return [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]

    first, second = orders()
    assert first != second and first != sorted(first)
    assert orders() == [first, second]


def augmented(augment: str, size: int = 9, side: int = 9, count: int = 200, seed: int = 0) -> Tensor:
    transform = Transform(size, *PLAIN, augment)  # type: ignore[arg-type]
    image = torch.from_numpy(pixels(1, side)).expand(count, -1, -1, -1)
    return transform(image, seeded(seed))


def test_about_half_of_the_images_are_flipped_left_to_right_and_none_otherwise_changed() -> None:
    original = Transform(9, *PLAIN)(torch.from_numpy(pixels(1)))[0]
    results = augmented("flip")
    is_flipped = [torch.equal(result, original.flip(-1)) for result in results]
    assert all(flipped or torch.equal(result, original) for result, flipped in zip(results, is_flipped, strict=True))
    assert 70 < sum(is_flipped) < 130


def test_random_crops_are_windows_of_the_image_and_reach_every_corner() -> None:
    whole = Transform(6, *PLAIN)(torch.from_numpy(pixels(1, 6)))[0]
    windows = {
        (top, left, flipped): _window(whole, top, left, flipped) for top in range(3) for left in range(3) for flipped in (False, True)
    }
    found = set()
    for result in augmented("crop_flip", size=4, side=6):
        matches = [key for key, window in windows.items() if torch.equal(window, result)]
        assert len(matches) == 1
        found.add(matches[0])
    assert found == set(windows)


def _window(image: Tensor, top: int, left: int, flipped: bool) -> Tensor:
    window = image[:, top : top + 4, left : left + 4]
    return window.flip(-1) if flipped else window


def test_flipping_alone_cuts_the_centre() -> None:
    centre = Transform(4, *PLAIN)(torch.from_numpy(pixels(1, 6)))[0]
    assert all(torch.equal(result, centre) or torch.equal(result, centre.flip(-1)) for result in augmented("flip", size=4, side=6))


def test_augmentation_repeats_under_a_seed_and_differs_between_passes() -> None:
    assert torch.equal(augmented("crop_flip", 4, 6), augmented("crop_flip", 4, 6))
    batches = Batches(split(30), Transform(4, *PLAIN, "crop_flip"), 30, CPU, seeded())
    first, second = (next(iter(batches)) for _ in range(2))
    assert not torch.equal(first[0][first[1].argsort()], second[0][second[1].argsort()])


def test_what_is_evaluated_is_never_augmented() -> None:
    transform = Transform(4, *PLAIN, "crop_flip")
    assert torch.equal(next(iter(Batches(split(), transform, 5, CPU)))[0], Transform(4, *PLAIN)(torch.from_numpy(pixels())))
    training = Batches(split(), transform, 5, CPU, seeded())
    assert torch.equal(next(training.in_order())[0], Transform(4, *PLAIN)(torch.from_numpy(pixels())))


def spec() -> TaskSpec:
    sizes = {"train": 12, "val": 6, "test": 4}
    return TaskSpec(
        "mock/loaded", ("a", "b"), ("{}",), "1", lambda part: RenderedSource(np.arange(sizes[part]) % 2, lambda i: pixels(12, 8)[i])
    )


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("rule", "expected"), [("backbone", 0.25), ("imagenet", 0.485), ("half", 0.5), ("none", 0.0)])
def test_a_protocol_chooses_the_constants_of_normalisation(rule: str, expected: float) -> None:
    task = load_task(spec(), Protocol(normalise=rule), 8, (0.25,) * 3, (1.0,) * 3)  # type: ignore[arg-type]
    assert task.transform.mean[0] == expected


@pytest.mark.usefixtures("cache")
def test_shots_and_training_on_validation_images_shape_the_training_split() -> None:
    sizes = {}
    for shots, train_on in ((None, "train"), (None, "trainval"), (2, "train"), (2, "trainval")):
        task = load_task(spec(), Protocol(shots=shots, train_on=train_on), 8, *PLAIN)  # type: ignore[arg-type]
        sizes[shots, train_on] = (len(task.train), len(task.val), len(task.test))
    assert sizes == {(None, "train"): (12, 6, 4), (None, "trainval"): (18, 6, 4), (2, "train"): (4, 4, 4), (2, "trainval"): (8, 4, 4)}


@pytest.mark.usefixtures("cache")
def test_a_resize_below_the_backbones_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.resize=7 is smaller than the backbone's input of 8 pixels"):
        load_task(spec(), Protocol(resize=7), 8, *PLAIN)


@given(st.integers(1, 9), st.integers(1, 6))
def test_a_smaller_last_batch_can_be_left_out_unless_there_is_no_other(count: int, size: int) -> None:
    batches = Batches(split(count, 3), Transform(3, *PLAIN), size, CPU, seeded(), drop_last=True)
    sizes = [len(labels) for _, labels in batches]
    assert sizes == ([size] * (count // size) if count >= size else [count])
    assert len(batches) == len(sizes)
