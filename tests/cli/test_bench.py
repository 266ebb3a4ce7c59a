"""The bench through the real command line: it resumes, survives faults, and ends with tables and pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from petlbench.cli import cli
from petlbench.errors import AccessError
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.registry import METHODS
from tests.words import plan

FAST = ("train.epochs=2", "train.warmup_epochs=0", "threads=1")
FEW = "protocol.shots=2"


def bench(out: Path, *words: str, expect: int = 0) -> dict:
    """Run ``petlbench bench … --json`` in this process; returns what it printed."""
    result = CliRunner().invoke(cli, ["bench", *words, *FAST, f"out={out}", "--json"], catch_exceptions=False)
    assert result.exit_code == expect, result.output
    return json.loads(result.stdout)


def records(out: Path) -> dict[str, Record]:
    return {f"{r.method.name} {r.task} {r.seed}": r for r in RecordStore(out).read()}


def comparable(out: Path) -> dict[str, tuple]:
    """What must not depend on when and how often a bench was interrupted."""
    return {name: (r.run_id, r.status, r.metrics, r.parameters, r.predictions, r.split_hashes) for name, r in records(out).items()}


def test_a_bench_ends_with_a_leaderboard_and_pictures(tmp_path: Path) -> None:
    summary = bench(tmp_path, "method=zero_shot,linear", "task=mini", "seeds=0")
    assert len(summary["runs"]) == 12
    frame = pd.read_csv(tmp_path / "leaderboard.csv")
    assert list(frame.columns[:7]) == ["method", "access", "backbone", "suite", "protocol", "mean", "rank"]
    assert list(frame["method"]) == ["linear", "zero_shot"] and list(frame["rank"]) == [1, 2]
    tasks = [column for column in frame.columns if column.startswith("mini/")]
    assert len(tasks) == 6
    linear = frame.iloc[0]
    assert linear["mean"] == pytest.approx(sum(linear[task] for task in tasks) / 6)
    written = [Path(path) for path in summary["written"]]
    assert {path.suffix for path in written} == {".csv", ".md", ".html", ".png", ".svg"}
    assert all(len(pd.read_csv(path)) if path.suffix == ".csv" else path.stat().st_size > 500 for path in written)


def test_a_second_bench_runs_only_what_is_missing(tmp_path: Path) -> None:
    bench(tmp_path, "method=zero_shot", "task=mini/digits,mini/location", "seeds=0")
    before = {path: path.stat().st_mtime_ns for path in RecordStore(tmp_path).paths()}
    summary = bench(tmp_path, "method=zero_shot,linear", "task=mini/digits,mini/location", "seeds=0")
    assert summary["skipped"] == 2 and [run["method"] for run in summary["runs"]] == ["linear", "linear"]
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_other_settings_are_other_runs(tmp_path: Path) -> None:
    bench(tmp_path, "method=lora", "task=mini/digits", "seeds=0", FEW)
    summary = bench(tmp_path, "method=lora", "task=mini/digits", "seeds=0", FEW, "method.rank=2")
    assert summary["skipped"] == 0
    ranks = sorted(r.method.config["rank"] for r in RecordStore(tmp_path).read())
    assert ranks == [2, 8]


def test_a_failing_run_does_not_stop_the_others_and_is_run_again_on_request(tmp_path: Path) -> None:
    words = ("method=lora,linear", "task=mini/digits", "seeds=0", FEW, "train.optimizer=sgd", "train.learning_rate=1e30")
    summary = bench(tmp_path, *words, expect=1)
    assert {run["method"]: run["status"] for run in summary["runs"]}["lora"] == "diverged"
    assert len(summary["runs"]) == 2
    again = bench(tmp_path, *words, expect=1)
    assert not [run for run in again["runs"] if run["method"] == "lora"]
    retried = CliRunner().invoke(cli, ["bench", *words, *FAST, f"out={tmp_path}", "--json", "--retry-failed"])
    assert "lora" in [run["method"] for run in json.loads(retried.stdout)["runs"]]


def test_all_can_be_joined_by_presets(tmp_path: Path) -> None:
    words = ["plan", "method=all,adaptformer,lora", "task=mini/digits", f"out={tmp_path}", "--json"]
    reply = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert [run["method"] for run in reply["runs"]] == [*METHODS.names(), "adaptformer"]


def test_plan_says_what_bench_would_do(tmp_path: Path) -> None:
    bench(tmp_path, "method=zero_shot", "task=mini/digits", "seeds=0")
    words = ["plan", "method=zero_shot", "task=mini/digits,mini/location", "seeds=0", *FAST, f"out={tmp_path}", "--json"]
    reply = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert [run["state"] for run in reply["runs"]] == ["done", "missing"]
    assert reply["estimated_seconds"] > 0


def test_a_checkpoint_gives_the_same_accuracy_in_a_fresh_process(tmp_path: Path) -> None:
    words = ["run", "method=lora", "task=mini/digits", FEW, *FAST, f"out={tmp_path}", "save=true", "--json"]
    first = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.safetensors")
    command = [sys.executable, "-m", "petlbench", "evaluate", str(checkpoint), "task=mini/digits", "threads=1", "--json"]
    reply = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(reply.stdout)["accuracy"] == first["accuracy"]


def test_a_killed_bench_continues_without_repeating_a_run(tmp_path: Path) -> None:
    """kill -9 in the middle, then the same command: the results are those of a bench that was never interrupted."""
    words = ["method=zero_shot,lora", "task=mini/digits,mini/location", "seeds=0"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "petlbench", "bench", *words, *FAST, f"out={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(RecordStore(killed).paths()) < 2 and process.poll() is None:
        assert time.monotonic() < deadline, "the bench wrote no records"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in RecordStore(killed).paths()}
    assert len(finished) < 4, "the bench was too fast to be killed in the middle"
    bench(killed, *words)
    bench(whole, *words)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert comparable(killed) == comparable(whole)


def test_worker_processes_give_the_results_of_one_process(tmp_path: Path) -> None:
    words = ("method=zero_shot,lora", "task=mini/digits", "seeds=0,1", FEW)
    alone, together = tmp_path / "alone", tmp_path / "together"
    bench(alone, *words)
    command = [sys.executable, "-m", "petlbench", "bench", *words, *FAST, f"out={together}", "--jobs", "2"]
    subprocess.run(command, check=True, capture_output=True)
    assert comparable(alone) == comparable(together)


def test_methods_that_a_backbone_cannot_serve_are_left_out_of_all_and_refused_when_named(tmp_path: Path) -> None:
    words = ("task=mini/digits", "access.output=label", f"out={tmp_path}")
    names = {cell.config.method for cell in plan(["method=all", *words]).runs}
    assert {"zero_shot", "linear", "lora"} <= names and not {"bar", "craft"} & names
    with pytest.raises(AccessError, match="method bar needs probabilities"):
        plan(["method=zero_shot,bar,linear", *words])
