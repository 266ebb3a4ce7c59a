"""Stores that are not what was written: found when they are opened, named, and built again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petlbench.data import store_files
from petlbench.data.source import RenderedSource
from petlbench.data.split import Split
from petlbench.data.store import TaskStore, entries, evict
from petlbench.data.transforms import Form
from petlbench.errors import DataError

from .rendered import NATIVE, SIZES, SQUARE, Renderer, opened

Damage = Callable[[Path], object]
FILES = ("pixels.bin", "shapes.npy", "labels.npy", "meta.json")


def pixels_of(splits: dict[str, Split]) -> list[list[Any]]:
    return [[part.source.decode(index).tolist() for index in range(len(part))] + part.labels.tolist() for part in splits.values()]


def meta(**changes: object) -> Damage:
    return lambda folder: (folder / "meta.json").write_text(json.dumps(json.loads((folder / "meta.json").read_text()) | changes))


def array(name: str, change: Callable[[Any], Any]) -> Damage:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)), allow_pickle=True)


def cut(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def bytes_kept_by_date(folder: Path) -> None:
    """Other pixels, of the same size and date."""
    file = folder / "pixels.bin"
    status = file.stat()
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGES: dict[str, Damage] = {
    **{f"{name} cut to {share}": cut(name, share) for name in FILES for share in (0.0, 2 / 3)},
    **{f"{name} missing": lambda folder, name=name: (folder / name).unlink() for name in FILES[:3]},
    **{f"{name} a pipe": replaced(name, os.mkfifo) for name in FILES},
    **{f"{name} a folder": replaced(name, Path.mkdir) for name in FILES},
    **{f"{name} a broken link": replaced(name, lambda file: file.symlink_to("nowhere")) for name in FILES[:3]},
    "fewer labels": array("labels.npy", lambda labels: labels[:2]),
    "permuted labels": array("labels.npy", lambda labels: labels[::-1]),
    "labels without a class": array("labels.npy", lambda labels: labels + 3),
    "negative labels": array("labels.npy", lambda labels: labels - 5),
    "labels of floats": array("labels.npy", lambda labels: labels.astype(float)),
    "labels in a column": array("labels.npy", lambda labels: labels[:, None]),
    "labels of objects": array("labels.npy", lambda labels: labels.astype(object)),
    "labels in an archive": replaced("labels.npy", lambda file: np.savez(file.open("wb"), labels=np.arange(6))),
    "inverted pixels": bytes_of("pixels.bin", lambda pixels: bytes(255 - value for value in pixels)),
    "one bit of a pixel": bytes_of("pixels.bin", lambda pixels: pixels[:-1] + bytes([pixels[-1] ^ 1])),
    "more pixels": bytes_of("pixels.bin", lambda pixels: pixels + pixels[:192]),
    "other pixels of the same date": bytes_kept_by_date,
    "sizes beyond the file": array("shapes.npy", lambda shapes: shapes * 2),
    "sizes that overflow": array("shapes.npy", lambda shapes: shapes + 2**62),
    "negative sizes": array("shapes.npy", lambda shapes: -shapes),
    "height and width in another ratio": array("shapes.npy", lambda shapes: shapes // [2, 1] * [1, 2]),
    "sizes of fewer images": array("shapes.npy", lambda shapes: shapes[:-1]),
    "a header that asks for much memory": bytes_of(
        "labels.npy", lambda content: content.replace(f"({(len(content) - 128) // 8},)".encode(), b"(9999999999999,)")[:200]
    ),
    "an empty meta.json": meta(images=0),
    "more images than there are": meta(images=10**12),
    "a number that is a text": meta(images="6"),
    "another digest": meta(digest="0" * 64),
    "another split": meta(split="other"),
    "another task": meta(task="mock/other"),
    "another revision": meta(revision="2"),
    "meta.json that is a list": replaced("meta.json", lambda file: file.write_text("[1]")),
    "meta.json without end": replaced("meta.json", lambda file: file.write_text("[" * 100_000)),
    "meta.json that is no text": replaced("meta.json", lambda file: file.write_bytes(b"\xff\xfe\x00")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("form", [SQUARE, NATIVE], ids=["square", "native"])
def test_a_damaged_store_is_named_and_built_again(damage: Damage, form: Form, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = pixels_of(opened(Renderer().spec(), form)[0])
    for entry in entries():
        damage(entry.folder)
    entries()  # says what it can, and does not block
    splits, decoded = opened(Renderer().spec(), form)
    assert pixels_of(splits) == expected and decoded == 13
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3
    for message in messages:
        assert message.startswith("the image cache ") and message.endswith("; its images are decoded again") and "\n" not in message
    assert opened(Renderer().spec(), form)[1] == 0, "and not once more"


@pytest.mark.usefixtures("cache")
def test_other_images_of_the_same_area_are_no_images_of_this_store() -> None:
    flat = Renderer().spec(source=lambda split: RenderedSource([0, 1, 2], lambda index: np.full((2, 8, 3), index, np.uint8)))
    TaskStore(flat, 1).open("train", NATIVE)
    [entry] = entries()
    np.save(entry.folder / "shapes.npy", np.array([[8, 2]] * 3))
    assert TaskStore(flat, 1).open("train", NATIVE).source.decode(1).shape == (2, 8, 3)


@pytest.mark.usefixtures("cache")
def test_labels_that_no_class_has_are_damage_whatever_the_digest_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = pixels_of(opened(Renderer().spec(), SQUARE)[0])
    (folder,) = (entry.folder for entry in entries() if entry.split == "test")
    facts = {name: getattr(store_files.read_meta(folder), name) for name in ("task", "split", "revision", "form", "key")}
    pixels, labels = np.fromfile(folder / "pixels.bin", dtype=np.uint8), np.load(folder / "labels.npy")
    (forged := tmp_path / "forged").mkdir()
    store_files.write(forged, pixels.reshape(len(labels), *np.load(folder / "shapes.npy")[0], 3), labels + 100, **facts)
    for file in forged.iterdir():
        file.replace(folder / file.name)
    assert pixels_of(opened(Renderer().spec(), SQUARE)[0]) == before
    assert "labels from 10" in caplog.text


def test_stores_that_changed_places_are_found(cache: Path) -> None:
    """Each is whole; with as many images of as many classes, only what it says about itself tells them apart."""
    parts = [np.array([0, 1, 2]), np.array([3, 4, 5])]

    def of_parts() -> list[list[Any]]:
        store = TaskStore(Renderer().spec(), 1)
        store._limit = 4 * 8 * 8 * 3
        return [store.open("train", SQUARE, part).images[0].tolist() for part in parts]  # type: ignore[index, union-attr]

    expected = of_parts()
    first, second = (entry.folder for entry in entries())
    first.rename(cache / "meanwhile")
    second.rename(first)
    (cache / "meanwhile").rename(second)
    assert of_parts() == expected


@pytest.mark.usefixtures("cache")
def test_fewer_images_than_the_task_declares_are_not_read() -> None:
    def spec(count: int, **changes: Any) -> Any:
        return Renderer().spec(source=lambda split: RenderedSource(np.arange(count) % 3, Renderer().source(split).decode), **changes)

    TaskStore(spec(3), 1).open("train", SQUARE)
    assert len(TaskStore(spec(6, sizes={"train": 6}), 1).open("train", SQUARE)) == 6


@pytest.mark.usefixtures("cache")
def test_labels_are_not_taken_from_a_damaged_store(caplog: pytest.LogCaptureFixture) -> None:
    expected = opened(Renderer().spec())[0]["train"].labels.tolist()
    for entry in entries():
        DAMAGES["permuted labels"](entry.folder)
    assert TaskStore(Renderer().spec(), 1).labels("train", SQUARE).tolist() == expected


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_lies_in_the_place_of_a_store_is_replaced(kind: str, tmp_path: Path) -> None:
    opened(Renderer().spec())
    folder = entries()[0].folder
    elsewhere = shutil.move(folder, tmp_path / "elsewhere")
    if kind == "link":
        (elsewhere / "labels.npy").write_bytes(b"")
        folder.symlink_to(elsewhere)
    else:
        folder.write_text("")
    assert [opened(Renderer().spec())[1] for _ in range(2)] == [SIZES["test"], 0]
    assert (elsewhere / "pixels.bin").exists(), "what a link points to is someone else's"


@pytest.mark.usefixtures("cache")
def test_a_store_behind_a_link_is_read_and_only_the_link_is_deleted(tmp_path: Path) -> None:
    opened(Renderer().spec())
    folder = entries()[0].folder
    elsewhere = shutil.move(folder, tmp_path / folder.name)
    folder.symlink_to(elsewhere)
    assert opened(Renderer().spec())[1] == 0
    evict(entries()[0])
    assert not folder.exists() and (elsewhere / "pixels.bin").exists()


@pytest.mark.usefixtures("cache")
def test_a_damaged_store_whose_images_are_gone_is_an_error_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def gone(split: str) -> RenderedSource:
        raise DataError(f"the {split} images are gone")

    opened(Renderer().spec())
    for entry in entries():
        DAMAGES["inverted pixels"](entry.folder)
    with pytest.raises(DataError, match="the train images are gone"):
        TaskStore(Renderer().spec(source=gone), 1).open("train", SQUARE)
    assert "is damaged (pixels, labels or sizes have changed since they were written)" in caplog.text


@pytest.mark.usefixtures("cache")
def test_suites_that_share_a_damaged_store_both_get_a_whole_one() -> None:
    def of(suite: str) -> tuple[list[list[Any]], int]:
        splits, decoded = opened(Renderer().spec(name=f"{suite}/noise", layout="folders"))
        return pixels_of(splits), decoded

    expected = of("first")[0]
    of("second")
    for entry in entries()[:3]:  # the files are those of both
        DAMAGES["one bit of a pixel"](entry.folder)
    assert of("second") == (expected, 13)
    assert of("first") == (expected, 0), "linked to what was built for the other"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("form", [SQUARE, Form("native")])
def test_the_content_is_hashed_once_per_process_until_it_changes(form: Form) -> None:
    opened(Renderer().spec(), form)
    store_files._digest.cache_clear()  # as in another process

    def hashed() -> int:
        for _ in range(3):
            store = TaskStore(Renderer().spec(), 1)
            store.open("train", form)
            store.labels("train", form)
        return store_files._digest.cache_info().misses

    assert hashed() == 1
    [folder] = [entry.folder for entry in entries() if entry.split == "train"]
    os.utime(folder / "pixels.bin", (1, 1))
    assert hashed() == 2
