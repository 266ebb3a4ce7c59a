"""Layout ``clevr_v1``: CLEVR as published, ``CLEVR_v1.0/{images,scenes}``; labels are counted or measured in the scene files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from petlbench.config.cache_folder import cache_folder
from petlbench.data.listing import Files, Listing
from petlbench.data.sealed import read_sealed, write_sealed
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry, class_names
from . import LocatedDataset
from ._lists import first_folder, position_in
from ._splits import Original, for_suite
from ._vtab_labels import clevr_distance

FOLDERS = ("CLEVR_v1.0", "clevr/CLEVR_v1.0")
PARTS = {"trainval": "train", "test": "val"}  # the published test images have no scenes
Scenes = dict[str, tuple[int, float]]  # image -> number of objects, depth of the nearest one in camera units


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Label images with counts, in the order of the suite's class names, or with distances."""
    folder = first_folder(root, FOLDERS, "scenes")
    if folder is None:
        return None
    parts: dict[str, Listing] = {}
    for part, name in PARTS.items():
        scenes = _scenes_of(folder / "scenes" / f"CLEVR_{name}_scenes.json")
        images = sorted(scenes)
        parts[part] = Files(folder / "images" / name, images, [_label(scenes[image], dataset, entry, folder) for image in images])
    return for_suite(root, "clevr_v1", Original(folder, parts), dataset, entry)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return f"{FOLDERS[0]}/images/{{train,val}}/ and {FOLDERS[0]}/scenes/CLEVR_{{train,val}}_scenes.json"


def _label(scene: tuple[int, float], dataset: Dataset, entry: SuiteEntry, folder: Path) -> int:
    count, depth = scene
    if dataset.name == "clevr_dist":
        return clevr_distance([depth])
    assert entry.names is not None
    label = position_in(class_names(entry.names).names)(str(count))
    if label is None:
        raise DataError(f"{folder}: a scene has {count} objects, 3 to 10 were expected; unpack the dataset again")
    return label


def _scenes_of(file: Path) -> Scenes:
    """Read the number of objects and the depth of each image from a scene file, which takes long, and cache them."""
    try:
        status = file.stat()
        kept = cache_folder() / "scenes" / f"{file.stem}-{status.st_size}-{status.st_mtime_ns}.sealed"
        content = read_sealed(kept)
        if content is None:
            content = json.dumps({scene["image_filename"]: _summary(scene) for scene in json.loads(file.read_bytes())["scenes"]}).encode()
            write_sealed(kept, content)
        return {image: (count, depth) for image, (count, depth) in json.loads(content).items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DataError(f"{file}: not CLEVR's scenes ({error!r}); unpack the dataset again") from None


def _summary(scene: dict[str, Any]) -> tuple[int, float]:
    """The third entry of an object's pixel_coords is its depth."""
    depths = [float(thing["pixel_coords"][2]) for thing in scene["objects"]]
    if not all(map(math.isfinite, depths)):
        raise ValueError("a depth that is no number")
    return len(depths), min(depths)
