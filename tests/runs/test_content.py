"""A result is that of the images and weights that were there: other content is another run, wherever it lies, and nobody's folders are published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import petlbench
from petlbench import File, GradientMethod
from petlbench.analysis.validate import problems_of
from petlbench.backbones.weights_file import shipped_weights
from petlbench.data import digests
from petlbench.data.content import with_content
from petlbench.errors import CheckpointError, ConfigError
from petlbench.records.schema import Record, read_record
from petlbench.records.store import RecordStore
from petlbench.runs.plan import Plan
from tests.conftest import Call
from tests.data.test_folder import paint
from tests.datasets import miniature
from tests.words import resolve

QUICK: dict[str, Any] = {"threads": 1, "train.epochs": 1, "train.warmup_epochs": 0, "progress": False}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, cache: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is the home folder of alice."""
    folder = tmp_path / "home" / "alice"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


def own(place: Path, first: int = 0) -> Path:
    """Two classes, 6 training and 2 test images each; other images for another ``first``."""
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                first += 1
                paint(place / split / name / f"{index}.png", first)
    return place


def run(task: str, **settings: Any) -> Record:
    return petlbench.run(settings, method="linear", task=task, out="r", **QUICK).record


def planned(task: str, **settings: Any) -> Plan:
    words = {key: value for key, value in QUICK.items() if key != "progress"}
    return petlbench.plan("linear", task, 0, words | settings, out="r")


def state(task: str, **settings: Any) -> str:
    return planned(task, **settings).runs[0].state


def records() -> list[Path]:
    return RecordStore(Path("r")).paths()


def test_one_relative_path_in_two_projects_is_two_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(home / "first/data")
    own(home / "second/data", 100)
    monkeypatch.chdir(home / "first")
    first = petlbench.run(method="linear", task="folder:data", out="../r", **QUICK)
    monkeypatch.chdir(home / "second")
    second = petlbench.run(method="linear", task="folder:data", out="../r", **QUICK)
    assert first.record.run_id != second.record.run_id and first.path.exists()
    assert (
        petlbench.plan("linear", "folder:data", 0, {k: v for k, v in QUICK.items() if k != "progress"}, out="../r").runs[0].state == "done"
    )


def test_the_same_images_are_the_same_run_however_they_are_named(home: Path) -> None:
    own(home / "set")
    shutil.copytree("set", "elsewhere/set")
    Path("link").symlink_to("elsewhere")
    assert run("folder:set").status == "ok"
    for name in (
        f"folder:{home}/set",
        "folder:~/set",
        "folder:set/",
        "folder:./elsewhere/set",
        "folder:elsewhere/../set",
        "folder:link/set",
    ):
        assert state(name) == "done", name
    own(home / "other/set", 100)
    Path("link").unlink()
    Path("link").symlink_to("other")
    assert state("folder:link/set") == "stale"


def test_an_image_replaced_with_the_same_size_and_time_is_seen(home: Path) -> None:
    image = own(home / "set") / "test/dog/0.png"
    before = run("folder:set")
    times = image.stat()
    content = bytearray(image.read_bytes())
    Image.new("RGB", (5, 6)).save(image)
    image.write_bytes(image.read_bytes().ljust(len(content), b"\0"))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert image.stat().st_size == times.st_size
    found = planned("folder:set")
    then, now = before.task_revision[:8], str(found.runs[0].config.published_task).partition("@")[2][:8]
    assert found.sentences() == [f"stale: task folder:set changed (revision {then} → {now}): 1 run"]
    assert repr(found).startswith("<plan of 1 runs: 0 done, 0 failed, 0 missing, 1 stale>")
    results = petlbench.bench("linear", "folder:set", 0, jobs=1, out="r", **QUICK)
    assert len(results) == 1 and len(records()) == 2 and state("folder:set") == "done"


