"""The script through its command line, on the smallest models, and what it counts."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import blackbox
from petlbench.testing.mocks import tiny_backbone

BATCH, REPEATS, ROUNDS, CONTEXTS = 3, 2, 2, 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    """Run the command; return its result and the JSON that it wrote."""
    target = tmp_path_factory.mktemp("bench") / "blackbox.json"
    words = ["--batch", BATCH, "--repeats", REPEATS, "--rounds", ROUNDS, "--contexts", CONTEXTS, "--classes", 3, "--threads", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blackbox, "build_backbone", tiny_backbone)
        patch.setattr(blackbox, "VIT", {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0})
        result = CliRunner().invoke(blackbox.main, [*map(str, words), "--device", "cpu", "--json", str(target)], catch_exceptions=False)
    return result, json.loads(target.read_text())


def test_both_ways_of_blackvip_send_the_same_images_ours_in_one_call(finished: tuple[Result, dict[str, Any]]) -> None:
    rows = finished[1]["results"]["blackvip"]
    per_round = {name: {key: row[key] / (ROUNDS + 1) for key in ("images", "calls", "encoded")} for name, row in rows.items()}
    queries = 2 * REPEATS
    assert per_round["released"] == {"images": queries * BATCH, "calls": queries, "encoded": queries * BATCH}
    assert per_round["petlbench, fresh views"] == {"images": queries * BATCH, "calls": 1, "encoded": BATCH}
    assert per_round["petlbench, known views"] == {"images": queries * BATCH, "calls": 1, "encoded": 0}


def test_both_ways_of_craft_give_the_same_scores_for_the_same_contexts(finished: tuple[Result, dict[str, Any]]) -> None:
    rows = finished[1]["results"]["craft"]
    assert {name: row["contexts"] / (ROUNDS + 1) for name, row in rows.items()} == {"released": CONTEXTS, "petlbench": CONTEXTS}
    assert {name: row["calls"] / (ROUNDS + 1) for name, row in rows.items()} == {"released": CONTEXTS, "petlbench": 1}
    assert rows["petlbench"]["largest_difference"] < 1e-4


def test_the_table_shows_medians_of_the_counted_rounds_and_their_ratio(finished: tuple[Result, dict[str, Any]]) -> None:
    result, document = finished
    assert result.exit_code == 0
    for rows in document["results"].values():
        assert all(len(row["seconds"]) == ROUNDS for row in rows.values())
        released = median(rows["released"]["seconds"])
        for name, row in rows.items():
            line = next(line for line in result.stdout.splitlines() if line.startswith(name) and f"{median(row['seconds']):.3f}" in line)
            assert f"{released / median(row['seconds']):.2f}" in line


def test_an_unknown_part_is_refused() -> None:
    result = CliRunner().invoke(blackbox.main, ["--parts", "blackvip,speed"])
    assert result.exit_code == 2 and "--parts takes blackvip, craft, got speed" in result.stderr


def test_where_results_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(blackbox.main, ["--json", str(tmp_path / "nowhere" / "x.json")])
    assert result.exit_code == 2 and "there is no folder" in result.stderr
