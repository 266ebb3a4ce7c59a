"""Numbers as text, rounded for readers. Computations use full floats and come before."""

from __future__ import annotations

import math

import pandas as pd

MISSING = "–"


def decimals(value: float, digits: int = 1) -> str:
    """A number with so many digits behind the point."""
    return MISSING if pd.isna(value) else f"{value:.{digits}f}"


def seconds(value: float) -> str:
    """Tenths below 100 s."""
    return decimals(value, 1 if value < 100 else 0)


def count(value: float) -> str:
    """``human_count``, or a dash where there is none."""
    return MISSING if pd.isna(value) else human_count(value)


def human_count(number: float) -> str:
    """A count in three or four digits: 0, 950, 12.3k, 147k, 21.7M."""
    for limit, divisor, suffix in ((999.5, 1.0, ""), (999_500, 1e3, "k"), (999_500_000, 1e6, "M"), (math.inf, 1e9, "G")):
        if number < limit:
            value = number / divisor
            return f"{value:.1f}".removesuffix(".0") + suffix if suffix and value < 99.95 else f"{value:.0f}{suffix}"
    raise ValueError(f"a count must be finite, got {number}")
