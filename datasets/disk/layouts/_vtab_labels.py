"""VTAB's labels for CLEVR, KITTI, dSprites and small NORB from the datasets' own annotations (task_adaptation's definitions, TFDS's splits)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLEVR_DEPTHS = (8.0, 8.5, 9.0, 9.5, 10.0)
KITTI_METRES = (8.0, 20.0, 999.0)
NO_VEHICLE = 1000.0  # metres
VEHICLES = ("Car", "Van", "Truck")
SMALLNORB_TRAIN = (4, 6, 7, 8, 9)  # object instances
FEWEST, MOST = 3, 10  # objects in a CLEVR scene


def clevr_distance(depths: Sequence[float]) -> int:
    """Return 0 to 5 from the depths of a scene's objects (camera units): the nearest one's bin. Bins include their upper end."""
    return int(np.searchsorted(CLEVR_DEPTHS, min(depths), side="left"))


def kitti_distance(lines: Sequence[str]) -> int:
    """Return 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 for no vehicle, from the lines of an image's label file.

    A line is KIND and 14 numbers; the 14th word is z in metres.
    """
    objects = [line.split() for line in lines if line.strip()]
    distances = [float(words[13]) for words in objects if words[0] in VEHICLES]
    if not np.isfinite(distances).all():
        raise ValueError("a distance that is no number")
    nearest = min(distances, default=NO_VEHICLE)
    return int(np.searchsorted(KITTI_METRES, nearest, side="left"))


def kitti_videos(video_of: Mapping[int, str]) -> dict[str, list[int]]:
    """Split images such that no video is in two splits: a tenth of the videos tests, as many validate, drawn as TFDS draws them."""
    generator = np.random.RandomState(123)
    videos = sorted(set(video_of.values()))
    count = max(1, len(videos) // 10)
    test = set(generator.choice(videos, count, replace=False))
    val = set(generator.choice(sorted(set(videos) - test), count, replace=False))
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for image, video in sorted(video_of.items()):
        splits["test" if video in test else "val" if video in val else "train"].append(image)
    return splits


def dsprites_location(x_index: ArrayLike) -> NDArray[np.int64]:
    """Return 0 to 15 from the horizontal position, 0 to 31 (N,)."""
    return np.asarray(x_index, dtype=np.int64) // 2


def dsprites_orientation(index: ArrayLike) -> NDArray[np.int64]:
    """Return 0 to 15 from the orientation, 0 to 39 (N,): three and two orientations in turn."""
    return np.asarray(index, dtype=np.int64) * 2 // 5


def smallnorb_azimuth(azimuth: ArrayLike) -> NDArray[np.int64]:
    """Return 0 to 17 from the stored azimuth, 0, 2, ..., 34 (N,)."""
    return np.asarray(azimuth, dtype=np.int64) // 2
