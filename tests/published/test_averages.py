"""The averages that papers print over suites."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.config.files import load_suite
from petlbench.published.averages import Average, averages_of, column_groups, flat

SIZES = {"mean_19": 19, "mean_5": 5, "mean_14": 14, "mean_11": 11, "mean_4_shifts": 4, "mean_12": 12}
percent = st.floats(0, 100)


def test_averages_are_over_as_many_datasets_as_their_names_say() -> None:
    found = {average.name: len(average.datasets) for suite in column_groups() for average in averages_of(suite)}
    assert {name: size for name, size in found.items() if name in SIZES} == SIZES


def test_columns_are_tasks_of_their_suite() -> None:
    for suite, groups in column_groups().items():
        tasks = set(load_suite(suite).tasks)
        assert {f"{suite}/{dataset}" for group in groups.values() for dataset in group} <= tasks


def test_the_two_averages_of_vtab_differ() -> None:
    cells = {
        dataset: Decimal(90 if group == "natural" else 60) for group, datasets in column_groups()["vtab"].items() for dataset in datasets
    }
    over = {average.name: average.over(cells) for average in averages_of("vtab")}
    assert over["mean_of_group_means"] == 70
    assert over["mean_19"] == Decimal(7 * 90 + 12 * 60) / 19


@given(st.dictionaries(st.sampled_from("abcdef"), percent, min_size=1), st.sampled_from("abcdef"))
def test_an_average_is_withheld_exactly_when_a_cell_is_missing(cells: dict[str, float], dataset: str) -> None:
    average = flat(sorted({*cells, dataset}))
    assert (average.over(cells) is None) == (dataset not in cells)


@given(st.lists(percent, min_size=6, max_size=6))
def test_groups_of_one_size_make_both_averages_equal(values: list[float]) -> None:
    cells = dict(zip("abcdef", values, strict=True))
    grouped = Average("mean_of_group_means", (("a", "b"), ("c", "d"), ("e", "f")))
    assert grouped.over(cells) == pytest.approx(flat("abcdef").over(cells))


def test_common_columns_leave_no_group_empty() -> None:
    average = Average("m", (("a", "b"), ("c",)))
    assert average.common({"a", "c"}) == Average("m", (("a",), ("c",)))
    assert average.common({"a", "b"}) is None
