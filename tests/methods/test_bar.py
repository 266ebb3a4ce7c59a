"""BAR (reprogramming): positions of image and frame, number of queries, learning rates, stored state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from petlbench.errors import BudgetExceeded, ConfigError
from petlbench.methods.bar import BAR, BARConfig, decayed_rate
from tests.methods.asking import asking
from tests.near import assert_near
from tests.words import resolve

NORMALISATION = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


def built(size: int, embedded_size: int | None = None) -> BAR:
    method = BAR(BARConfig(embedded_size=embedded_size))
    method.build(SimpleNamespace(input_size=size, **NORMALISATION))  # type: ignore[arg-type]
    return method


@pytest.mark.parametrize(("size", "count", "embedded"), [(224, 150_528, 194), (32, 3_072, 28), (16, 768, 14)])
def test_the_program_is_as_large_as_the_input_and_the_image_scales_with_it(size: int, count: int, embedded: int) -> None:
    method = built(size)
    assert sum(parameter.numel() for parameter in method.parameters()) == count
    assert method.embedded_size == embedded


def test_the_image_lies_in_the_middle_of_the_frame_as_released() -> None:
    frame = built(224).frames(torch.ones(1, 150_528))[0]
    assert not frame[:, 15:209, 15:209].any()
    assert frame[:, :15].all() and frame[:, 209:].all() and frame[:, :, :15].all() and frame[:, :, 209:].all()


def test_pixels_of_the_image_do_not_depend_on_the_program() -> None:
    method, images = built(16, 10), torch.rand(2, 3, 10, 10)
    programmed = method.embed(images) + method.frames(5 * torch.randn(1, 768))
    assert torch.equal(programmed[..., 3:13, 3:13], images)


def test_the_frame_is_the_sigmoid_of_the_program_as_normalised_pixels() -> None:
    method = built(16)
    frame = method.frames(torch.zeros(1, 768))[0, :, 0, 0]
    assert_near(frame, (0.5 - torch.tensor(NORMALISATION["mean"])) / torch.tensor(NORMALISATION["std"]))


def test_a_smaller_image_stays_within_the_range_of_pixels() -> None:
    method = built(16, 10)
    black_and_white = method.normalised((torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float())
    inside = method.embed(black_and_white)[..., 3:13, 3:13]
    low, high = method.normalised(0.0), method.normalised(1.0)
    assert ((inside >= low) & (inside <= high)).all()


def test_a_step_is_six_queries_about_every_image_of_a_batch_in_one_call() -> None:
    with asking("method=bar") as run:
        run.fit()
    assert (run.meter.counts["train"]["images"], run.meter.counts["train"]["calls"]) == (2 * 36 * 6, 2 * 3)


def test_training_lowers_the_loss() -> None:
    with asking("method=bar", "train.epochs=20", "method.learning_rate=20") as run:
        run.fit()
    assert run.history[-1].loss < 0.9 * run.history[0].loss


def test_the_rate_is_least_in_the_last_tenth_of_the_steps() -> None:
    with asking("method=bar", "train.epochs=10", "method.learning_rate=2", "method.min_learning_rate=0.5") as run:
        run.fit()
    rates = [epoch.learning_rate for epoch in run.history]
    assert rates[8:] == [0.5, 0.5] and rates[7] > 0.5
    assert rates[0] == pytest.approx(1.5 * (1 - 3 / 27) ** 0.9 + 0.5)


@given(st.integers(1, 200), st.floats(1, 200), st.floats(0, 5), st.floats(5, 10))
def test_rates_fall_from_first_to_least(step: int, last: float, least: float, first: float) -> None:
    assert least <= decayed_rate(step + 1, last, first, least) <= decayed_rate(step, last, first, least) <= first


def test_the_program_holds_what_was_learned_even_when_the_budget_ends_training() -> None:
    with asking("method=bar", "budget.images=80") as run:
        start = run.learner.state()["program"]
        with pytest.raises(BudgetExceeded):
            run.fit()
        assert not torch.equal(run.learner.state()["program"], start)


def test_the_loss_is_focal_unless_the_focus_is_zero() -> None:
    losses = []
    for focus in (0, 2):
        with asking(
            "method=bar", f"method.focus={focus}", "train.epochs=1", "method.learning_rate=1.0e-9", "method.min_learning_rate=0"
        ) as run:
            run.fit()
        losses.append(run.history[0].loss)
    assert losses[1] < 0.9 * losses[0]


def test_what_it_learned_can_be_loaded() -> None:
    with asking("method=bar") as run, asking("method=bar", "seed=1") as fresh:
        run.fit()
        assert not torch.equal(fresh.predict(), run.predict())
        fresh.learner.load_state(run.learner.state())
        assert torch.equal(fresh.predict(), run.predict())


@pytest.mark.parametrize("word", ["method.embedded_size=7", "method.min_learning_rate=6", "method.focus=-1"])
def test_settings_without_a_meaning_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=word.partition("=")[0].replace(".", r"\.")):
        resolve(["method=bar", "task=mini/digits", word])


def test_an_image_larger_than_the_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="embedded_size must be at most the input size of the backbone, 16, got 18"):
        built(16, 18)