@pytest.mark.parametrize("change", ["names.txt", "labels.csv"])
def test_other_class_names_or_labels_are_another_run(home: Path, change: str) -> None:
    own(home / "set")
    before = with_content(resolve(["method=linear", "task=folder:set"])).run_id
    rows = [
        f"{split}/{name}/{i}.png,a {name},{split}"
        for split, count in (("train", 6), ("test", 2))
        for name in ("cat", "dog")
        for i in range(count)
    ]
    text = "house cat\nsheepdog\n" if change == "names.txt" else "\n".join(["file,label,split", *rows])
    (home / "set" / change).write_text(text)
    assert with_content(resolve(["method=linear", "task=folder:set"])).run_id != before


def test_a_plan_decodes_nothing_and_reads_a_file_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(home / "set")
    read: list[Path] = []
    reading = digests._read
    monkeypatch.setattr(digests, "_read", lambda file: read.append(file) or reading(file))  # type: ignore[func-returns-value]
    monkeypatch.setattr("petlbench.data.listing.decode_bytes", lambda content, where: pytest.fail("decoded"))
    assert [state("folder:set") for _ in range(3)] == ["missing"] * 3
    assert len(read) == len(set(read)) == 16
    paint(home / "set/train/cat/0.png", 99)
    state("folder:set")
    assert len(read) == 17


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\1" * 200])
def test_what_was_remembered_may_be_torn(home: Path, cache: Path, content: bytes) -> None:
    own(home / "set")
    run("folder:set")
    (cache / "contents.sqlite").write_bytes(content)
    assert state("folder:set") == state("folder:set") == "done"


def test_nothing_can_be_remembered_where_nothing_can_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(home / "set")
    (home / "file").write_text("")
    run("folder:set")
    monkeypatch.setenv("PETLBENCH_CACHE", str(home / "file"))
    assert state("folder:set") == "done"


def weights(file: Path, factor: float = 1.0) -> Path:
    """The shipped weights, or others of the same size."""
    state = load_file(shipped_weights("mini_clip"))
    name = next(name for name in state if name.startswith("visual."))
    save_file(state | {name: state[name] * factor}, file)
    return file


def test_replaced_weights_are_another_run_and_copied_ones_are_not(home: Path) -> None:
    weights(home / "best.safetensors")
    first = run("mini/digits", **{"backbone.checkpoint": "best.safetensors"})
    assert first.config["backbone"]["checkpoint"].startswith("best.safetensors@")
    (home / "copies").mkdir()
    shutil.copy("best.safetensors", "copies/best.safetensors")
    assert state("mini/digits", **{"backbone.checkpoint": "copies/best.safetensors"}) == "done"
    assert state("mini/digits", **{"backbone.checkpoint": "~/best.safetensors"}) == "done"
    weights(home / "best.safetensors", 1.5)
    found = planned("mini/digits", **{"backbone.checkpoint": "best.safetensors"})
    assert found.sentences()[0].startswith("stale: backbone.checkpoint best.safetensors changed (sha256 ")
    second = run("mini/digits", **{"backbone.checkpoint": "best.safetensors"})
    assert second.backbone.sha256 != first.backbone.sha256, "a process does not keep the weights that were replaced"
    assert len(records()) == 2 and [problems_of(path) for path in records()] == [[], []]


def test_any_setting_that_is_declared_as_a_file_counts_by_content(home: Path, plugin: Callable[..., type]) -> None:
    @dataclass
    class Config:
        start: File | None = None
        table: Path | None = None
        parts: tuple[File, ...] = ()

    class Started(GradientMethod):
        def adapt(self, vit: Any) -> None: ...

    plugin("started", Started, Config)
    for name in ("a.bin", "b.bin", "c.bin"):
        (home / name).write_text(name)
    words = ["method=started", "task=mini/digits", f"method.start={home}/a.bin", "method.table=b.bin", "method.parts=[b.bin,c.bin]"]
    before = with_content(resolve(words))
    section = before.identity["method"]
    assert [section["start"][:6], section["table"][:6], *(part[:6] for part in section["parts"])] == [
        "a.bin@",
        "b.bin@",
        "b.bin@",
        "c.bin@",
    ]
    for name in ("a.bin", "b.bin", "c.bin"):
        (home / name).write_text(f"other {name}")
        after = with_content(resolve(words))
        assert after.run_id != before.run_id
        before = after


