"""Compare numbers relative to the largest of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.near import assert_near

FINE = torch.tensor([150.0, 1e-6, -math.inf])


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (torch.tensor([150.0005, 3e-4, -math.inf]), FINE),  # the small one is off by more than itself, and by little of the largest
        ({"a": torch.tensor([1e-7]), "b": torch.tensor([1.0])}, {"a": torch.tensor([0.0]), "b": torch.tensor([1.0])}),
        ([0.1 + 0.2, torch.tensor([3])], [0.3, torch.tensor([3])]),
        (torch.empty(0), torch.empty(0)),
    ],
)
def test_roundings_of_the_largest_are_near(got: Any, wanted: Any) -> None:
    assert_near(got, wanted)


@pytest.mark.parametrize(
    "got",
    [
        torch.tensor([150.01, 1e-6, -math.inf]),
        torch.tensor([150.0, 1e-6, math.inf]),
        torch.tensor([150.0, math.nan, -math.inf]),
        torch.tensor([150.0, 1e-6]),
        FINE.double(),
        {"value": FINE},
    ],
)
def test_others_are_not(got: Any) -> None:
    with pytest.raises(AssertionError):
        assert_near(got, FINE)


def test_a_missed_bound_prints_where_it_comes_from() -> None:
    with pytest.raises(AssertionError, match=r"differs by 0\.5; the largest entry is 2, and 0\.1 of it is allowed: bf16"):
        assert_near(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), 0.1, "bf16")
