"""VTAB's labels at the edges of their bins, and its split of KITTI by video."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.datasets.disk.layouts._vtab_labels import (
    clevr_distance,
    dsprites_location,
    dsprites_orientation,
    kitti_distance,
    kitti_videos,
    smallnorb_azimuth,
)

EPSILON = 1e-6


@pytest.mark.parametrize(("label", "edge"), list(enumerate((8.0, 8.5, 9.0, 9.5, 10.0))))
def test_a_depth_at_an_edge_belongs_to_the_nearer_bin(label: int, edge: float) -> None:
    assert clevr_distance([edge]) == clevr_distance([edge - EPSILON]) == label
    assert clevr_distance([edge + EPSILON]) == label + 1


@given(st.lists(st.floats(0.1, 50), min_size=1))
def test_only_the_nearest_object_counts(depths: list[float]) -> None:
    assert clevr_distance(depths) == clevr_distance([min(depths)])


def line(kind: str, z: float) -> str:
    return f"{kind} 0.00 0 1.85 387 181 423 203 1.67 1.87 3.69 -16.53 2.39 {z} 1.57"


@pytest.mark.parametrize(("z", "label"), [(-3.0, 0), (8.0, 0), (8.01, 1), (20.0, 1), (20.01, 2), (900.0, 2)])
def test_metres_to_the_nearest_vehicle(z: float, label: int) -> None:
    assert kitti_distance([line("Pedestrian", 1.0), line("Van", z), line("Truck", z + 5)]) == label


@pytest.mark.parametrize("lines", [[], [line("Cyclist", 4.0)], ["DontCare -1 -1 -10 503 169 590 190 -1 -1 -1 -1000 -1000 -1000 -10"]])
def test_no_vehicle_is_a_class_of_its_own(lines: list[str]) -> None:
    assert kitti_distance(lines) == 3


@given(st.integers(3, 300), st.integers(0, 300))
def test_no_video_is_in_two_splits_and_no_image_is_lost(n_videos: int, more: int) -> None:
    video_of = {image: f"drive_{image % n_videos:04d}" for image in range(n_videos + more)}
    splits = kitti_videos(video_of)
    seen = {split: {video_of[image] for image in images} for split, images in splits.items()}
    assert not seen["train"] & seen["test"] and not seen["val"] & (seen["train"] | seen["test"])
    assert sorted(image for images in splits.values() for image in images) == list(video_of)
    assert len(seen["test"]) == len(seen["val"]) == max(1, n_videos // 10)


def test_videos_are_drawn_by_numpys_legacy_generator_from_seed_123_first_to_test_then_to_validate() -> None:
    splits = kitti_videos({image: f"drive_{image:02d}" for image in range(20)})
    assert (splits["test"], splits["val"]) == ([5, 14], [7, 11])


def test_positions_and_orientations_of_sprites() -> None:
    assert dsprites_location(np.arange(32)).tolist() == np.repeat(np.arange(16), 2).tolist()
    assert dsprites_orientation([0, 1, 2, 3, 4, 5, 6, 7, 39]).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 15]
    assert dsprites_orientation(np.arange(40)).tolist() == np.floor(np.arange(40) / 2.5).astype(int).tolist()


def test_azimuths_of_toys() -> None:
    assert smallnorb_azimuth([0, 2, 34]).tolist() == [0, 1, 17]