@pytest.mark.parametrize(
    "word", ["method=pgn method.checkpoint", "method=spt method.selection", "method=blackvip method.encoder_checkpoint"]
)
def test_files_of_the_methods_here_are_declared(home: Path, word: str) -> None:
    method, key = word.split()
    (home / "x.pth").write_text("one")
    assert with_content(resolve([method, "task=mini/digits", f"{key}=x.pth"])).content == {key: "x.pth@7692c3ad3540bb80"}


def test_another_data_root_with_other_images_is_another_run(home: Path) -> None:
    for root, sizes in (("one", {"train800": 8, "val200": 4, "test": 6}), ("two", {"train800": 8, "val200": 4, "test": 4})):
        miniature.vtab_task(home / root, "kitti", sizes)
    shutil.copytree("one", "copy")
    first = run("vtab/kitti", data_root="one")
    assert state("vtab/kitti", data_root="copy") == "done"
    assert planned("vtab/kitti", data_root="two").sentences()[0].startswith("stale: task vtab/kitti_dist changed (revision ")
    second = run("vtab/kitti", data_root="two")
    assert (first.run_id, first.metrics and first.metrics.samples) == (second.run_id, 6) and second.task_revision != first.task_revision
    assert len(records()) == 2 and [problems_of(path) for path in records()] == [[], []]
    assert [state("vtab/kitti", data_root=root) for root in ("one", "two")] == ["done", "done"]
    run("vtab/kitti", data_root="one")
    assert len(records()) == 2 and all(len(list(path.parent.glob("*.predictions.*"))) == 2 for path in records())
    assert len(petlbench.results("r")) == 2


def test_a_run_whose_files_are_torn_is_missing_and_not_stale(home: Path) -> None:
    own(home / "set")
    run("folder:set")
    (predictions,) = home.rglob("*.predictions.safetensors")
    predictions.write_bytes(predictions.read_bytes()[:-1])
    assert state("folder:set") == "missing" and planned("folder:set").sentences() == []


def test_a_result_on_other_data_of_the_package_is_stale_and_stays(home: Path) -> None:
    record = run("mini/digits")
    (path,) = records()
    for change in ({"task_revision": "0" * 16}, {"backbone": record.backbone.model_copy(update={"sha256": "0" * 64})}):
        path.write_text(record.model_copy(update=change).model_dump_json())
        assert state("mini/digits") == "stale"
    run("mini/digits")
    assert len(records()) == 2 and read_record(path).backbone.sha256 == "0" * 64
    assert state("mini/digits") == "done"


def test_a_record_that_names_its_folder_is_stale(home: Path) -> None:
    own(home / "set")
    record = run("folder:set")
    (path,) = records()
    task = f"folder:{home}/set"
    path.write_text(
        record.model_copy(update={"task": task, "config": record.config | {"task": task}, "task_revision": "1" * 16}).model_dump_json()
    )
    shutil.move(path.parent, path.parent.with_name("older"))
    assert planned("folder:set").sentences()[0].startswith("stale: task folder:set changed (revision unknown → ")


def below(folder: Path) -> str:
    """The names and the content of all files."""
    return "".join(f"{path}\n{path.read_bytes().decode(errors='replace')}" for path in sorted(folder.rglob("*")) if path.is_file())


