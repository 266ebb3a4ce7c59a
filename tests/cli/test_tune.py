"""Tuning through the real command line: tune, kill and continue, run the winners, show."""

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

from petlbench.analysis.validate import problems_of
from petlbench.records.store import RecordStore
from tests.conftest import Call

FEW = ("task=mini/digits", "protocol.shots=2", "train.epochs=2", "train.warmup_epochs=0", "threads=1", "out=results")


def studies() -> list[dict]:
    return [json.loads(path.read_text()) for path in Path("results/studies").glob("*/study.json")]


def test_tune_then_run_the_winners_then_show_the_study(call: Call) -> None:
    code, out, err = call("tune", "method=lora,linear", "trials=2", *FEW)
    assert code == 0 and "2 studies, 4 trials, 0 of them done" in err and "[4/4]" in err
    assert "best val %" in out and not Path("results/records").exists()
    code, out, err = call("tune", "method=lora,linear", "trials=2", *FEW)
    assert code == 0 and "4 trials, 4 of them done" in err and "[" not in err  # nothing is repeated

    code, out, err = call("bench", "method=lora,linear", "hyperparameters=tuned", "seeds=0,1", *FEW)
    assert code == 0 and "4 runs: 0 done" in err
    records = RecordStore(Path("results")).read()
    assert len(records) == 4 and all(record.hyperparameters.startswith("tuned: 2 trials, tpe seed 0, val ") for record in records)
    assert {record.protocol.settings["train_on"] for record in records} == {"trainval"} and {record.scored_on for record in records} == {
        "test"
    }
    assert [problem for path in RecordStore(Path("results")).paths() for problem in problems_of(path)] == []
    frame = pd.read_csv("results/leaderboard.csv").set_index("method")
    assert set(frame.index) == {"lora (tuned, 2 trials)", "linear (tuned, 2 trials)"}
    linear = frame.loc["linear (tuned, 2 trials)"]
    spent = sum(
        json.loads(path.read_text())["cost"]["queries"]["train"]["images"] for path in Path("results/studies/records").rglob("linear*.json")
    )
    spent += sum(
        json.loads(path.read_text())["cost"]["queries"]["val"]["images"] for path in Path("results/studies/records").rglob("linear*.json")
    )
    assert linear["queries_with_tuning"] == linear["queries"] + spent and spent > 0
    code, out, err = call("plan", "method=lora,linear", "hyperparameters=tuned", "seeds=0,1", *FEW)
    assert code == 0 and "0 of 4 runs missing" in out

    code, out, err = call("show", "lora-mini_digits", "out=results")
    assert code == 0 and "2 of 2 trials; tpe seed 0; seeds 0" in out and "default settings" in out and "means little" in out
    pictures = [Path(line) for line in out.splitlines() if "plots/study-" in line]
    assert len(pictures) == 2 and all(path.stat().st_size > 5_000 for path in pictures)
    assert call("validate", "results")[0] == 0
    assert call("export", "out=results")[0] in (0, 2)  # pyarrow may be missing


def test_bench_tunes_first(call: Call) -> None:
    code, _, err = call("bench", "method=norm", "tune=2", "seeds=0", *FEW)
    assert code == 0, err
    (record,) = RecordStore(Path("results")).read()
    assert record.tuning is not None and (record.tuning.trials, record.tuning.study) == (2, record.config["study"])
    assert call("bench", "method=norm", "tune=2", "seeds=0", *FEW)[2].count("1 done") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("bench", "method=lora", "hyperparameters=tuned"),
            "no study of lora on mini/digits with these settings in results/studies; run petlbench tune",
        ),
        (("bench", "method=lora", "hyperparameters=best"), "hyperparameters must be tuned, or left out"),
        (("tune", "method=zero_shot"), "there is nothing to tune: zero_shot"),
        (("tune", "method=lora", "trials=many"), "trials must be an int, got 'many' (command line)"),
        (("tune", "method=lora", "protocol.selection=oracle_test"), "selection=oracle_test looks at test images"),
        (("show", "lora-nothing"), "lora-nothing: no such file"),
    ],
)
def test_mistakes_are_one_line(call: Call, words: tuple[str, ...], message: str) -> None:
    more = FEW if words[0] != "show" else ("out=results",)
    code, _, err = call(*words, *more)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1 and not Path("results/studies").exists()


def test_two_processes_and_one_that_is_killed_make_one_study(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "petlbench", "tune", "method=norm", "trials=6", *FEW]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    while "[1/6]" not in (line := first.stderr.readline()):
        assert line, "it ended before its first trial"
    os.kill(first.pid, signal.SIGSTOP)  # it is at work on another one, and stays so
    second = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "results/studies").glob("*/at_work/*.lock"))[1:]:
        assert second.poll() is None, second.communicate()
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    _, said = second.communicate()
    assert second.returncode == 0, said
    done = subprocess.run([*words, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    (study,) = json.loads(done.stdout)
    assert (study["trials"], study["failed"]) == (6, 0) and "6 of them done" in done.stderr
