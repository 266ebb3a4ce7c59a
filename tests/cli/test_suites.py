"""The published suites through the real command line, on miniature copies of their data and without any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from petlbench.cli import _COMMANDS
from petlbench.config.files import load_suite
from petlbench.datasets.disk import facts
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.runs.plan import selected_tasks
from tests.conftest import Call
from tests.datasets.miniature import image_folders, vtab_task
from tests.words import resolve

FAST = ("train.epochs=2", "train.warmup_epochs=0", "threads=1", "--jobs", "1")
FOLDERS = {dataset.name: entry.folder for dataset in facts.datasets().values() for entry in dataset.suites.values() if entry.folder}


@pytest.fixture(autouse=True)
def no_data_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PETLBENCH_DATA", raising=False)


def records(out: Path) -> list[Record]:
    return list(RecordStore(out).read())


def test_a_miniature_vtab_runs_to_the_end_and_prints_its_averages(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = (
        "leaderboard.write_plots",
        "leaderboard.write_query_plots",
        "leaderboard.write_allocation_plots",
        "comparison.write_ranking_plots",
    )
    for drawing in drawings:  # pictures take most of the time and have tests of their own
        monkeypatch.setattr(f"petlbench.report.{drawing}", lambda *_: [])
    for folder in FOLDERS.values():
        assert folder is not None
        vtab_task(tmp_path / "data", folder)
    code, out, err = call("bench", "method=linear", "task=vtab", "seeds=0", "data_root=data", *FAST)
    assert code == 0, err
    found = records(tmp_path / "results")
    assert len(found) == 19 and {(record.layout, record.split, record.class_count > 1) for record in found} == {
        ("vtab1k", "published", True)
    }
    markdown = (tmp_path / "results/leaderboard.md").read_text()
    for heading in ("mean of 19", "mean natural", "mean specialized", "mean structured", "mean of group means"):
        assert heading in markdown
    assert all(word in out for word in ("natural", "specialized", "structured", "group"))


def test_without_data_one_message_names_every_task_and_the_command(call: Call) -> None:
    code, _, err = call("bench", "method=linear", "task=vtab")
    lines = err.splitlines()
    assert code == 2 and lines[0].startswith("petlbench: 19 of 19 tasks are not there") and "PETLBENCH_DATA" in lines[0]
    for task, folder in FOLDERS.items():
        (line,) = [line for line in lines[1:20] if line.split()[0] == f"vtab/{task}"]
        assert f"vtab-1k/{folder}/" in line
    (download,) = [line for line in lines if line.startswith("to download: petlbench data prepare vtab/cifar100 ")]
    assert "vtab/svhn" in download and "vtab/dmlab" not in download and download.endswith("data_root=DIR")
    assert any(line.startswith("by hand: vtab/diabetic_retinopathy from https://") for line in lines)


def test_the_command_that_the_message_names_exists(call: Call) -> None:
    assert "data" in _COMMANDS
    code, out, _ = call("data", "prepare", "--help")
    assert code == 0 and "data_root" in out


def test_available_runs_what_is_there(call: Call, tmp_path: Path) -> None:
    vtab_task(tmp_path / "data", "svhn")
    code, out, err = call("plan", "method=linear", "task=vtab", "seeds=0", "data_root=data", "--available", "--json")
    assert code == 0, err
    assert [run["task"] for run in json.loads(out)["runs"]] == ["vtab/svhn"]
    code, _, err = call("plan", "method=linear", "task=vtab", "data_root=data")
    assert code == 2 and "18 of 19 tasks are not there" in err and "--available" in err


def test_available_says_which_task_is_left_out_because_it_is_broken(call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vtab_task(tmp_path / "data", "svhn")
    (vtab_task(tmp_path / "data", "dtd") / "test.txt").unlink()
    code, out, _ = call("plan", "method=linear", "task=vtab", "seeds=0", "data_root=data", "--available", "--json")
    assert code == 0 and [run["task"] for run in json.loads(out)["runs"]] == ["vtab/svhn"]
    (message,) = caplog.messages
    assert message.startswith("vtab/dtd is skipped: data/vtab-1k/dtd/test.txt: cannot be read")


def test_a_joined_task_is_available_when_all_of_it_is(call: Call, tmp_path: Path) -> None:
    vtab_task(tmp_path / "data", "svhn")
    _, out, _ = call("plan", "method=linear", "task=vtab/svhn+vtab/dtd,vtab/svhn", "seeds=0", "data_root=data", "--available", "--json")
    assert [run["task"] for run in json.loads(out)["runs"]] == ["vtab/svhn"]


def test_available_of_nothing_is_the_message_about_all(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = call("bench", "method=linear", "task=fgvc", "data_root=empty", "--available")
    assert code == 2 and "5 of 5 tasks are not there" in err


def test_the_environment_names_the_data_root(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vtab_task(tmp_path / "data", "svhn")
    monkeypatch.setenv("PETLBENCH_DATA", str(tmp_path / "data"))
    assert call("plan", "method=linear", "task=vtab/svhn")[0] == 0


def test_a_data_root_may_begin_with_the_home_folder(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vtab_task(tmp_path / "data", "svhn")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("plan", "method=linear", "task=vtab/svhn", "data_root=~/data")[0] == 0


def test_a_data_root_that_is_no_folder_is_refused(call: Call) -> None:
    code, _, err = call("run", "method=linear", "task=vtab/svhn", "data_root=nowhere")
    assert code == 2 and err == "petlbench: data_root=nowhere is not a folder; name the one that your datasets lie in\n"


def test_a_task_without_data_is_refused_before_a_record(call: Call, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, _, err = call("run", "method=linear", "task=vtab/dmlab", "data_root=data")
    assert code == 2 and "vtab/dmlab is not there; looked below data" in err and not (tmp_path / "results").exists()


def test_suites_shows_where_each_task_stands(call: Call, tmp_path: Path) -> None:
    vtab_task(tmp_path / "data", "svhn")
    (vtab_task(tmp_path / "data", "dtd") / "test.txt").unlink()
    code, out, _ = call("suites", "vtab-1k", "data_root=data", "--json")
    states = {row["task"]: (row["state"], row["where"]) for row in json.loads(out)}
    assert code == 0 and len(states) == 19
    assert states["vtab/svhn"] == ("present", "data/vtab-1k/svhn (vtab1k)")
    assert states["vtab/dtd"][0] == "broken" and "test.txt" in states["vtab/dtd"][1]
    assert states["vtab/cifar100"][0] == "downloadable" and states["vtab/dmlab"][0] == "manual"


def test_suites_counts_the_tasks_of_all(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("suites", "--json")
    rows = {row["suite"]: row for row in json.loads(out)}
    assert code == 0 and {"mini", "vtab", "fgvc", "blackvip16", "craft15", "pgn12"} <= set(rows)
    assert (rows["mini"]["present"], rows["vtab"]["present"], rows["vtab"]["tasks"]) == (6, 0, 19)


def test_suites_takes_names_and_a_data_root_only(call: Call) -> None:
    assert "unknown key 'device'. Known: data_root (command line)" in call("suites", "device=cpu")[2]
    assert "no suite 'vtub'. Did you mean 'vtab'?" in call("suites", "vtub")[2]


@pytest.mark.parametrize(("alias", "tasks"), [("VTAB_1k", 19), ("vtab1k/CIFAR-100", 1), ("craft", 15), ("fgvc5,pgn/NWPU RESISC45", 6)])
def test_aliases_stand_for_suites_and_tasks(alias: str, tasks: int) -> None:
    chosen = selected_tasks(alias)
    assert len(chosen) == tasks and all(task in load_suite(task.split("/")[0]).tasks for task in chosen)


def test_aliases_may_be_joined() -> None:
    assert selected_tasks("vtab1k/cifar+vtab/DTD") == ["vtab/cifar100+vtab/dtd"]


def test_an_alias_is_the_same_run() -> None:
    assert resolve(["method=linear", "task=VTAB-1k/cifar"]).identity == resolve(["method=linear", "task=vtab/cifar100"]).identity


def test_a_shift_of_imagenet_is_scored_among_its_own_labels(call: Call, tmp_path: Path) -> None:
    """Trained on three of ImageNet's classes that the set does not have, a method can only name labels of the set."""
    ids, own = facts.wordnet_ids(), facts.subset("imagenet_a")
    assert not set(own) & {0, 1, 2}
    for part, first in (("train", 0), ("val", 50)):
        image_folders(tmp_path / "data/imagenet/images" / part, ids[:3], per_class=3, first=first)
    image_folders(tmp_path / "data/imagenet-adversarial/imagenet-a", [ids[own[0]], ids[own[1]]], per_class=3)
    shots = ("protocol.shots=2", "protocol.shortage=keep")
    code, _, err = call("run", "method=linear", "task=craft15/imagenet_a", "data_root=data", *shots, *FAST[:3])
    assert code == 0, err
    (record,) = records(tmp_path / "results")
    assert record.class_count == 1000 and record.metrics is not None and record.metrics.samples == 6
    (path,) = (tmp_path / "results").rglob("*.predictions.safetensors")
    assert set(load_file(path)["predicted"].tolist()) <= set(own)


