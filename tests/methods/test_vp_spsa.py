"""VP-SPSA: the border that is trained by queries only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from petlbench.errors import BudgetExceeded, ConfigError
from petlbench.methods.vp_spsa import VPSPSA, VPSPSAConfig
from tests.methods.asking import asking
from tests.words import resolve


@pytest.mark.parametrize(("size", "count"), [(224, 69_840), (32, 1_344)])
def test_it_learns_a_border_of_the_published_size(size: int, count: int) -> None:
    method = VPSPSA(VPSPSAConfig())
    method.build(SimpleNamespace(input_size=size))  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in method.parameters()) == count


def test_a_step_is_ten_queries_about_every_image_of_a_batch_in_one_call() -> None:
    with asking("method=vp_spsa") as run:
        run.fit()
    assert (run.meter.counts["train"]["images"], run.meter.counts["train"]["calls"]) == (2 * 36 * 10, 2 * 3)


def test_training_lowers_the_loss() -> None:
    with asking("method=vp_spsa", "train.epochs=20", "method.spread=0", "method.spsa.step=1") as run:
        run.fit()
    assert run.history[-1].loss < 0.9 * run.history[0].loss


def test_a_run_out_of_budget_keeps_what_it_has_learned() -> None:
    with asking("method=vp_spsa", "budget.images=250") as run:
        start = run.learner.state()
        with pytest.raises(BudgetExceeded):
            run.fit()
        with asking("method=vp_spsa", "train.epochs=1") as whole:
            whole.fit()
        held, after_three_steps = run.learner.state(), whole.learner.state()
    assert not torch.equal(held["prompt.pad_up"], start["prompt.pad_up"])
    assert not torch.equal(held["prompt.pad_up"], after_three_steps["prompt.pad_up"]), "two steps were paid for"


def test_a_border_that_fills_the_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.width must be 1 to 7"), asking("method=vp_spsa", "method.width=8"):
        pass


@pytest.mark.parametrize(
    ("word", "message"), [("method.width=0", "method.width must be an int >= 1"), ("method.spread=-1", "method.spread must")]
)
def test_settings_without_a_meaning_are_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(["method=vp_spsa", "task=mini/digits", word])


def test_a_released_row_is_used_and_named() -> None:
    config = resolve(["method=vp_spsa", "task=blackvip16/clevr_count"])
    assert (config.method_config.spsa.step, config.method_config.spsa.momentum, config.train.epochs) == (20.0, 0.9, 5000)
    assert config.hyperparameters == "task blackvip16/clevr_count"
