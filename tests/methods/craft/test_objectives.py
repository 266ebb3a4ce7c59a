"""The objectives of CraFT."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from petlbench.methods.craft.refinement import divergence, fitness, refinement_loss
from tests.near import assert_near

LABELS = torch.tensor([0, 2, 1, 2, 0])


def drawn(seed: int, *leading: int) -> Tensor:
    return 3 * torch.randn(*leading, 5, 3, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**31))
def test_a_divergence_is_that_of_torch_with_the_reference_first(seed: int) -> None:
    reference, other = drawn(seed), drawn(seed + 1)
    expected = F.kl_div(other.log_softmax(dim=-1), reference.softmax(dim=-1), reduction="batchmean")
    assert_near(divergence(reference, other), expected)


@given(seed=st.integers(0, 2**31), weight=st.floats(0, 2))
def test_the_fitness_of_a_candidate_does_not_depend_on_the_others(seed: int, weight: float) -> None:
    logits, refined = drawn(seed, 4), drawn(seed + 1, 4)
    found = fitness(logits, LABELS, refined, weight)
    for candidate, its_refined, value in zip(logits, refined, found, strict=True):
        assert_near(value, F.cross_entropy(candidate, LABELS) + weight * divergence(its_refined, candidate))


@given(seed=st.integers(0, 2**31), weight=st.floats(0, 2))
def test_the_gradient_at_the_refined_logits_is_that_of_the_formula(seed: int, weight: float) -> None:
    """((q - onehot(y)) + weight (q - p)) / B, with p a constant."""
    logits, refined = drawn(seed), drawn(seed + 1).requires_grad_()
    refinement_loss(logits, refined, LABELS, weight).backward()
    p, q = logits.softmax(dim=-1), refined.detach().softmax(dim=-1)
    assert_near(refined.grad, (q - F.one_hot(LABELS, 3) + weight * (q - p)) / len(LABELS))
