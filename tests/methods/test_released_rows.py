"""What the YAML of BlackVIP and of the methods beside it in its paper sets, against the tables of its released code."""

from __future__ import annotations

import pytest

from petlbench.config import resolve


@pytest.mark.parametrize("method", ["bar", "vp_spsa"])
@pytest.mark.parametrize("task", ["mini/digits", "blackvip16/eurosat", "folder:none"])
def test_estimates_from_close_losses_are_made_of_exact_scores(method: str, task: str) -> None:
    assert resolve([f"method={method}", f"task={task}"]).precision == "fp32"


@pytest.mark.parametrize("method", ["bar", "blackvip", "vp_spsa"])
@pytest.mark.parametrize("task", ["mini/digits", "blackvip16/eurosat", "folder:none"])
def test_one_epoch_is_enough_for_methods_that_do_not_warm_up(method: str, task: str) -> None:
    assert resolve([f"method={method}", f"task={task}", "train.epochs=1"]).train.epochs == 1
