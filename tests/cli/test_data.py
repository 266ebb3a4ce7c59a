"""The commands for datasets, on a disk of a few images and a server of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlbench.cli import data as commands
from petlbench.data.acquire.fetch import Fetch
from petlbench.data.store import entries
from tests.conftest import Call
from tests.data.acquire.serving import Server
from tests.datasets import miniature


def test_prepare_downloads_splits_and_decodes_and_a_second_time_does_nothing(call: Call, root: Path, server: Server, cifar: Fetch) -> None:
    code, out, err = call("data", "prepare", "pgn12/cifar10", f"data_root={root}")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"1 downloads into {root}"
    assert "; 50 / 6 / 10 images to train, validate and test; 72 decoded now" in out.splitlines()[-1]
    code, out, _ = call("data", "prepare", "pgn12/cifar10", f"data_root={root}")
    assert code == 0
    assert out.splitlines()[0] == f"0 downloads into {root}"
    assert out.splitlines()[-1].endswith("; 0 decoded now")
    assert len(server.ranges) == 1


def test_prepare_makes_the_folder_that_it_is_told(call: Call, root: Path, cifar: Fetch) -> None:
    assert call("data", "prepare", "pgn12/cifar10", f"data_root={root / 'new'}", "--no-store")[0] == 0
    assert (root / "new/cifar-10-batches-py/test_batch").exists()


def test_prepare_after_a_broken_download_continues(call: Call, root: Path, server: Server, cifar: Fetch) -> None:
    server.breaks_after, server.statuses = 1000, []
    server.has_ranges = False
    code, _, err = call("data", "prepare", "pgn12/cifar10", f"data_root={root}", "--no-store")
    assert code == 1
    assert err.startswith(f"petlbench: {cifar.url}: broke off after 1,000 of") and err.count("\n") == 1
    server.breaks_after, server.has_ranges = None, True
    assert call("data", "prepare", "pgn12/cifar10", f"data_root={root}", "--no-store")[0] == 0
    assert server.ranges[-1] == "bytes=999-"


def test_images_of_the_users_own_are_stored_as_well(call: Call, root: Path) -> None:
    for split, first in (("train", 0), ("test", 50)):
        miniature.image_folders(root / "own" / split, ["cat", "dog"], per_class=6, first=first)
    code, out, _ = call("data", "prepare", f"folder:{root / 'own'}", f"data_root={root}")
    assert code == 0
    assert out.splitlines()[-1] == f"folder:{root / 'own'}: {root / 'own'}; 10 / 2 / 12 images to train, validate and test; 24 decoded now"


def test_a_download_that_fails_does_not_keep_the_others_from_being_prepared(call: Call, root: Path, server: Server, cifar: Fetch) -> None:
    server.statuses = [404]
    code, out, err = call("data", "prepare", "pgn12/cifar10", "mini/textures", f"data_root={root}")
    assert code == 1
    assert "the server answered 404" in err
    assert out.splitlines()[-1].startswith("mini/textures: made here; 400 / 100 / 500 images")


def test_what_people_have_to_fetch_is_described_and_the_exit_code_says_so(call: Call, root: Path) -> None:
    code, out, _ = call("data", "prepare", "vtab/diabetic_retinopathy", f"data_root={root}")
    assert code == 1
    assert out.splitlines()[-1].startswith("vtab/diabetic_retinopathy: fetch it from https://www.kaggle.com/")


def test_what_two_tasks_need_is_listed_and_fetched_once(call: Call, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(commands, "fetch", lambda item, root, report: fetched.append(item.target))
    code, out, _ = call("data", "prepare", "vtab", f"data_root={root}")
    assert code == 1
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz  as cifar-100-python" in out
    assert out.count("CLEVR_v1.0.zip  as") == fetched.count("clevr/CLEVR_v1.0") == 1


def test_a_disk_without_room_is_known_before_anything_arrives(
    call: Call, root: Path, server: Server, cifar: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10))  # type: ignore[attr-defined]
        code, _, err = call("data", "prepare", "pgn12/cifar10", f"data_root={root}", "--no-store")
    assert code == 1
    assert f"downloading {cifar.url} needs" in err and "has 10 bytes left; free some or use another data_root" in err
    assert not (root / "cifar-10-batches-py").exists() and err.count("\n") == 1
    assert call("data", "prepare", "pgn12/cifar10", f"data_root={root}", "--no-store")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vtab/cifar1000", "data_root=."], "no task 'vtab/cifar1000'. Did you mean 'vtab/cifar100'?"),
        (["data_root=."], "no suite or task is named"),
        (["pgn12/cifar10"], "data_root=DIR is missing; name the folder for datasets, or set PETLBENCH_DATA"),
    ],
)
def test_wrong_words_are_one_line(call: Call, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PETLBENCH_DATA", raising=False)
    code, _, err = call("data", "prepare", *words)
    assert code == 2
    assert message in err and err.count("\n") == 1


def test_verify_of_a_broken_copy_lists_what_is_wrong_and_what_to_do(call: Call, root: Path) -> None:
    task = miniature.vtab_task(root, "cifar")
    (task / "images/test/000001.jpg").write_bytes(b"")
    shutil.copy(task / "images/train800/000000.jpg", task / "images/test/000002.jpg")
    code, out, _ = call("data", "verify", "vtab/cifar100", f"data_root={root}")
    assert code == 1
    assert "error: 10,000 test images expected, 6 found" in out
    assert f"error: 1 images cannot be read: {task / 'images/test/000001.jpg'}: not a readable image (it has 0 bytes)" in out
    assert "warning: 1 images have the content of one in another split" in out
    assert "JPEG copies of images that were published without loss" in out


def test_verify_in_json_is_json_and_nothing_else(call: Call, root: Path) -> None:
    code, out, _ = call("data", "verify", "mini/textures", "vtab/dmlab", f"data_root={root}", "--json")
    sound, missing = json.loads(out)
    assert code == 1
    assert sound["is_sound"] and sound["counts"]["test"] == {"images": 500, "classes": 12, "fewest": 31, "most": 58}
    assert not missing["is_sound"] and missing["findings"][0]["level"] == "error"


@pytest.fixture
def odd(tmp_path: Path, cache: Path) -> Path:
    """A folder task whose images are of every kind that real datasets hold."""
    for split in ("train", "val", "test"):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "odd" / split / name
            images = [Image.fromarray(miniature.picture(label, index)) for index in range(6)]
            folder.mkdir(parents=True)
            images[0].convert("P").save(folder / "palette.png", transparency=bytes(range(256)))
            images[1].convert("CMYK").save(folder / "print.jpg")
            exif = Image.Exif()
            exif[0x0112] = 6
            images[2].save(folder / "turned.jpg", exif=exif)
            images[3].convert("RGBA").save(folder / "really_a_png.png")
            (folder / "really_a_png.png").rename(folder / "named.jpg")
            images[4].convert("L").save(folder / "grey.jpg")
            Image.fromarray(np.asarray(images[5].convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    return tmp_path / "odd"


def test_a_run_reads_images_of_every_kind(call: Call, odd: Path) -> None:
    code, out, _ = call("run", "method=linear", f"task=folder:{odd}", "train.epochs=1", "train.warmup_epochs=0")
    assert code == 0
    assert "accuracy" in out


@pytest.mark.parametrize(("cut", "reason"), [(0, "it has 0 bytes"), (300, "runcated")])
def test_a_run_names_the_image_that_it_cannot_read(call: Call, odd: Path, cut: int, reason: str) -> None:
    broken = odd / "test/dog/turned.jpg"
    broken.write_bytes(broken.read_bytes()[:cut])
    code, _, err = call("run", "method=linear", f"task=folder:{odd}")
    assert code == 1
    assert f"{broken}: not a readable image (" in err and reason in err


def test_clean_lists_first_and_deletes_when_told(call: Call, root: Path) -> None:
    for task in ("digits", "textures"):
        call("data", "prepare", f"mini/{task}", f"data_root={root}")
    for entry in entries():
        if entry.task == "mini/textures":
            os.utime(entry.folder / "meta.json", (time.time() - 40 * 86_400,) * 2)
    assert "6 stores" in call("data", "clean")[1]
    assert call("data", "clean", "mini", "--larger", "1.3")[1].splitlines()[-1].startswith("2 stores")
    code, out, _ = call("data", "clean", "--older", "30", "--delete")
    assert code == 0 and out.splitlines()[-1].startswith("3 stores") and out.endswith("deleted\n")
    assert {entry.task for entry in entries()} == {"mini/digits"}
    assert call("data", "clean", "vtab")[1] == "0 stores, 0 bytes\n"
