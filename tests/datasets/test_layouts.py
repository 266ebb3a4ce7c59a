"""Every layout is read from a miniature copy: the right images with the right labels, and one clear error for what is broken."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlbench.config.settings import Protocol
from petlbench.data import listing as module
from petlbench.data.acquire.presence import presence
from petlbench.data.listing import Listing
from petlbench.data.load import find_task, load_task
from petlbench.data.task import SPLITS, TaskSpec
from petlbench.datasets.disk import facts
from petlbench.errors import DataError

from .miniature import CLASSES, coop, image_folders, picture, split_entries, vpt_fgvc, vtab_task, write_images, zipped

WNIDS = facts.wordnet_ids()
PLAIN = ((0.0,) * 3, (1.0,) * 3)


def listing(spec: TaskSpec, split: str) -> Listing:
    source = spec.source(split)
    assert isinstance(source, Listing)
    return source


def labels(spec: TaskSpec) -> dict[str, list[int]]:
    return {split: spec.source(split).labels.tolist() for split in SPLITS}


def digests(spec: TaskSpec) -> dict[str, str]:
    return load_task(spec, Protocol(), 8, *PLAIN).split_hashes


def dtd(root: Path) -> TaskSpec:
    return find_task("blackvip16/dtd", root)


@pytest.fixture(autouse=True)
def images_are_cached_below_the_test(cache: Path) -> None:
    """Give each test its own cache of stores."""


def test_vtab_folders_keep_the_order_of_their_lists(tmp_path: Path) -> None:
    vtab_task(tmp_path, "cifar")
    spec = find_task("vtab/cifar100", tmp_path)
    assert (spec.layout, spec.split, len(spec.class_names)) == ("vtab1k", "published", 100)
    assert labels(spec) == {"train": [0, 1] * 4, "val": [0, 1] * 2, "test": [0, 1] * 3}
    assert listing(spec, "val").names[1] == "images/val200/000001.jpg"


@pytest.mark.parametrize("parent", ["vtab-1k", "vtab1k", "."])
def test_vtab_folders_may_lie_in_the_root_itself(tmp_path: Path, parent: str) -> None:
    vtab_task(tmp_path / "somewhere", "svhn")
    (tmp_path / parent).parent.mkdir(exist_ok=True)
    (tmp_path / "data" / parent).mkdir(parents=True)
    (tmp_path / "somewhere/vtab-1k/svhn").rename(tmp_path / "data" / parent / "svhn")
    assert find_task("vtab/svhn", tmp_path / "data").layout == "vtab1k"


def test_names_with_blanks_are_split_at_the_last_one(tmp_path: Path) -> None:
    task = vtab_task(tmp_path, "dtd")
    (task / "images/test/000000.jpg").rename(task / "images/test/a name 7.jpg")
    (task / "test.txt").write_text("images/test/a name 7.jpg 46\n")
    test = listing(find_task("vtab/dtd", tmp_path), "test")
    assert (test.names, test.labels.tolist()) == (["images/test/a name 7.jpg"], [46])


def test_an_archive_of_a_vtab_task_is_the_same_task_as_its_folder(tmp_path: Path) -> None:
    task = vtab_task(tmp_path, "svhn")
    folder = find_task("vtab/svhn", tmp_path)
    before = digests(folder)
    zipped(task)
    archive = find_task("vtab/svhn", tmp_path)
    assert not task.exists() and archive.revision == folder.revision
    assert archive.source("test").decode(3).tobytes() == find_task("vtab/svhn", tmp_path).source("test").decode(3).tobytes()
    assert digests(archive) == before


@pytest.mark.parametrize(("folder", "images"), [("oxford_flowers", "jpg"), ("oxford_flowers", "images"), ("flowers102", "images")])
def test_coop_and_pgn_folders_are_the_same_task(tmp_path: Path, folder: str, images: str) -> None:
    reference = tmp_path / "reference"
    coop(reference / "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json")
    coop(tmp_path / "data" / folder, images, "split_zhou_OxfordFlowers.json")
    specs = [find_task("blackvip16/oxford_flowers", root) for root in (reference, tmp_path / "data")]
    assert specs[0].revision == specs[1].revision and digests(specs[0]) == digests(specs[1])


def test_coop_rows_give_the_order_and_the_class_names(tmp_path: Path) -> None:
    coop(tmp_path / "dtd", "images", "split_zhou_DescribableTextures.json")
    spec = dtd(tmp_path)
    assert spec.class_names == CLASSES
    assert listing(spec, "train").names == [name for name, _, _ in split_entries()["train"]]
    assert spec.prompts()[0] == ("red thing texture.",)


def test_pgn_reads_names_in_lower_case_and_trains_on_all_but_test(tmp_path: Path) -> None:
    names = ("Red_Thing", "Green_Thing", "Blue_Thing")
    coop(tmp_path / "dtd", "images", "split_zhou_DescribableTextures.json", split_entries(names))
    spec = find_task("pgn12/dtd", tmp_path)
    assert spec.prompts()[1] == ("This is a photo of a green thing",)
    assert len(load_task(spec, Protocol(train_on="trainval"), 8, *PLAIN).train) == 12 + 6


def test_svhn_tests_on_the_whole_test_folder(tmp_path: Path) -> None:
    numbers = {"train": (0, 1), "val": (2, 3)}
    rows = {
        split: [(f"{label}/{i:05d}.jpg", label, str(label)) for label in range(3) for i in of_split] for split, of_split in numbers.items()
    }
    coop(tmp_path / "svhn", "train", "split_mlai_SVHN.json", rows)
    image_folders(tmp_path / "svhn" / "test", ["0", "1", "2"])
    assert labels(find_task("blackvip16/svhn", tmp_path))["test"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_aircraft_labels_are_the_lines_of_its_variants(tmp_path: Path) -> None:
    folder = tmp_path / "fgvc_aircraft"
    write_images(folder / "images", [(f"{i:07d}.jpg", i % 2, "") for i in range(6)])
    (folder / "variants.txt").write_text("DHC-8-100\nA300 B4\n")
    for first, split in zip((0, 2, 4), ("train", "val", "test"), strict=True):
        (folder / f"images_variant_{split}.txt").write_text(f"{first:07d} A300 B4\n{first + 1:07d} DHC-8-100\n")
    spec = find_task("craft15/fgvc_aircraft", tmp_path)
    assert labels(spec) == {split: [1, 0] for split in SPLITS} and spec.class_names == ("DHC-8-100", "A300 B4")


def test_ids_of_vpt_are_numbered_by_the_training_file(tmp_path: Path) -> None:
    folder = vpt_fgvc(tmp_path / "CUB_200_2011", "images", ids=(30, 7, 12))
    val = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps({name: identifier for name, identifier in val.items() if identifier != 7}))
    spec = find_task("fgvc/cub200_2011", tmp_path)
    assert labels(spec) == {"train": [2] * 4 + [0] * 4 + [1] * 4, "val": [2] * 2 + [1] * 2, "test": [2] * 2 + [0] * 2 + [1] * 2}


def test_without_a_validation_file_a_tenth_of_each_class_validates(tmp_path: Path) -> None:
    vpt_fgvc(tmp_path / "nabirds", "images", splits=("train", "test"))
    spec = find_task("fgvc/nabirds", tmp_path)
    task = load_task(spec, Protocol(), 8, *PLAIN)
    assert spec.split == "generated-90-10" and not spec.templates
    assert np.bincount(task.val.labels).tolist() == [1, 1, 1] and np.bincount(task.train.labels).tolist() == [3, 3, 3]
    with pytest.raises(DataError, match=r"fgvc/nabirds: the names of its classes are not known"):
        spec.prompts()


def test_what_validates_does_not_depend_on_the_order_of_the_list(tmp_path: Path) -> None:
    folder = vpt_fgvc(tmp_path / "nabirds", "images", splits=("train", "test"))
    chosen = set(listing(find_task("fgvc/nabirds", tmp_path), "val").names)
    rows = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(dict(reversed(rows.items()))))
    assert set(listing(find_task("fgvc/nabirds", tmp_path), "val").names) == chosen


def test_clevr_arrays_are_labelled_by_the_suites_order_of_counts(tmp_path: Path) -> None:
    folder = tmp_path / "clevr/clevr_count"
    folder.mkdir(parents=True)
    for part in ("train", "val"):
        np.save(folder / f"{part}_images.npy", np.stack([picture(i, 1, (12, 12)) for i in range(8)]))
        np.save(folder / f"{part}_labels.npy", np.array([f"count_{n}" for n in range(3, 11)]))
    assert labels(find_task("pgn12/clevr_count", tmp_path))["test"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert labels(find_task("blackvip16/clevr_count", tmp_path))["test"] == [1, 2, 3, 4, 5, 6, 7, 0]  # as texts: "10", "3", …


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for part, first in (("train", 0), ("val", 50)):
        image_folders(tmp_path / "imagenet/images" / part, WNIDS[:3], per_class=5, first=first)
    return tmp_path


def test_imagenet_labels_are_places_of_wordnet_ids_and_validation_images_are_training_images(imagenet: Path) -> None:
    spec = find_task("craft15/imagenet", imagenet)
    protocol = Protocol(shots=3, shortage="keep")
    task = load_task(spec, protocol, 8, *PLAIN)
    assert spec.class_names[:2] == ("tench", "goldfish") and len(spec.class_names) == 1000
    assert np.bincount(task.train.labels).tolist() == [3, 3, 3] and len(task.test) == 15
    assert spec.val_in_train is not None
    drawn = {spec.source("train").decode(int(i)).tobytes() for i in range(15)}
    assert {spec.source("val").decode(i).tobytes() for i in range(len(spec.val_in_train))} <= drawn


def test_imagenet_lies_in_the_folder_itself_as_well(imagenet: Path) -> None:
    with_images = find_task("blackvip16/imagenet", imagenet)
    for part in ("train", "val"):
        (imagenet / "imagenet/images" / part).rename(imagenet / "imagenet" / part)
    (imagenet / "imagenet/images").rmdir()
    assert find_task("blackvip16/imagenet", imagenet).revision == with_images.revision


def test_classnames_of_coop_replace_the_built_in_ones(imagenet: Path) -> None:
    (imagenet / "imagenet/classnames.txt").write_text("".join(f"{wnid} my thing {i}\n" for i, wnid in enumerate(WNIDS)))
    assert find_task("craft15/imagenet", imagenet).class_names[999] == "my thing 999"


def test_folders_of_imagenet_v2_are_labels_and_not_texts(imagenet: Path) -> None:
    image_folders(imagenet / "imagenetv2/imagenetv2-matched-frequency-format-val", ["10", "2", "0"], per_class=1)
    assert labels(find_task("craft15/imagenet_v2", imagenet))["test"] == [0, 2, 10]


def test_a_number_that_is_no_label_is_no_class_of_imagenet_v2(imagenet: Path) -> None:
    image_folders(imagenet / "imagenetv2/imagenetv2-matched-frequency-format-val", ["999", "1000"], per_class=1)
    with pytest.raises(DataError, match=r"1000: this folder's name is no class"):
        find_task("craft15/imagenet_v2", imagenet)


def test_a_shift_trains_on_imagenet_and_is_scored_among_its_own_labels(imagenet: Path) -> None:
    own = facts.subset("imagenet_a")[:2]
    image_folders(imagenet / "imagenet-adversarial/imagenet-a", [WNIDS[label] for label in own], per_class=2)
    spec = find_task("craft15/imagenet_a", imagenet)
    assert labels(spec)["train"] == labels(find_task("craft15/imagenet", imagenet))["train"]
    assert labels(spec)["test"] == [own[0]] * 2 + [own[1]] * 2 and spec.scored == facts.subset("imagenet_a")


def test_a_shift_without_imagenet_is_not_there(tmp_path: Path) -> None:
    image_folders(tmp_path / "imagenet-sketch/sketch", WNIDS[:2])
    assert presence("craft15/imagenet_sketch", tmp_path).state == "manual"


def test_a_shift_whose_images_are_there_still_needs_imagenet_by_hand(tmp_path: Path) -> None:
    assert presence("craft15/imagenet_v2", tmp_path).state == "downloadable"
    image_folders(tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val", ["0"], per_class=1)
    assert presence("craft15/imagenet_v2", tmp_path).state == "manual"
    with pytest.raises(DataError, match=r"by hand: craft15/imagenet_v2 from https.*; and imagenet from https://image-net\.org"):
        find_task("craft15/imagenet_v2", tmp_path)


def test_a_smaller_copy_is_warned_of_once_and_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vtab_task(tmp_path, "kitti")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            find_task("vtab/kitti_dist", tmp_path)
    (warning,) = caplog.messages
    assert (
        "8 train images of 800, 4 val images of 200, 6 test images of 711" in warning and "petlbench data verify vtab/kitti_dist" in warning
    )


def test_a_split_file_of_fewer_classes_is_warned_of_and_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coop(tmp_path / "food-101", "images", "split_zhou_Food101.json")
    with caplog.at_level(logging.WARNING):
        assert len(find_task("craft15/food101", tmp_path).class_names) == 3
    assert "3 classes of 101; petlbench data verify craft15/food101 says more" in caplog.text


def test_the_revision_changes_with_an_image_and_not_with_the_place(tmp_path: Path) -> None:
    task = vtab_task(tmp_path / "here", "dtd")
    vtab_task(tmp_path / "there", "dtd")
    before, elsewhere = (find_task("vtab/dtd", tmp_path / place).revision for place in ("here", "there"))
    with (task / "images/test/000002.jpg").open("ab") as file:
        file.write(b"\0")
    assert before == elsewhere != find_task("vtab/dtd", tmp_path / "here").revision


def test_many_files_are_told_apart_by_their_names_and_none_is_asked_for_its_size(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 2)
    monkeypatch.setattr(module.Files, "_size", lambda *_: pytest.fail("a size was asked for"))
    before = find_task("craft15/imagenet", imagenet).revision
    file = imagenet / "imagenet/images/train" / WNIDS[0] / "img_004.JPEG"
    file.rename(file.with_name("img_005.JPEG"))
    assert find_task("craft15/imagenet", imagenet).revision != before


def test_class_folders_are_listed_once_for_all_tasks_that_share_them(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []
    scan = os.scandir
    monkeypatch.setattr("petlbench.datasets.disk.layouts._lists.os.scandir", lambda folder: listed.append(folder) or scan(folder))  # type: ignore[func-returns-value]
    for task in ("craft15/imagenet", "blackvip16/imagenet"):
        find_task(task, imagenet)
    assert len(listed) == len(set(listed)) == 6


def appended(name: str, line: str) -> Callable[[Path], None]:
    def break_(task: Path) -> None:
        with (task / name).open("a") as file:
            file.write(line)

    return break_


def as_pipe(task: Path) -> None:
    (task / "images/test/000003.jpg").unlink()
    os.mkfifo(task / "images/test/000003.jpg")


def as_broken_link(task: Path) -> None:
    (task / "images/test/000003.jpg").unlink()
    (task / "images/test/000003.jpg").symlink_to("/nowhere")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda task: (task / "test.txt").unlink(), r"test\.txt: cannot be read \(No such file"),
        (lambda task: (task / "val200.txt").write_text(""), r"the val split in .*dtd is empty"),
        (appended("test.txt", "images/test/000000.jpg\n"), r"test\.txt, line 7: expected a file name, a blank and a label"),
        (appended("train800.txt", "images/test/000000.jpg 47\n"), r"has label 47, which is none of its 47 classes"),
        (appended("test.txt", "images/test/x.jpg 3\n"), r"images/test/x\.jpg: listed, but cannot be read"),
        (lambda task: (task / "test.txt").write_bytes(b"\xff\xfe\x00"), r"test\.txt: not a text file"),
        (
            lambda task: (task / "test.txt").write_text("images/t\u00fcr.jpg 1", encoding="latin-1"),
            r"test\.txt: not a text file in UTF-8 \(line 1 ",
        ),
        (appended("test.txt", f"images/test/000000.jpg {'1' * 5000}\n"), r"test\.txt, line 7: expected a file name, a blank and a label"),
        (appended("test.txt", f"{'x' * 300}.jpg 1\n"), r"x\.jpg: listed, but cannot be read \(File name too long\)"),
        (appended("test.txt", "./images/train800/000000.jpg 0\n"), r"1 images are in two splits: .*/train800/000000\.jpg \(test\) and "),
        (appended("val200.txt", "images/x/../test/000000.jpg 0\n"), r"images are in two splits: .*000000\.jpg \(test\) and .* \(val\)"),
        (appended("test.txt", "images/test/000000.jpg 1\n"), r"/images/test/000000\.jpg is listed with the labels 0 and 1"),
        (lambda task: (task / "images").rename(task / "images/../nested"), r"/images/train800/000000\.jpg: listed, but cannot be read"),
        (as_pipe, r"images/test/000003\.jpg: listed, but no file"),
        (as_broken_link, r"images/test/000003\.jpg: listed, but cannot be read \(No such file"),
    ],
)
def test_a_broken_vtab_folder_is_one_error(tmp_path: Path, broken: Callable[[Path], None], message: str) -> None:
    broken(vtab_task(tmp_path, "dtd"))
    with pytest.raises(DataError, match=message):
        find_task("vtab/dtd", tmp_path)
    assert presence("vtab/dtd", tmp_path).state == "broken"


def test_lists_with_a_byte_order_mark_and_the_lines_of_windows_are_read(tmp_path: Path) -> None:
    lines = (vtab_task(tmp_path, "dtd") / "test.txt").read_text().splitlines()
    (tmp_path / "vtab-1k/dtd/test.txt").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert labels(find_task("vtab/dtd", tmp_path))["test"] == [0, 1] * 3
    zipped(tmp_path / "vtab-1k/dtd")
    assert labels(find_task("vtab/dtd", tmp_path))["test"] == [0, 1] * 3


def test_a_copy_inside_a_copy_is_not_called_present(imagenet: Path, tmp_path: Path) -> None:
    for folder in (imagenet / "imagenet/images").glob("*/*"):
        files = list(folder.iterdir())
        (folder / folder.name).mkdir()
        for file in files:
            file.rename(folder / folder.name / file.name)
    found = presence("craft15/imagenet", imagenet)
    assert found.state == "broken" and "split in " in found.where and "is empty" in found.where
    archive = vtab_task(tmp_path, "dtd")
    (archive / "images/test/000000.jpg").unlink()
    zipped(archive)
    assert presence("vtab/dtd", tmp_path).where.endswith("images/test/000000.jpg is listed, but not in the archive; fetch it again")


def test_files_that_a_mac_adds_are_no_images(imagenet: Path) -> None:
    before = labels(find_task("craft15/imagenet", imagenet))
    for folder in (imagenet / "imagenet/images").glob("*/*"):
        (folder / "._0.jpg").write_bytes(b"")
        (folder / "folder.jpg").mkdir()
    (imagenet / "imagenet/images/train/__MACOSX").mkdir()
    assert labels(find_task("craft15/imagenet", imagenet)) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"not the expected split file"),
        ('{"train": [["a.jpg", "x", "y"]]}', r"at \['train'\]\[0\]\[1\]: "),
        ('{"train": [], "val": [], "test": []}', r"has no 'train' rows"),
        ('{"train": [["a.jpg", 1, "y"]], "val": [["a.jpg", 1, "y"]]}', r"expected labels from 0 without a gap, but 0 is wrong"),
        (
            '{"train": [["a.jpg", 0, "y"]], "val": [["a.jpg", 0, "z"]]}',
            r"'val' gives a\.jpg the label 0 and the name 'z', other rows call 0 'y'",
        ),
        ('{"train": [["a.jpg", 0, "y"]], "val": [["a.jpg", 0, "y"]]}', r"lists a\.jpg, which is in none of "),
    ],
)
def test_a_broken_split_file_is_one_error(tmp_path: Path, content: str, message: str) -> None:
    coop(tmp_path / "dtd", "images", "split_zhou_DescribableTextures.json")
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(content)
    with pytest.raises(DataError, match=message):
        dtd(tmp_path)


def test_an_id_that_only_the_test_file_has_is_one_error(tmp_path: Path) -> None:
    folder = vpt_fgvc(tmp_path / "stanford_dogs", "Images")
    (folder / "test.json").write_text('{"x/y.jpg": 99}')
    with pytest.raises(DataError, match=r"test\.json: the class id of x/y\.jpg, 99, is not in train\.json"):
        find_task("fgvc/stanford_dogs", tmp_path)


def test_a_file_that_a_list_gives_two_labels_is_one_error(tmp_path: Path) -> None:
    folder = vpt_fgvc(tmp_path / "stanford_dogs", "Images")
    (folder / "test.json").write_text('{"x/y.jpg": 1, "x/y.jpg": 2}')
    with pytest.raises(DataError, match=r"test\.json: has two entries for 'x/y\.jpg'"):
        find_task("fgvc/stanford_dogs", tmp_path)


def test_a_folder_that_is_no_class_is_named(imagenet: Path) -> None:
    image_folders(imagenet / "imagenet/images/val", ["n99999999"])
    with pytest.raises(DataError, match=r"n99999999: this folder's name is no class"):
        find_task("craft15/imagenet", imagenet)


def test_an_archive_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    shutil.make_archive(str(tmp_path / "dtd"), "zip", tmp_path / "things")
    coop(tmp_path / "dtd", "images", "split_zhou_DescribableTextures.json")
    assert presence("vtab/dtd", tmp_path).state == "downloadable" and dtd(tmp_path).layout == "coop"


def test_half_an_archive_is_one_error(tmp_path: Path) -> None:
    archive = zipped(vtab_task(tmp_path, "dtd"))
    archive.write_bytes(archive.read_bytes()[:2000])
    assert presence("vtab/dtd", tmp_path).state == "broken"
    with pytest.raises(DataError, match=r"dtd\.zip: not a complete archive"):
        find_task("vtab/dtd", tmp_path)


def test_a_dataset_of_two_suites_is_decoded_for_the_first_of_them(tmp_path: Path) -> None:
    coop(tmp_path / "dtd", "images", "split_zhou_DescribableTextures.json")
    tasks = [load_task(find_task(f"{suite}/dtd", tmp_path), Protocol(), 8, *PLAIN) for suite in ("blackvip16", "craft15")]
    assert [task.images_decoded for task in tasks] == [3 * (4 + 2 + 2), 0]
