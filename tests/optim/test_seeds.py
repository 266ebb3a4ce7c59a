"""Derived seeds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from petlbench.optim import derived_seed

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_a_derived_seed_can_seed_any_generator(seed: int) -> None:
    assert 0 <= derived_seed("perturbations", seed) < 2**32


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derived_seed("perturbations", 0) == 151496689


@given(seeds)
def test_streams_of_different_labels_and_of_the_seed_itself_differ(seed: int) -> None:
    starts = [derived_seed("perturbations", seed), derived_seed("projection", seed), seed]
    draws = [torch.randn(1000, generator=torch.Generator().manual_seed(start)) for start in starts]
    assert torch.corrcoef(torch.stack(draws)).triu(1).abs().max() < 0.3


@given(seeds, seeds)
def test_different_seeds_give_different_streams(first: int, second: int) -> None:
    assert (derived_seed("perturbations", first) == derived_seed("perturbations", second)) == (first == second)
