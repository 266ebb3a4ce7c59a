"""Layout ``official``: archives of CUB, NABirds, Stanford Dogs, Stanford Cars and RESISC45, unpacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from petlbench.data.listing import Files, Listing
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset, _arrays
from ._lists import class_folders, class_names_below, first_folder, position_in, read_text
from ._splits import Original, for_suite


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read the dataset and make the suite's splits of it."""
    folders, holding, reader = _DATASETS[dataset.name]
    folder = first_folder(root, folders, holding)
    return None if folder is None else for_suite(root, "official", reader(folder, dataset.class_count(entry)), dataset, entry)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    folders, holding, _ = _DATASETS[dataset.name]
    return f"{folders[0]}/{holding}, the archive as its authors distribute it"


def _birds(folder: Path, classes: int) -> Original:
    """Lines ``IMAGE VALUE`` in three files: path, class, and 1 for a training image. The classes that have images are numbered by their ids."""
    files = [folder / name for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")]
    paths, class_of, trains = columns = [_column(file) for file in files]
    for file, column in zip(files[1:], columns[1:], strict=True):
        if strangers := sorted(paths.keys() ^ column.keys()):
            raise DataError(f"{file}: lists other images than {files[0].name}, {strangers[0]} for one; unpack the archive again")
    for file, column, is_right, expected in (
        (files[1], class_of, str.isdecimal, "a number"),
        (files[2], trains, ("0", "1").__contains__, "0 or 1"),
    ):
        if wrong := next((image for image, value in column.items() if not is_right(value)), None):
            raise DataError(f"{file}: expected {expected} for image {wrong}, got '{column[wrong]}'; unpack the archive again")
    label_of = position_in(sorted({int(identifier) for identifier in class_of.values()}))
    parts: dict[str, Listing] = {}
    for part, flag in (("trainval", "1"), ("test", "0")):
        images = [image for image in paths if trains[image] == flag]
        parts[part] = Files(folder / "images", [paths[image] for image in images], [label_of(int(class_of[image])) for image in images])  # type: ignore[arg-type]
    return Original(folder, parts)


def _column(file: Path) -> dict[str, str]:
    """Read lines ``IMAGE VALUE``. DataError for an image that is listed twice."""
    column: dict[str, str] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        image, _, value = line.strip().partition(" ")
        if image in column:
            raise DataError(f"{file}, line {number}: image {image} is listed already; unpack the archive again")
        if image:
            column[image] = value
    return column


def _dogs(folder: Path, classes: int) -> Original:
    parts: dict[str, Listing] = {}
    for part, name in (("trainval", "train_list.mat"), ("test", "test_list.mat")):
        names, labels = _arrays.names_and_labels(folder / name, "file_list", "labels")
        parts[part] = Files(folder / "Images", names, labels - 1)
    return Original(folder, parts)


def _cars(folder: Path, classes: int) -> Original:
    parts: dict[str, Listing] = {}
    for part, images, file in (
        ("trainval", "cars_train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test", "cars_test_annos_withlabels.mat"),
    ):
        names, labels = _arrays.names_and_labels(folder / file, "annotations.fname", "annotations.class")
        parts[part] = Files(folder, [f"{images}/{name}" for name in names], labels - 1)
    return Original(folder, parts)


def _resisc45(folder: Path, classes: int) -> Original:
    images = folder / "NWPU-RESISC45"
    return Original(images, {"all": class_folders(images, position_in(class_names_below(images, classes)))})


_DATASETS: dict[
    str, tuple[tuple[str, ...], str, Callable[[Path, int], Original]]
] = {  # folders, a file or folder that shows that it is there, reader
    "cub200_2011": (("CUB_200_2011", "CUB"), "train_test_split.txt", _birds),
    "nabirds": (("nabirds",), "train_test_split.txt", _birds),
    "stanford_dogs": (("stanford_dogs", "StanfordDogs", "dogs"), "train_list.mat", _dogs),
    "stanford_cars": (("stanford_cars", "StanfordCars", "cars"), "cars_test_annos_withlabels.mat", _cars),
    "resisc45": (("resisc45", "."), "NWPU-RESISC45", _resisc45),
}
