"""Faulty datasets and failing downloads through the real commands: one clear message, or a safe continuation."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlbench.cli import main
from petlbench.data import store_files
from petlbench.data.acquire.fetch import Fetch
from petlbench.data.store import entries
from petlbench.datasets.disk import facts
from tests.conftest import Call
from tests.data.acquire.serving import Server
from tests.datasets import miniature

QUICK = ("train.epochs=1", "train.warmup_epochs=0", "threads=1")


def own_folder(root: Path) -> Path:
    for split, first, per_class in (("train", 0, 6), ("test", 50, 2)):
        miniature.image_folders(root / "own" / split, ["cat", "dog"], per_class, first)
    return root / "own"


def lacking_a_class(root: Path) -> str:
    shutil.rmtree(own_folder(root) / "test/dog")
    return f"folder:{root / 'own'}"


def naming_three_of_two_classes(root: Path) -> str:
    (own_folder(root) / "names.txt").write_text("a cat\na dog\na bird\n")
    return f"folder:{root / 'own'}"


def lacking_a_class_in_a_split_file(root: Path) -> str:
    rows = miniature.split_entries()
    rows["train"] = [row for row in rows["train"] if row[1] != 1]
    miniature.coop(root / "eurosat", "2750", "split_zhou_EuroSAT.json", rows)
    return "blackvip16/eurosat"


def naming_two_classes_of_imagenet(root: Path) -> str:
    for part, first in (("train", 0), ("val", 50)):
        miniature.image_folders(root / "imagenet/images" / part, facts.wordnet_ids()[:2], first=first)
    (root / "imagenet/classnames.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    return "craft15/imagenet"


def labelled_outside_the_range(root: Path) -> str:
    lists = miniature.vtab_task(root, "svhn") / "test.txt"
    lists.write_text(lists.read_text().replace(" 0\n", " 10\n", 1))
    return "vtab/svhn"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lacking_a_class, "/test/dog has no images"),
        (
            lacking_a_class_in_a_split_file,
            "split_zhou_EuroSAT.json: expected labels from 0 without a gap, but 1 is wrong or has no training row",
        ),
        (naming_three_of_two_classes, "names.txt has 3 names, and there are 2 classes"),
        (naming_two_classes_of_imagenet, "classnames.txt: expected the 1000 WordNet ids of ImageNet in order"),
        (labelled_outside_the_range, "/test/000000.jpg has label 10, which is none of its 10 classes"),
    ],
)
def test_a_dataset_that_cannot_be_right_is_one_message(call: Call, root: Path, broken: Callable[[Path], str], message: str) -> None:
    task = broken(root)
    code, out, err = call("data", "verify", task, f"data_root={root}")
    assert code == 1 and message in out and err == ""
    code, _, err = call("run", "method=linear", f"task={task}", f"data_root={root}", *QUICK)
    assert code in (1, 2) and message in err and err.count("\n") == 1


def test_a_wrong_count_is_one_warning_and_the_run_goes_on(call: Call, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    miniature.vtab_task(root, "resisc45")
    assert call("run", "method=linear", "task=vtab/resisc45", f"data_root={root}", *QUICK)[0] == 0
    assert [text.partition(" has ")[2] for text in caplog.messages if "vtab/resisc45" in text] == [
        "8 train images of 800, 4 val images of 200, 6 test images of 6,300; petlbench data verify vtab/resisc45 says more"
    ]


def test_a_file_in_train_and_test_is_an_error_of_verify(call: Call, root: Path) -> None:
    rows = miniature.split_entries()
    rows["test"].append(rows["train"][0])
    miniature.coop(root / "dtd", "images", "split_zhou_DescribableTextures.json", rows)
    code, out, _ = call("data", "verify", "blackvip16/dtd", f"data_root={root}")
    assert code == 1
    assert f"error: 1 images are in two splits: {root / 'dtd/images' / rows['train'][0][0]} (test)" in out


def test_an_archive_that_leads_outside_is_refused_and_leaves_nothing(
    call: Call, root: Path, tmp_path: Path, server: Server, cifar: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-py/../../../evil"))
    server.content = buffer.getvalue()
    monkeypatch.setattr("petlbench.data.acquire.download._check", lambda *_: None)  # the checksum would detect it too
    code, _, err = call("data", "prepare", "pgn12/cifar10", f"data_root={root}")
    assert code == 1 and err.count("\n") == 1
    assert "'cifar-10-batches-py/../../../evil' would be written outside the folder; nothing was unpacked" in err
    assert not list(tmp_path.rglob("evil")) and [path.name for path in root.iterdir()] == [".downloads"]


def test_a_disk_that_fills_up_while_preparing_is_one_message_and_the_next_attempt_continues(
    call: Call, root: Path, server: Server, cifar: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store_files, "write", full)
        code, _, err = call("data", "prepare", "pgn12/cifar10", f"data_root={root}")
    assert code == 2 and err.count("\n") == 1
    assert "cannot write the image cache" in err and "No space left on device" in err and "petlbench data clean" in err
    assert entries() == []
    assert call("data", "prepare", "pgn12/cifar10", f"data_root={root}")[0] == 0
    assert len(server.ranges) == 1


def _prepare(start: Any, root: Path) -> None:
    sys.argv = ["petlbench", "data", "prepare", "pgn12/cifar10", f"data_root={root}"]
    start.wait()
    main()


def test_two_processes_that_prepare_the_same_dataset_fetch_and_decode_it_once(root: Path, server: Server, cifar: Fetch) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    workers = [context.Process(target=_prepare, args=(start, root)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(server.ranges) == 1 and sum(entry.images for entry in entries()) == 72
    assert [path.name for path in (root / ".downloads").iterdir() if path.suffix != ".lock"] == []
