"""Read datasets as their authors distribute them, and the splits that suites make of them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from petlbench.data.listing import Listing
from petlbench.data.load import find_task
from petlbench.data.task import TaskSpec
from petlbench.datasets.disk.disk_task import find, open_task
from petlbench.datasets.disk.facts import datasets, downloads
from petlbench.datasets.disk.layouts import LocatedDataset, smallnorb
from petlbench.errors import DataError

from . import originals
from .originals import WRITERS, facts

CASES = [(dataset, suite) for dataset in WRITERS for suite in datasets()[dataset].suites]
OFFICIAL_TEST = {"cifar100": 10, "svhn": 30, "patch_camelyon": 20, "oxford_flowers": 12, "dtd": 9, "oxford_pets": 12, "kitti_dist": 4}


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def found(root: Path, dataset: str, suite: str) -> LocatedDataset:
    result = find(root, facts(dataset), facts(dataset).suites[suite])
    assert result is not None
    return result


def opened(root: Path, dataset: str, suite: str) -> TaskSpec:
    return open_task(root, facts(dataset), facts(dataset).suites[suite])


def refusal(root: Path, dataset: str, suite: str) -> str:
    with pytest.raises(DataError) as caught:
        found(root, dataset, suite)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def places(listing: Listing) -> set[str]:
    return {listing.location(index) for index in range(len(listing))}


@pytest.mark.parametrize("dataset", [dataset for dataset in WRITERS if downloads(dataset)])
def test_what_is_downloaded_is_what_the_reader_reads(root: Path, dataset: str) -> None:
    WRITERS[dataset][1](root)
    assert [item.target for item in downloads(dataset) if not (root / item.target).exists()] == []


@pytest.mark.parametrize(("dataset", "suite"), CASES)
def test_every_original_becomes_splits_that_are_disjoint_and_decode(root: Path, dataset: str, suite: str) -> None:
    layout, write = WRITERS[dataset]
    write(root)
    result = found(root, dataset, suite)
    assert result.layout == layout
    for listing in result.splits.values():
        assert len(listing) == len(places(listing)) > 0
        assert listing.decode(len(listing) - 1).shape[2] == 3
    train, test = result.splits["train"], result.splits["test"]
    val = result.splits.get("val")
    assert not places(train) & places(test)
    assert val is None or not places(val) & (places(train) | places(test))
    assert opened(root, dataset, suite).sizes["test"] == len(test)


@pytest.mark.parametrize(("dataset", "suite"), CASES)
def test_the_splits_of_an_original_are_the_same_every_time(root: Path, dataset: str, suite: str) -> None:
    WRITERS[dataset][1](root)
    assert opened(root, dataset, suite).revision == opened(root, dataset, suite).revision


@pytest.mark.parametrize(("dataset", "suite"), CASES)
def test_an_original_that_is_not_there_is_no_error(root: Path, dataset: str, suite: str) -> None:
    assert find(root, datasets()[dataset], datasets()[dataset].suites[suite]) is None


@pytest.mark.parametrize("dataset", OFFICIAL_TEST)
def test_vtab_tests_on_all_official_test_images_and_says_that_the_draw_is_its_own(root: Path, dataset: str) -> None:
    WRITERS[dataset][1](root)
    result = found(root, dataset, "vtab")
    assert len(result.splits["test"]) == OFFICIAL_TEST[dataset]
    assert result.split == "resampled"


def test_colours_and_labels_of_arrays_belong_together(root: Path) -> None:
    for dataset in ("cifar10", "cifar100", "svhn"):
        WRITERS[dataset][1](root)
        test = found(root, dataset, "pgn12").splits["test"]
        for index in (0, 1, 2):
            assert test.decode(index).mean(axis=(0, 1)).argmax() == test.labels[index]


def test_a_ten_in_svhn_is_the_digit_zero(root: Path) -> None:
    originals.svhn(root)
    assert found(root, "svhn", "pgn12").splits["test"].labels[:3].tolist() == [0, 1, 2]


def test_halves_fifths_and_the_rest_of_each_class_as_coop_splits(root: Path) -> None:
    originals.eurosat(root)
    result = found(root, "eurosat", "blackvip16")
    assert {split: np.bincount(listing.labels).tolist() for split, listing in result.splits.items()} == {
        "train": [5, 5, 5],
        "val": [2, 2, 2],
        "test": [3, 3, 3],
    }
    assert result.split == "generated"


def test_a_fifth_of_the_training_images_validates_where_the_test_images_are_official(root: Path) -> None:
    originals.pets(root)
    splits = found(root, "oxford_pets", "craft15").splits
    assert {split: np.bincount(listing.labels).tolist() for split, listing in splits.items()} == {
        "train": [8, 8, 8],
        "val": [2, 2, 2],
        "test": [4, 4, 4],
    }


def test_caltech_has_other_classes_in_each_suite(root: Path) -> None:
    originals.caltech(root)
    coop = found(root, "caltech101", "craft15").splits["test"]
    assert {name.partition("/")[0]: int(label) for name, label in zip(coop.names, coop.labels, strict=True)} == {
        "Faces": 0,
        "accordion": 1,
        "zebra": 2,
    }
    vtab = found(root, "caltech101", "vtab").splits["test"]
    assert {name.partition("/")[0]: int(label) for name, label in zip(vtab.names, vtab.labels, strict=True)} == {
        "accordion": 0,
        "BACKGROUND_Google": 1,
        "Faces": 2,
        "Faces_easy": 3,
        "zebra": 4,
    }


def test_counts_of_clevr_are_ordered_as_each_suite_orders_them(root: Path) -> None:
    originals.clevr(root)
    assert found(root, "clevr_count", "vtab").splits["test"].labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert found(root, "clevr_count", "blackvip16").splits["test"].labels[:8].tolist() == [1, 2, 3, 4, 5, 6, 7, 0]  # "10" sorts first


def test_scene_files_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals.clevr(root)
    before = found(root, "clevr_dist", "vtab").splits["test"].labels
    monkeypatch.setattr("petlbench.datasets.disk.layouts.clevr_v1._summary", None)
    assert np.array_equal(found(root, "clevr_dist", "vtab").splits["test"].labels, before)


@pytest.mark.parametrize("content", [b"", b"[[]]", b'{"a.png": [5, 1.0]}'], ids=["empty", "another list", "other scenes"])
def test_what_is_kept_of_scenes_and_damaged_is_computed_again(root: Path, cache: Path, content: bytes) -> None:
    originals.clevr(root)
    before = found(root, "clevr_dist", "vtab").splits["test"].labels
    for kept in (cache / "scenes").iterdir():
        kept.write_bytes(content)
    assert np.array_equal(found(root, "clevr_dist", "vtab").splits["test"].labels, before)


def test_birds_are_numbered_by_the_ids_that_have_images(root: Path) -> None:
    originals.birds(root)
    train = found(root, "cub200_2011", "fgvc").splits["train"]  # ids 3, 17, 250: as numbers, not as texts
    assert {name.partition("/")[0]: int(label) for name, label in zip(train.names, train.labels, strict=True)} == {
        "alpha": 0,
        "beta": 1,
        "gamma": 2,
    }


def test_birds_train_where_their_list_says_1(root: Path) -> None:
    originals.birds(root)
    splits = found(root, "cub200_2011", "fgvc").splits
    assert {int(name.rpartition(" ")[2][:-4]) for name in splits["train"].names} == set(range(1, 15))


def test_toys_are_seen_by_the_first_camera(root: Path) -> None:
    originals.smallnorb(root)
    images = smallnorb.binary(root / "smallnorb" / f"{smallnorb.STEMS['train']}-dat.mat")
    train = found(root, "smallnorb_ele", "vtab").splits["train"]
    assert np.array_equal(train.decode(4)[..., 0], images[int(train.names[4]), 0])


def test_four_fifths_of_what_vtab_draws_train(root: Path) -> None:
    originals.cifar(root)
    splits = found(root, "cifar100", "vtab").splits
    assert len(splits["train"]) == 4 * len(splits["val"]) > 0


def test_scene_files_that_change_are_read_again(root: Path) -> None:
    originals.clevr(root)
    before = found(root, "clevr_count", "vtab").splits["test"].labels
    file = root / "clevr/CLEVR_v1.0/scenes/CLEVR_val_scenes.json"
    scenes = json.loads(file.read_text())
    first, second = scenes["scenes"][:2]
    first["objects"], second["objects"] = second["objects"], first["objects"]
    file.write_text(json.dumps(scenes))  # of the same size
    os.utime(file, ns=(1, 1))
    assert found(root, "clevr_count", "vtab").splits["test"].labels[:2].tolist() == before[1::-1].tolist()


def test_sprites_are_white_on_black(root: Path) -> None:
    originals.dsprites(root)
    assert set(np.unique(found(root, "dsprites_loc", "vtab").splits["test"].decode(0)).tolist()) == {0, 255}


def test_sprites_are_the_ones_that_were_drawn(root: Path) -> None:
    originals.dsprites(root)
    archive = np.load(root / "dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz")
    train = found(root, "dsprites_ori", "vtab").splits["train"]
    for index in (0, 5, 70):
        row = int(train.names[index])
        assert np.array_equal(train.decode(index)[..., 0], archive["imgs"][row] * 255)
        assert train.labels[index] == archive["latents_classes"][row, 3] * 2 // 5


def test_vpts_list_gives_vtabs_own_images(root: Path) -> None:
    originals.pets(root)
    lists = {"train": ["beta_3.jpg", "alpha_1.jpg"], "val": ["gamma_9.jpg"]}
    (root / "vtab_trainval_splits.json").write_text(json.dumps({"oxford_iiit_pet": lists}))
    result = found(root, "oxford_pets", "vtab")
    assert result.split == "vpt-list"
    assert result.splits["train"].names == ["beta_3.jpg", "alpha_1.jpg"]
    assert result.splits["train"].labels.tolist() == [1, 0]
    assert len(result.splits["test"]) == 12


def test_a_list_that_names_other_images_is_refused(root: Path) -> None:
    originals.pets(root)
    (root / "vtab_trainval_splits.json").write_text(json.dumps({"oxford_iiit_pet": {"train": ["beta_99.jpg"], "val": []}}))
    assert "lists beta_99.jpg for oxford_iiit_pet, which is not among the train images" in refusal(root, "oxford_pets", "vtab")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this ran",))


def test_a_pickle_that_would_run_code_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    originals.cifar(root)
    (root / "cifar-100-python/train").write_bytes(pickle.dumps({"data": _Evil()}))
    assert "it asks for builtins.print" in refusal(root, "cifar100", "pgn12")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("cifar100", "cifar-100-python/test"),
        ("svhn", "test_32x32.mat"),
        ("patch_camelyon", "pcam/camelyonpatch_level_2_split_test_y.h5"),
        ("oxford_flowers", "flowers-102/imagelabels.mat"),
        ("oxford_pets", "oxford-iiit-pet/annotations/test.txt"),
        ("dtd", "dtd/dtd/labels/val1.txt"),
        ("clevr_dist", "clevr/CLEVR_v1.0/scenes/CLEVR_val_scenes.json"),
        ("kitti_dist", "Kitti/raw/mapping/train_rand.txt"),
        ("dsprites_loc", "dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"),
        ("smallnorb_azi", "smallnorb/smallnorb-5x01235x9x18x6x2x96x96-testing-info.mat"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"], ids=["empty", "junk"])
def test_a_damaged_file_is_named(root: Path, dataset: str, file: str, content: bytes) -> None:
    WRITERS[dataset][1](root)
    (root / file).write_bytes(content)
    assert Path(file).name.partition(".")[0][:20] in refusal(root, dataset, "vtab")


def _npz(path: Path, **changes: object) -> None:
    content = dict(np.load(path)) | changes
    np.savez_compressed(path, **content)


def _norb(path: Path, *numbers: int) -> None:
    path.write_bytes(np.array(numbers, dtype="<i4").tobytes() + bytes(10_000))


SPRITES = "dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
TOYS = f"smallnorb/{smallnorb.STEMS['train']}-dat.mat"
UINT8 = 507333717


@pytest.mark.parametrize(
    ("dataset", "file", "damage"),
    [
        ("dsprites_loc", SPRITES, lambda path: _npz(path, latents_classes=np.zeros((200, 3), int))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, latents_classes=np.full((200, 6), 0.5))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, latents_classes=np.full((200, 6), np.nan))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, latents_classes=np.full((200, 6), None))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, imgs=np.zeros((10, 8, 8), np.uint8))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, imgs=np.zeros((200, 8, 8), np.float32))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, imgs=np.zeros((200, 8), np.uint8))),
        ("dsprites_loc", SPRITES, lambda path: _npz(path, imgs=np.full((200, 8, 8), None))),
        ("smallnorb_azi", TOYS, lambda path: _norb(path, UINT8, 2**31 - 1, 36, 2, 8, 8)),
        ("smallnorb_azi", TOYS, lambda path: _norb(path, UINT8, -1, 36, 2, 8, 8)),
        ("smallnorb_azi", TOYS, lambda path: _norb(path, UINT8, 4, -36, -2, 8, 8)),
        ("smallnorb_azi", TOYS, lambda path: _norb(path, UINT8, 4, 2**30, 2**30, 2**30, 8)),
        ("smallnorb_azi", TOYS, lambda path: _norb(path, UINT8 - 1, 4, 36, 2, 5, 5)),
    ],
)
def test_arrays_of_other_types_and_shapes_are_refused(root: Path, dataset: str, file: str, damage: Callable[[Path], object]) -> None:
    WRITERS[dataset][1](root)
    damage(root / file)
    with pytest.raises(DataError) as caught:
        listing = found(root, dataset, "vtab").splits["test"]
        listing.decode(len(listing) - 1)
    assert str((root / file).parent) in str(caught.value) and (root / file).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kitti_without_the_devkits_lists_says_where_they_are(root: Path) -> None:
    originals.kitti(root)
    for path in (root / "Kitti/raw/mapping").iterdir():
        path.unlink()
    (root / "Kitti/raw/mapping").rmdir()
    assert "unpack mapping/ of devkit_object.zip there" in refusal(root, "kitti_dist", "vtab")


@pytest.mark.parametrize("dataset", ["eurosat", "dtd", "food101", "caltech101", "resisc45"])
def test_a_missing_class_folder_is_an_error_and_shifts_no_label(root: Path, dataset: str) -> None:
    WRITERS[dataset][1](root)
    shutil.rmtree(next(path for name in ("alpha", "accordion") for path in root.rglob(name)))
    assert "3 class folders expected, 2 found" in refusal(root, dataset, "blackvip16")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("images.txt", "31 red_thing/x.jpg", r"image_class_labels\.txt: lists other images than images\.txt, 31 for one"),
        ("image_class_labels.txt", "31 3", r"image_class_labels\.txt: lists other images than images\.txt, 31 for one"),
        ("train_test_split.txt", "30 1", r"train_test_split\.txt, line 31: image 30 is listed already"),
        ("image_class_labels.txt", "1 17", r"image_class_labels\.txt, line 31: image 1 is listed already"),
    ],
)
def test_lists_of_birds_that_disagree_are_one_error(tmp_path: Path, file: str, line: str, message: str) -> None:
    originals.birds(tmp_path)
    with (tmp_path / "CUB_200_2011" / file).open("a") as opened:
        opened.write(f"{line}\n")
    with pytest.raises(DataError, match=message):
        find_task("fgvc/cub200_2011", tmp_path)


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("train_test_split.txt", "2", r"train_test_split\.txt: expected 0 or 1 for image 1, got '2'"),
        ("image_class_labels.txt", "albatross", r"image_class_labels\.txt: expected a number for image 1, got 'albatross'"),
    ],
)
def test_a_value_of_birds_that_cannot_be_is_one_error(tmp_path: Path, file: str, value: str, message: str) -> None:
    originals.birds(tmp_path)
    path = tmp_path / "CUB_200_2011" / file
    path.write_text(f"1 {value}\n" + path.read_text().partition("\n")[2])
    with pytest.raises(DataError, match=message):
        find_task("fgvc/cub200_2011", tmp_path)


def test_lists_of_flowers_that_disagree_are_one_error(tmp_path: Path) -> None:
    originals.flowers(tmp_path)
    parts = {"trnid": np.arange(1, 10), "valid": np.arange(10, 19), "tstid": np.arange(19, 32)}
    savemat(tmp_path / "flowers-102/setid.mat", {name: numbers[None] for name, numbers in parts.items()})
    with pytest.raises(DataError, match=r"setid\.mat: lists image 31 and imagelabels\.mat has 30"):
        find_task("fgvc/oxford_flowers", tmp_path)


def test_labels_of_other_images_are_one_error(tmp_path: Path) -> None:
    originals.dogs(tmp_path)
    files = loadmat(tmp_path / "stanford_dogs/train_list.mat")
    savemat(tmp_path / "stanford_dogs/train_list.mat", {"file_list": files["file_list"], "labels": files["labels"].ravel()[:-1]})
    with pytest.raises(DataError, match=r"train_list\.mat: 'file_list' holds other things than 29 texts; fetch it again"):
        find_task("fgvc/stanford_dogs", tmp_path)


def test_more_labels_than_images_in_an_array_are_one_error(root: Path) -> None:
    originals.svhn(root)
    labels = loadmat(root / "train_32x32.mat")
    savemat(root / "train_32x32.mat", {"X": labels["X"][..., :-1], "y": labels["y"]})
    with pytest.raises(
        DataError, match=r"train_32x32\.mat: 'X' is uint8 \(32, 32, 3, 29\), expected uint8 \(32, 32, 3, 30\); fetch it again"
    ):
        opened(root, "svhn", "blackvip16").source("train").decode(0)
