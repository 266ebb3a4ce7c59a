"""Train BlackVIP on the mini suite within its budget and beat zero-shot."""

from __future__ import annotations

from pathlib import Path

import pytest

from petlbench.runs.execute import execute
from tests.words import resolve


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mini/digits", "mini/biased_digits"])
def test_it_is_better_than_zero_shot_at_digits(task: str, tmp_path: Path) -> None:
    accuracy = []
    for method in ("zero_shot", "blackvip"):
        record, _ = execute(resolve([f"method={method}", f"task={task}", f"out={tmp_path}", "threads=1"]))
        assert record.metrics is not None
        accuracy.append(record.metrics.accuracy)
    assert accuracy[1] > accuracy[0]
