"""Datasets of a few images as their authors distribute them: the formats are the real ones, the sizes are not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from petlbench.datasets.disk.facts import Dataset, datasets

from .miniature import image_folders, picture, save

CLASSES = ("alpha", "beta", "gamma")


def stack(n: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """(n, size, size, 3), every image another; classes 0, 1, 2 in turn."""
    return np.stack([picture(index % 3, 1000 * seed + index, (size, size)) for index in range(n)])


def in_turn(n: int, classes: int = 3) -> NDArray[np.int64]:
    return np.arange(n) % classes


def cifar(root: Path, name: str = "cifar-100-python") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    parts = {"cifar-100-python": ["train", "test"], "cifar-10-batches-py": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}[name]
    for seed, part in enumerate(parts):
        rows = stack(10, 32, seed).transpose(0, 3, 1, 2).reshape(10, -1)
        key = "labels" if name == "cifar-10-batches-py" else "fine_labels"
        (folder / part).write_bytes(pickle.dumps({"data": rows, key: in_turn(10).tolist()}, protocol=2))


def cifar10(root: Path) -> None:
    cifar(root, "cifar-10-batches-py")


def svhn(root: Path) -> None:
    for seed, part in enumerate(("train", "test")):
        digits = np.array([10, 1, 2])[in_turn(30)]  # 10 is a zero
        savemat(root / f"{part}_32x32.mat", {"X": stack(30, 32, seed).transpose(1, 2, 3, 0), "y": digits[:, None]}, do_compression=True)


def pcam(root: Path) -> None:
    import h5py

    (root / "pcam").mkdir()
    for seed, part in enumerate(("train", "valid", "test")):
        stem = root / f"pcam/camelyonpatch_level_2_split_{part}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file["x"] = stack(20, 16, seed)
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = in_turn(20, 2).reshape(20, 1, 1, 1)


def flowers(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 31):
        save(folder / f"jpg/image_{number:05d}.jpg", picture((number - 1) % 3, number))
    savemat(folder / "imagelabels.mat", {"labels": in_turn(30)[None] + 1})
    parts = {"trnid": np.arange(1, 10), "valid": np.arange(10, 19), "tstid": np.arange(19, 31)}
    savemat(folder / "setid.mat", {name: numbers[None] for name, numbers in parts.items()})


def food(root: Path) -> None:
    image_folders(root / "food-101/images", CLASSES, 10)
    _rename(root / "food-101/images")
    (root / "food-101/meta").mkdir()
    for part, numbers in (("train", range(7)), ("test", range(7, 10))):
        (root / f"food-101/meta/{part}.txt").write_text("".join(f"{name}/img_{i:03d}\n" for name in CLASSES for i in numbers))


def dtd(root: Path) -> None:
    folder = root / "dtd/dtd"
    image_folders(folder / "images", CLASSES, 9)
    _rename(folder / "images")
    (folder / "labels").mkdir()
    for part, numbers in (("train", range(3)), ("val", range(3, 6)), ("test", range(6, 9))):
        (folder / f"labels/{part}1.txt").write_text("".join(f"{name}/img_{i:03d}.jpg\n" for name in CLASSES for i in numbers))


def eurosat(root: Path) -> None:
    image_folders(root / "eurosat/2750", CLASSES, 10)


def caltech(root: Path) -> None:
    image_folders(root / "caltech101/101_ObjectCategories", ["BACKGROUND_Google", "Faces", "Faces_easy", "accordion", "zebra"], 8)


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, numbers in (("trainval", range(1, 11)), ("test", range(11, 15))):
        lines = [f"{name}_{i} {label + 1} 1 1" for label, name in enumerate(CLASSES) for i in numbers]
        (folder / f"annotations/{part}.txt").write_text("\n".join(lines))
        for name in lines:
            save(folder / f"images/{name.split()[0]}.jpg", picture(int(name.split()[1]) - 1, len(name)))


def sun397(root: Path) -> None:
    names = ["/a/abbey", "/a/access_road", "/b/barn/indoor"]
    image_folders(root / "SUN397", [name[1:] for name in names], 10)
    _rename(root / "SUN397")
    (root / "SUN397/ClassName.txt").write_text("\n".join(names))
    (root / "SUN397_Partitions").mkdir()
    for part, numbers in (("Training", range(5)), ("Testing", range(5, 10))):
        (root / f"SUN397_Partitions/{part}_01.txt").write_text("".join(f"{name}/img_{i:03d}.jpg\n" for name in names for i in numbers))


def clevr(root: Path) -> None:
    for part in ("train", "val"):
        scenes = []
        for index in range(20):
            name = f"CLEVR_{part}_{index:06d}.png"
            save(root / f"clevr/CLEVR_v1.0/images/{part}/{name}", picture(index % 3, index))
            depths = [8.2 + (index % 3) + step for step in range(3 + index % 8)]
            scenes.append({"image_filename": name, "objects": [{"pixel_coords": [0, 0, depth]} for depth in depths]})
        (root / "clevr/CLEVR_v1.0/scenes").mkdir(exist_ok=True)
        (root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{part}_scenes.json").write_text(json.dumps({"scenes": scenes}))


def kitti(root: Path) -> None:
    folder = root / "Kitti/raw"
    for place in ("training/label_2", "mapping"):
        (folder / place).mkdir(parents=True)
    for index in range(20):
        save(folder / f"training/image_2/{index:06d}.png", picture(index % 3, index))
        line = f"Car 0.00 0 1.5 0 0 9 9 1.5 1.6 3.9 1.0 1.5 {5 + 10 * (index % 3)}.0 0.1\nDontCare -1 -1 -10 0 0 9 9 -1 -1 -1 -1000 -1000 -1000 -10\n"
        (folder / f"training/label_2/{index:06d}.txt").write_text(line)
    (folder / "mapping/train_rand.txt").write_text(",".join(str(20 - index) for index in range(20)))
    (folder / "mapping/train_mapping.txt").write_text("".join(f"2011 drive_{index // 4} {index}\n" for index in range(20)))


def dsprites(root: Path) -> None:
    latents = np.zeros((200, 6), dtype=np.int64)
    latents[:, 3], latents[:, 4] = np.arange(200) % 40, np.arange(200) % 32
    images = (stack(200, 8)[..., 0] > 100).astype(np.uint8)
    images[:, 0, 0] = 1
    (root / "dsprites").mkdir()
    np.savez_compressed(root / "dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz", imgs=images, latents_classes=latents)


def smallnorb(root: Path) -> None:
    (root / "smallnorb").mkdir()
    for seed, stem in enumerate(("smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing")):
        images = stack(36, 8, seed)[..., :2].transpose(0, 3, 1, 2)
        info = np.stack([np.zeros(36), np.arange(36) % 9, 2 * (np.arange(36) % 18), np.zeros(36)], axis=1).astype("<i4")
        header = np.array([507333717, 4, *images.shape], dtype="<i4")
        (root / f"smallnorb/{stem}-dat.mat").write_bytes(header.tobytes() + images.tobytes())
        (root / f"smallnorb/{stem}-info.mat").write_bytes(np.array([507333716, 2, 36, 4, 1], dtype="<i4").tobytes() + info.tobytes())


def birds(root: Path, name: str = "CUB_200_2011") -> None:
    folder = root / name
    ids = ["3", "17", "250"]
    images = [(str(index), f"{CLASSES[index % 3]}/bird {index}.jpg", ids[index % 3], str(int(index < 15))) for index in range(1, 31)]
    for index, path, _, _ in images:
        save(folder / "images" / path, picture(int(index) % 3, int(index)))
    for column, file in ((1, "images"), (2, "image_class_labels"), (3, "train_test_split")):
        (folder / f"{file}.txt").write_text("".join(f"{image[0]} {image[column]}\n" for image in images))


def nabirds(root: Path) -> None:
    birds(root, "nabirds")


def dogs(root: Path) -> None:
    folder = root / "stanford_dogs"
    for part, numbers in (("train", range(10)), ("test", range(10, 14))):
        files = [f"n0{label}-{name}/{i}.jpg" for label, name in enumerate(CLASSES) for i in numbers]
        for index, file in enumerate(files):
            save(folder / "Images" / file, picture(index // len(numbers), index))
        cells = np.empty((len(files), 1), dtype=object)
        cells[:, 0] = files
        savemat(folder / f"{part}_list.mat", {"file_list": cells, "labels": np.repeat([1, 2, 3], len(numbers))[:, None]})


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    for seed, (images, file) in enumerate((("cars_train", "devkit/cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat"))):
        rows = np.array([(f"{i:05d}.jpg", i % 3 + 1) for i in range(1, 16)], dtype=[("fname", object), ("class", object)])[None]
        for i in range(1, 16):
            save(folder / images / f"{i:05d}.jpg", picture(i % 3, 100 * seed + i))
        savemat(folder / file, {"annotations": rows})


def resisc45(root: Path) -> None:
    image_folders(root / "resisc45/NWPU-RESISC45", CLASSES, 10)


def _rename(folder: Path) -> None:
    """Rename images to the suffix .jpg, which lists imply."""
    for path in folder.rglob("*.JPEG"):
        path.rename(path.with_suffix(".jpg"))


def facts(name: str) -> Dataset:
    """Return a dataset's registered facts; where folders are the classes, with the miniature's number of classes."""
    dataset = datasets()[name]
    if name not in BY_FOLDER:
        return dataset
    classes = {suite: BY_FOLDER[name] if suite != "vtab" or name != "caltech101" else 5 for suite in dataset.suites}
    suites = {suite: entry.model_copy(update={"classes": classes[suite]}) for suite, entry in dataset.suites.items()}
    return dataset.model_copy(update={"suites": suites})


BY_FOLDER = {"food101": 3, "dtd": 3, "eurosat": 3, "resisc45": 3, "caltech101": 3}
WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {  # dataset -> layout, writer
    "cifar10": ("torchvision", cifar10),
    "cifar100": ("torchvision", cifar),
    "svhn": ("torchvision", svhn),
    "patch_camelyon": ("torchvision", pcam),
    "oxford_flowers": ("torchvision", flowers),
    "food101": ("torchvision", food),
    "dtd": ("torchvision", dtd),
    "eurosat": ("torchvision", eurosat),
    "caltech101": ("torchvision", caltech),
    "oxford_pets": ("torchvision", pets),
    "sun397": ("torchvision", sun397),
    "clevr_count": ("clevr_v1", clevr),
    "clevr_dist": ("clevr_v1", clevr),
    "kitti_dist": ("kitti", kitti),
    "dsprites_loc": ("dsprites", dsprites),
    "dsprites_ori": ("dsprites", dsprites),
    "smallnorb_azi": ("smallnorb", smallnorb),
    "smallnorb_ele": ("smallnorb", smallnorb),
    "cub200_2011": ("official", birds),
    "nabirds": ("official", nabirds),
    "stanford_dogs": ("official", dogs),
    "stanford_cars": ("official", cars),
    "resisc45": ("official", resisc45),
}
