"""The script through its command line, on the smallest settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import data

WORDS = (
    "--count 7 --width 30 --height 20 --size 12 --resize 16 --batch 3 --epochs 2 --workers 0 --reference-images 5 --threads 1 --device cpu"
)


def finished(augment: str, tmp_path: Path) -> tuple[Result, dict[str, Any]]:
    """Run the command; return its result and the JSON that it wrote."""
    target = tmp_path / "data.json"
    words = [*WORDS.split(), "--augment", augment, "--json", str(target)]
    result = CliRunner().invoke(data.main, words, catch_exceptions=False)
    return result, json.loads(target.read_text())


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("augment", data.AUGMENTS)
def test_stream_store_and_reference_are_timed_in_every_epoch(augment: str, tmp_path: Path) -> None:
    result, document = finished(augment, tmp_path)
    assert result.exit_code == 0
    assert [row["name"] for row in document["rows"]] == ["stream", "store", "reference"]
    assert all(len(row["samples"]) == 2 and min(row["samples"]) > 0 and row["name"] in result.stdout for row in document["rows"])


@pytest.mark.usefixtures("cache")
def test_without_chance_all_three_give_the_same_bits(tmp_path: Path) -> None:
    result, document = finished("none", tmp_path)
    assert document["bit_identical"] is True and "results bit-identical" in result.stdout


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(data.main, [*WORDS.split(), "--json", str(tmp_path / "no" / "data.json")])
    assert result.exit_code == 2 and "there is no folder" in result.stderr


@pytest.mark.usefixtures("cache")
def test_all_images_are_prepared_once_and_their_store_is_measured(tmp_path: Path) -> None:
    _, document = finished("none", tmp_path)
    assert document["prepare"]["images"] == 7 + 2  # and one to validate, one to test
    assert document["prepare"]["megabytes"] == 9 * 12 * 12 * 3 / 2**20
