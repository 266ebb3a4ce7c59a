"""Visual prompts that are trained with gradients of the frozen model."""

from __future__ import annotations

import pytest
import torch

from petlbench.optim.schedule import learning_rate
from tests.methods.asking import asking
from tests.words import resolve

KINDS = ("padding", "fixed_patch", "random_patch")


@pytest.mark.parametrize(("kind", "count"), [("padding", 12 * 2 * 14), ("fixed_patch", 3 * 2 * 2), ("random_patch", 3 * 2 * 2)])
def test_the_prompt_is_all_that_is_learned(kind: str, count: int) -> None:
    with asking("method=vp", f"method.prompt={kind}") as run:
        assert run.learner.parameter_counts() == (count, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss(kind: str) -> None:
    with asking(
        "method=vp", f"method.prompt={kind}", "method.width=5", "method.spread=0.1", "train.epochs=15", "train.learning_rate=1"
    ) as run:
        run.fit()
    assert run.history[-1].loss < 0.98 * run.history[0].loss  # a patch that moves helps least


def test_a_step_asks_once_about_every_image() -> None:
    with asking("method=vp") as run:
        run.fit()
    assert (run.meter.counts["train"]["images"], run.meter.counts["train"]["calls"]) == (2 * 36, 2 * 3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_learned_can_be_loaded(kind: str) -> None:
    with asking("method=vp", f"method.prompt={kind}") as run, asking("method=vp", f"method.prompt={kind}") as fresh:
        run.fit()
        assert not torch.equal(fresh.predict(), run.predict())
        fresh.learner.load_state(run.learner.state())
        assert torch.equal(fresh.predict(), run.predict())


def test_a_random_patch_is_evaluated_alike_every_time() -> None:
    with asking("method=vp", "method.prompt=random_patch") as run:
        assert torch.equal(run.predict(), run.predict())


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.1), (1, 0.05), (99, 4.95), (100, 5.0), (600, 2.5)])
def test_released_rows_warm_up_from_nothing_and_take_a_whole_cosine_from_there(epoch: int, rate: float) -> None:
    recipe = resolve(["method=vp", "task=blackvip16/stanford_cars"]).train
    assert learning_rate(epoch, recipe) == pytest.approx(rate)


def test_the_last_step_of_vps_warm_up_runs_at_the_full_rate() -> None:
    with asking("method=vp", "train.epochs=3", "train.warmup_epochs=1") as run:
        run.fit()
    assert run.history[0].learning_rate == pytest.approx(40.0)
