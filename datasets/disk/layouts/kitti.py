"""Layout ``kitti``: KITTI's object detection images with the devkit's lists of the videos they come from.

``Kitti/raw/training/{image_2,label_2}`` as torchvision has them, or ``kitti/training/...``; ``mapping/train_{rand,mapping}.txt`` of the devkit beside.
"""

from __future__ import annotations

from pathlib import Path

from petlbench.data.listing import Files, Listing
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._lists import first_folder, read_text
from ._splits import Original, for_suite
from ._vtab_labels import kitti_distance, kitti_videos

FOLDERS = ("Kitti/raw", "kitti")


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Distances to the nearest vehicle, split by video."""
    folder = first_folder(root, FOLDERS, "training/label_2")
    if folder is None:
        return None
    parts: dict[str, Listing] = {}
    for part, numbers in kitti_videos(_videos(folder)).items():
        labels = [_distance(folder / "training/label_2" / f"{number:06d}.txt") for number in numbers]
        parts[part] = Files(folder / "training/image_2", [f"{number:06d}.png" for number in numbers], labels)
    return for_suite(root, "kitti", Original(folder, parts), dataset, entry)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return f"{FOLDERS[0]}/training/{{image_2,label_2}}/ and {FOLDERS[0]}/mapping/train_{{rand,mapping}}.txt"


def _videos(folder: Path) -> dict[int, str]:
    """Image i is described by line ``train_rand[i]`` (from 1) of ``train_mapping.txt``, whose second word is the video."""
    lists = folder / "mapping"
    if not lists.is_dir():
        raise DataError(f"{folder} has no mapping/train_rand.txt and train_mapping.txt; unpack mapping/ of devkit_object.zip there")
    lines = read_text(lists / "train_mapping.txt").splitlines()
    try:
        order = [int(number) for number in read_text(lists / "train_rand.txt").replace(",", " ").split()]
        videos = {image: lines[number - 1].split()[1] for image, number in enumerate(order)}
    except (ValueError, IndexError):
        videos = {}
    if len(set(videos.values())) < 3:  # one for each split
        raise DataError(f"{lists}: train_rand.txt and train_mapping.txt do not belong together; unpack mapping/ of devkit_object.zip again")
    return videos


def _distance(file: Path) -> int:
    try:
        return kitti_distance(read_text(file).splitlines())
    except (ValueError, IndexError):
        raise DataError(f"{file}: not a KITTI label file; unpack data_object_label_2.zip again") from None
