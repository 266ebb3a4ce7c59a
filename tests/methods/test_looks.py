"""Methods that estimate gradients may be evaluated after every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from petlbench.errors import BudgetExceeded
from tests.methods.asking import Asking, asking

METHODS = {
    "bar": (("method=bar",), 6),
    "blackvip": (("method=blackvip", "method.encoder=mini_clip"), 10),
    "vp_spsa": (("method=vp_spsa",), 10),
}
BATCH, STEPS = 12, 6


def states_at_evaluations(run: Asking) -> list[dict[str, Tensor]]:
    """Train with an evaluation after every step; return the learned state at each."""
    states: list[dict[str, Tensor]] = []

    def look() -> None:
        states.append(run.learner.state())
        run.meter.phase = "test"
        run.predict()
        run.meter.phase = "train"

    run.fit(look)
    return states


def is_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_look_after_every_step_sees_what_that_step_learned(method: str) -> None:
    words, queries = METHODS[method]
    with asking(*words) as run:
        states = states_at_evaluations(run)
    assert len(states) == STEPS
    with asking(*words, f"budget.images={4 * BATCH * queries}") as shorter:
        with pytest.raises(BudgetExceeded):
            shorter.fit()
        assert is_same(shorter.learner.state(), states[3]) and not is_same(states[2], states[3])


@pytest.mark.parametrize("method", METHODS)
def test_what_was_learned_at_a_look_predicts_the_same_when_the_run_is_over(method: str) -> None:
    with asking(*METHODS[method][0]) as run:
        seen: list[tuple[dict[str, Tensor], Tensor]] = []
        run.fit(lambda: seen.append((run.learner.state(), run.predict())))
        for state, scores in seen:
            run.learner.load_state(state)
            assert torch.equal(run.predict(), scores)


@pytest.mark.parametrize("method", METHODS)
def test_looks_do_not_change_what_is_learned(method: str) -> None:
    words, _ = METHODS[method]
    with asking(*words) as unseen, asking(*words) as seen:
        unseen.fit()
        states_at_evaluations(seen)
        assert is_same(unseen.learner.state(), seen.learner.state())
