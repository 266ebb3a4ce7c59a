"""Batches are normalised as torchvision does it and augmented reproducibly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Normalize, ToTensor

from petlbench.config.settings import Protocol
from petlbench.data.batches import Batches
from petlbench.data.load import Task, load_task
from petlbench.data.source import RenderedSource
from petlbench.data.split import Split
from petlbench.data.store import TaskStore
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form, Transform
from petlbench.errors import ConfigError

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Constants = tuple[float, ...]
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def pixels(count: int = 5, side: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng([count, side]).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def split(count: int = 5, side: int = 9) -> Split:
    return Split(pixels(count, side), np.arange(count, dtype=np.int64), "digest")


def transform(size: int, mean: Constants = PLAIN[0], std: Constants = PLAIN[1], augment: str = "none") -> Transform:
    return Transform(Form("squash", size, cut=size), mean, std, augment)


def evaluated(transform: Transform, images: NDArray[np.uint8]) -> Tensor:
    """The images (N, H, W, 3) as one batch."""
    return Batches(Split(images, np.zeros(len(images), np.int64), "digest"), transform, len(images), CPU).images(torch.arange(len(images)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 12), st.integers(0, 7))
def test_a_transform_gives_the_bits_of_centre_crop_to_tensor_and_normalize(size: int, margin: int) -> None:
    images = pixels(2, size + margin)
    reference = Compose([CenterCrop(size), ToTensor(), Normalize(*IMAGENET)])
    expected = torch.stack([reference(Image.fromarray(image)) for image in images])
    assert torch.equal(evaluated(transform(size, *IMAGENET), images), expected)


def test_images_come_in_order_with_their_labels_and_a_short_last_batch() -> None:
    batches = Batches(split(), transform(9), 2, CPU)
    parts = list(batches.in_order())
    assert [len(images) for images, _ in parts] == [2, 2, 1]
    assert torch.cat([labels for _, labels in parts]).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(torch.cat([images for images, _ in parts]), evaluated(transform(9), pixels()))
    assert len(batches) == 3


def test_a_pass_has_every_image_once_with_its_own_label() -> None:
    batches = Batches(split(), transform(9), 2, CPU, seeded())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(images, batches.images(labels))


def test_passes_are_shuffled_differently_and_a_seed_repeats_them() -> None:
    def orders() -> list[list[int]]:
        batches = Batches(split(20), transform(9), 7, CPU, seeded())
        return [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]

    first, second = orders()
    assert first != second and first != sorted(first)
    assert orders() == [first, second]


def augmented(augment: str, size: int = 9, side: int = 9, count: int = 200, seed: int = 0) -> Tensor:
    images = np.broadcast_to(pixels(1, side), (count, side, side, 3))
    part = Split(images, np.zeros(count, np.int64), "digest")
    return next(iter(Batches(part, transform(size, augment=augment), count, CPU, seeded(seed))))[0]


def test_about_half_of_the_images_are_flipped_left_to_right_and_none_otherwise_changed() -> None:
    original = evaluated(transform(9), pixels(1))[0]
    results = augmented("flip")
    is_flipped = [torch.equal(result, original.flip(-1)) for result in results]
    assert all(flipped or torch.equal(result, original) for result, flipped in zip(results, is_flipped, strict=True))
    assert 70 < sum(is_flipped) < 130


def test_random_crops_are_windows_of_the_image_and_reach_every_corner() -> None:
    whole = evaluated(transform(6), pixels(1, 6))[0]
    windows = {
        (top, left, flipped): _window(whole, top, left, flipped) for top in range(3) for left in range(3) for flipped in (False, True)
    }
    found = set()
    for result in augmented("crop + flip", size=4, side=6):
        matches = [key for key, window in windows.items() if torch.equal(window, result)]
        assert len(matches) == 1
        found.add(matches[0])
    assert found == set(windows)


def _window(image: Tensor, top: int, left: int, flipped: bool) -> Tensor:
    window = image[:, top : top + 4, left : left + 4]
    return window.flip(-1) if flipped else window


def test_flipping_alone_cuts_the_centre() -> None:
    centre = evaluated(transform(4), pixels(1, 6))[0]
    assert all(torch.equal(result, centre) or torch.equal(result, centre.flip(-1)) for result in augmented("flip", size=4, side=6))


def test_augmentation_repeats_under_a_seed_and_differs_between_passes() -> None:
    assert torch.equal(augmented("crop + flip", 4, 6), augmented("crop + flip", 4, 6))
    batches = Batches(split(30), transform(4, augment="crop + flip"), 30, CPU, seeded())
    first, second = (next(iter(batches)) for _ in range(2))
    assert not torch.equal(first[0][first[1].argsort()], second[0][second[1].argsort()])


def test_what_is_evaluated_is_never_augmented() -> None:
    cropped = transform(4, augment="crop + flip")
    assert torch.equal(next(iter(Batches(split(), cropped, 5, CPU)))[0], evaluated(transform(4), pixels()))
    training = Batches(split(), cropped, 5, CPU, seeded())
    assert torch.equal(next(training.in_order())[0], evaluated(transform(4), pixels()))


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
def test_few_shot_draws_follow_a_seed_of_their_own_or_the_runs() -> None:
    def drawn(split_seed: int | None, seed: int) -> str:
        return load_task(spec(), Protocol(shots=2, split_seed=split_seed), 8, *PLAIN, seed=seed).train.digest

    assert drawn(1, 0) == drawn(1, 5) != drawn(2, 0)
    assert drawn(None, 1) == drawn(1, 0) and drawn(None, 2) == drawn(2, 0)


@pytest.mark.usefixtures("cache")
def test_a_resize_below_the_backbones_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.resize=7 is smaller than the backbone's input of 8 pixels"):
        load_task(spec(), Protocol(resize=7), 8, *PLAIN)


@given(st.integers(1, 9), st.integers(1, 6))
def test_a_smaller_last_batch_can_be_left_out_unless_there_is_no_other(count: int, size: int) -> None:
    batches = Batches(split(count, 3), transform(3), size, CPU, seeded(), drop_last=True)
    sizes = [len(labels) for _, labels in batches]
    assert sizes == ([size] * (count // size) if count >= size else [count])
    assert len(batches) == len(sizes)


STORED = {"train": 7, "val": 3, "test": 4}


def of_many_sizes() -> TaskSpec:
    """Images of which no side is shorter than 9."""

    def render(index: int) -> NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 256, (9 + index % 3, 12 - index % 4, 3), dtype=np.uint8)

    return TaskSpec("mock/sizes", ("a", "b"), ("{}",), "1", lambda part: RenderedSource(np.arange(STORED[part]) % 2, render))


def loaded(augment: str, store_mb: int = 1, **settings: Any) -> Task:
    protocol = Protocol(**({"resize": 9, "resize_mode": "short", "augment": augment} | settings))
    return load_task(of_many_sizes(), protocol, 6, *PLAIN, store_mb)


WINDOWS = ["none", "crop + flip", "random_resized_crop(0.3) + jitter(0.4, 0.4, 0.4, 0.4, 0.8) + flip"]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("augment", WINDOWS)
@pytest.mark.parametrize("train_on", ["train", "trainval"])
def test_views_do_not_depend_on_whether_images_are_stored_or_streamed(augment: str, train_on: str) -> None:
    def views(store_mb: int) -> list[Tensor]:
        task = loaded(augment, store_mb, train_on=train_on)
        batches = Batches(task.train, task.transform, 3, CPU, seeded())
        next(iter(batches))  # a pass that ends early
        return [images for _ in range(2) for images, _ in batches] + [images for images, _ in batches.in_order()]

    streamed, stored, reopened = views(0), views(1), views(1)
    assert len(streamed) == 3 * 3 if train_on == "train" else 3 * 4
    assert all(torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(streamed, stored, reopened, strict=True))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("augment", WINDOWS)
@pytest.mark.parametrize("store_mb", [0, 1])
def test_training_images_are_evaluated_like_test_images_whatever_they_are_stored_for(augment: str, store_mb: int) -> None:
    task = loaded(augment, store_mb)
    source = of_many_sizes().source("train")
    expected = torch.stack([torch.from_numpy(task.transform.form(source.decode(i)).copy()) for i in range(7)])
    found = Batches(task.train, task.transform, 3, CPU, seeded()).images(torch.tensor([5, 0, 3]))
    assert torch.equal(found, expected[[5, 0, 3]].permute(0, 3, 1, 2).float() / 255)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("side", [9, 6])
def test_crops_of_images_that_are_not_square_reach_their_ends(side: int) -> None:
    """Crops must also reach beyond the centre square of the longer side, even where the shorter side equals the window."""
    task = loaded("crop", resize=side)
    batches = Batches(task.train, task.transform, 7, CPU, seeded())
    image = torch.from_numpy(np.array(task.train.images[0])).permute(2, 0, 1) / 255
    assert image.shape == (3, side, side * 4 // 3)
    places = [(top, left) for top in range(side - 5) for left in range(side * 4 // 3 - 5)]
    windows = {(top, left): image[:, top : top + 6, left : left + 6] for top, left in places}
    views = torch.cat([images[labels == 0] for _ in range(200) for images, labels in batches])
    assert {place for place, window in windows.items() if (views == window).flatten(1).all(1).any()} == set(windows)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("augment", WINDOWS)
def test_every_image_is_decoded_once_over_all_epochs_and_runs(augment: str) -> None:
    counts = []
    for _ in range(2):
        task = loaded(augment)
        batches = Batches(task.train, task.transform, 3, CPU, seeded())
        for _ in range(3):
            list(batches)
        counts.append(task.images_decoded)
    assert counts == [sum(STORED.values()), 0]


@pytest.mark.usefixtures("cache")
def test_a_stream_decodes_every_image_once_a_pass_and_counts_it() -> None:
    task = loaded("none", store_mb=0)
    batches = Batches(task.train, task.transform, 3, CPU, seeded())
    before = task.images_decoded
    for _ in range(2):
        list(batches)
    assert task.images_decoded - before == 2 * STORED["train"]


@pytest.mark.usefixtures("cache")
def test_a_stream_holds_two_batches_at_most() -> None:
    held: set[int] = set()
    most = 0

    class Counted:
        """Images that are counted from their decoding until their batch has been used."""

        labels = np.zeros(40, np.int64)

        def decode(self, index: int) -> NDArray[np.uint8]:
            nonlocal most
            held.add(index)
            most = max(most, len(held))
            return np.full((6, 6, 3), index, np.uint8)

    task = TaskSpec("mock/counted", ("a",), ("{}",), "1", lambda part: Counted())
    part = TaskStore(task, 0).open("train", Form("squash", 6))
    for images, _ in Batches(part, transform(6), 4, CPU, seeded()):
        assert len(held) <= 2 * 4
        held -= {int(value) for value in (images[:, 0, 0, 0] * 255).round()}
    assert most <= 2 * 4 and not held


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("augment", ["none", "crop", "random_resized_crop"])
def test_stored_images_that_need_no_resizing_are_cut_as_whole_batches(augment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = loaded(augment)
    monkeypatch.setattr("petlbench.data.batches.in_order", lambda *_, **__: pytest.fail("one by one"))
    splits = [(task.val, None), (task.test, None)] + ([] if augment == "random_resized_crop" else [(task.train, seeded())])
    for part, generator in splits:
        batches = Batches(part, task.transform, 3, CPU, generator)
        assert sum(len(images) for images, _ in batches) == len(part)


def test_an_array_of_images_stays_in_order_under_a_random_window() -> None:
    part = Split(np.stack([np.full((6, 7, 3), index, np.uint8) for index in range(8)]), np.arange(8), "digest")
    for images, labels in Batches(part, transform(4, augment="crop"), 3, CPU, seeded()):
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
