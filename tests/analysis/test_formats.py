"""Format numbers for readers."""

import math

from petlbench.analysis import formats


def test_counts_for_humans() -> None:
    counts = (0, 950, 999.6, 1000, 12_345, 147_456, 999_600, 1_270_000, 86_000_000, 999_700_000)
    assert [formats.human_count(count) for count in counts] == ["0", "950", "1k", "1k", "12.3k", "147k", "1M", "1.3M", "86M", "1G"]


def test_a_missing_number_is_a_dash_in_every_format() -> None:
    assert {show(math.nan) for show in (formats.count, formats.decimals, formats.seconds)} == {formats.MISSING}


def test_seconds_have_tenths_below_a_hundred() -> None:
    assert [formats.seconds(value) for value in (0.04, 99.9, 100.4)] == ["0.0", "99.9", "100"]
