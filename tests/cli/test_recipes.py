"""Recipes through the command line: what ends up in the record and in the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from petlbench.analysis.validate import problems_of
from petlbench.cli import cli
from petlbench.config.files import names
from petlbench.records.schema import read_record

FAST = ("task=mini/digits", "train.epochs=2", "train.warmup_epochs=1", "threads=1")


def call(*words: str) -> Any:
    """Run a command; return its output, parsed if it is JSON."""
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


def test_all_recipes_are_listed_with_one_line_about_their_source() -> None:
    listed = {row["recipe"]: row["title"] for row in call("recipes", "--json")}
    assert sorted(listed) == names("recipes")
    assert all("(arXiv 2" in title and "\n" not in title for title in listed.values())


def test_a_run_follows_its_recipe_and_its_record_says_so(tmp_path: Path) -> None:
    printed = call("run", "method=lora", "recipe=noah", *FAST, f"out={tmp_path}", "--json")
    path = Path(printed["record"])
    record = read_record(path)
    assert (record.config["recipe"], record.hyperparameters, record.method.name) == ("noah", "recipe noah", "lora")
    assert record.protocol.id.startswith("noah-")
    train = record.config["train"]
    assert (train["epochs"], train["batch_size"], train["learning_rate"], train["drop_path"]) == (2, 64, 1e-3, 0.1)
    assert [epoch.learning_rate for epoch in record.history] == pytest.approx([1e-6, 1e-6])
    assert record.cost.images_forwarded == 2 * (500 + 500) + 500, "500 images of train and val, 500 of test after each epoch"
    assert record.metrics is not None
    assert printed["selection"] == "oracle_test"
    assert record.metrics.accuracy == max(epoch.test_accuracy or 0 for epoch in record.history)
    assert problems_of(path) == []


def test_a_number_chosen_on_the_test_split_is_flagged_wherever_it_is_shown(tmp_path: Path) -> None:
    words = ("recipe=spt_release", "method=linear", *FAST, f"out={tmp_path}")
    assert "(oracle: the epoch was chosen on the test split)" in call("run", *words)
    call("bench", *words, "--json")
    (row,) = pd.read_csv(tmp_path / "leaderboard.csv").itertuples()
    assert row.method == "linear (oracle)" and row.protocol.startswith("spt_release-")
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| linear (oracle) |" in text and "selection oracle_test" in text


def test_a_grid_takes_a_recipe(tmp_path: Path) -> None:
    planned = call("plan", "method=zero_shot,linear", "recipe=vpt_paper", "task=mini", f"out={tmp_path}", "--json")
    assert len(planned["runs"]) == 12
