"""The script through its command line, on the smallest model."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import pgn
from petlbench.testing.mocks import WIDTH, tiny_backbone

BATCH, ROUNDS, PROMPTS = 4, 3, 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    """Run the command; return its result and the JSON that it wrote."""
    target = tmp_path_factory.mktemp("bench") / "pgn.json"
    words = ["--batch", BATCH, "--rounds", ROUNDS, "--prompts", PROMPTS, "--classes", 3, "--threads", 1, "--backbone", "mini_clip"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pgn.BACKBONES, "mini_clip", tiny_backbone)
        result = CliRunner().invoke(pgn.main, [*map(str, words), "--device", "cpu", "--json", str(target)], catch_exceptions=False)
    return result, json.loads(target.read_text())


def test_all_ways_are_measured_in_inference_and_training(finished: tuple[Result, dict[str, Any]]) -> None:
    results = finished[1]["results"]
    assert list(results) == ["inference", "training step"]
    for rows in results.values():
        assert list(rows) == ["backbone alone", "fixed prompts", "generated prompts"]
        assert all(len(row["seconds"]) == ROUNDS for row in rows.values())
        assert rows["fixed prompts"]["parameters"] == PROMPTS * WIDTH


def test_the_table_shows_images_per_second_and_how_much_longer_it_takes(finished: tuple[Result, dict[str, Any]]) -> None:
    result, document = finished
    assert result.exit_code == 0
    for rows in document["results"].values():
        alone = median(rows["backbone alone"]["seconds"])
        for name, row in rows.items():
            seconds = median(row["seconds"])
            line = next(line for line in result.stdout.splitlines() if line.startswith(name) and f"{seconds:.4f}" in line)
            assert f"{BATCH / seconds:,.1f}" in line and f"{seconds / alone:.2f}" in line


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(pgn.main, ["--json", str(tmp_path / "none" / "x.json")])
    assert result.exit_code == 2 and "there is no folder" in result.stderr