def test_nothing_that_is_published_names_a_folder_of_the_user(home: Path, call: Call) -> None:
    own(home / "set")
    weights(home / "best.safetensors")
    run(f"folder:{home}/set", save=True, **{"backbone.checkpoint": f"{home}/best.safetensors"})
    run(f"folder:{home}/set+mini/digits")
    own(home / "bad").joinpath("test/dog/1.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    (home / "bad.pth").write_text("no weights")
    for task, file in ((f"folder:{home}/bad", None), (f"folder:{home}/set", f"{home}/bad.pth")):
        with pytest.raises((petlbench.errors.DataError, CheckpointError)):
            run(task, **{"backbone.checkpoint": file})
    for command in ("leaderboard", "export"):
        assert call(command, "out=r")[0] == 0
    found = below(Path("r"))
    assert "alice" not in found and str(home) not in found
    errors = {record.error for record in map(read_record, records()) if record.error}
    assert len(errors) == 2 and any("/test/dog/1.png: not a readable image" in error and error.startswith("bad@") for error in errors)


def test_older_records_are_shown_without_their_folders(home: Path, call: Call) -> None:
    own(home / "set")
    record = run("folder:set")
    (path,) = records()
    task = "folder:/home/bob/photos/set"
    changed = {
        "task": task,
        "config": record.config | {"task": task, "backbone": {"name": "mini_clip", "checkpoint": "C:\\Users\\bob\\w.pth"}},
    }
    path.write_text(record.model_copy(update=changed).model_dump_json())
    (shown,) = RecordStore(Path("r")).read()
    assert (shown.task, shown.config["backbone"]["checkpoint"]) == (f"folder:set@{record.task_revision}", "w.pth")
    path.write_text(
        record.model_copy(
            update=changed | {"status": "failed", "metrics": None, "predictions": None, "error": "/home/bob/photos/set/x.png: no"}
        ).model_dump_json()
    )
    for command in ("leaderboard", "export"):
        assert call(command, "out=r")[0] == 0
    for file in ("leaderboard.md", "leaderboard.html", "runs.csv"):
        assert "bob" not in Path("r", file).read_text(), file


def test_a_checkpoint_finds_its_images_by_their_content(home: Path, call: Call) -> None:
    own(home / "set")
    weights(home / "best.safetensors")
    record = run("folder:set", save=True, **{"backbone.checkpoint": "best.safetensors"})
    checkpoint = Path("r") / str(record.checkpoint)
    assert record.metrics is not None
    assert petlbench.evaluate(checkpoint)["accuracy"] == pytest.approx(100 * record.metrics.accuracy / 100)
    shutil.move("set", "moved")
    with pytest.raises(
        ConfigError, match=r"the images of task folder:set@\w{16} are not known on this machine .*say where they lie: task=folder:PATH"
    ):
        petlbench.evaluate(checkpoint)
    assert petlbench.evaluate(checkpoint, task="folder:moved")["samples"] == 4
    assert petlbench.evaluate(checkpoint)["samples"] == 4, "the place that was given is remembered"
    weights(home / "best.safetensors", 1.5)
    with pytest.raises(
        ConfigError, match=r"backbone\.checkpoint: the file best\.safetensors@\w{16} is not known .*backbone\.checkpoint=PATH"
    ):
        petlbench.evaluate(checkpoint)
    with pytest.raises(
        ConfigError, match=r"best\.safetensors is best\.safetensors@\w{16}, and this was made with best\.safetensors@\w{16}"
    ):
        petlbench.evaluate(checkpoint, {"backbone.checkpoint": "best.safetensors"})
    weights(home / "again.safetensors")
    assert petlbench.evaluate(checkpoint, {"backbone.checkpoint": "again.safetensors"})["samples"] == 4
    assert (
        "takes backbone, data_root, device, task, threads, url, got seed" in call("export", str(checkpoint), "x.safetensors", "seed=1")[2]
    )


def test_a_task_is_not_joined_with_itself_under_another_path(home: Path) -> None:
    own(home / "set")
    shutil.copytree("set", "copy/set")
    with pytest.raises(ConfigError, match=r"task=folder:set\+folder:copy/set joins folder:set@\w{16} with itself"):
        run("folder:set+folder:copy/set")