def test_what_was_learned_on_imagenet_is_evaluated_on_its_shifts_as_a_run_on_them_is(call: Call, tmp_path: Path) -> None:
    ids, own = facts.wordnet_ids(), facts.subset("imagenet_a")[:2]
    for part, first in (("train", 0), ("val", 50)):
        image_folders(tmp_path / "data/imagenet/images" / part, [ids[label] for label in own], per_class=4, first=first)
    image_folders(tmp_path / "data/imagenet-adversarial/imagenet-a", [ids[label] for label in own], per_class=5, first=80)
    words = ("data_root=data", "protocol.shots=2", "save=true", *FAST[:3])
    assert call("run", "method=linear", "task=craft15/imagenet", *words)[0] == 0
    (checkpoint,) = (tmp_path / "results/checkpoints").iterdir()
    code, out, err = call("evaluate", str(checkpoint), "task=craft15/imagenet_a", "data_root=data", "--json")
    assert code == 0, err
    call("run", "method=linear", "task=craft15/imagenet_a", *words)
    (metrics,) = [record.metrics for record in records(tmp_path / "results") if record.task == "craft15/imagenet_a"]
    assert metrics is not None and json.loads(out)["samples"] == metrics.samples == 10
    assert json.loads(out)["accuracy"] == metrics.accuracy
