"""Plots of queries: points are means over the same runs, and rungs are those that were used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Annotation

from petlbench.analysis.aggregate import comparable_parts, leaderboard, runs_frame
from petlbench.analysis.tradeoffs import curves
from petlbench.records.schema import Record
from petlbench.report import queries
from tests.record_factory import SUITES, TASKS, make_grid, make_record
from tests.report.figures import assert_nothing_is_cut_off

SOURCE = "Source: suite mini · backbone mini_clip"
POINTS = ((1280, 0), (2560, 0), (51200, 0))


def asked(method: str = "blackvip", points: tuple[tuple[int, int], ...] = POINTS, seeds: int = 2, **options: str) -> list[Record]:
    """Make records whose accuracy is 10 times the number of the point, plus the number of the task and the seed."""
    records = []
    for i, task in enumerate(TASKS):
        for seed in range(seeds):
            curve = [(images, contexts, 10.0 * number + i + seed) for number, (images, contexts) in enumerate(points, start=1)]
            records.append(make_record(method, task, seed, curve[-1][2], curve=curve, **options))
    return records


def parts(records: list[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    return comparable_parts(leaderboard(records, SUITES))[0], runs_frame(records)


def test_a_point_is_the_mean_over_tasks_and_seeds() -> None:
    found = curves(*parts(asked()))
    assert found == {"images": {"blackvip": [(1280.0, 13.0), (2560.0, 23.0), (51200.0, 33.0)]}, "contexts": {}}


def test_a_point_that_one_run_lacks_is_not_drawn() -> None:
    short = make_record("blackvip", TASKS[0], 5, 30.0, curve=[(1280, 0, 10.0), (51200, 0, 30.0)])
    assert [sent for sent, _ in curves(*parts([*asked(), short]))["images"]["blackvip"]] == [1280.0, 51200.0]


def test_a_method_without_results_of_a_task_has_no_curve() -> None:
    some = [record for record in asked() if record.task != TASKS[2]]
    assert curves(*parts([*some, *asked("bar")]))["images"].keys() == {"bar"}


def test_contexts_have_an_axis_of_their_own_only_where_some_were_sent() -> None:
    with_contexts = asked("craft", ((400, 80), (400, 8000)))
    assert len(queries.query_accuracy(*parts(asked()), SOURCE).axes) == 1
    figure = queries.query_accuracy(*parts([*asked(), *with_contexts]), SOURCE)
    assert [axes.get_xlabel() for axes in figure.axes] == ["images sent per run", "contexts sent per run"]
    assert curves(*parts(with_contexts))["images"]["craft"] == [(400.0, 23.0)]


def test_methods_that_are_not_asked_are_lines_at_their_mean() -> None:
    figure = queries.query_accuracy(*parts([*asked(), *make_grid(("lora", "full"))]), SOURCE)
    lines = sorted(line.get_ydata()[0] for line in figure.axes[0].lines if line.get_color() == "0.8")  # type: ignore[index]
    part, _ = parts(make_grid(("lora", "full")))
    assert lines == pytest.approx(sorted(part["mean"]))
    names = [text.get_text().split()[0] for text in figure.axes[0].texts if isinstance(text, Annotation)]
    assert sorted(names) == ["full", "lora"]


def test_no_two_methods_look_alike() -> None:
    many = [record for number in range(10) for record in asked(f"method_{number}", seeds=1)]
    lines = [line for line in queries.query_accuracy(*parts(many), SOURCE).axes[0].lines if line.get_marker() not in (None, "None")]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 10


def test_no_curve_is_drawn_when_nothing_was_asked_in_training(tmp_path: Path) -> None:
    part, runs = parts(make_grid(("lora", "zero_shot")))
    assert {path.name for path in queries.write_query_plots(part, runs, SOURCE, tmp_path, "mini")} == {"access-mini.png", "access-mini.svg"}
    part, runs = parts([*asked(), *make_grid(("lora",))])
    assert (tmp_path / "query_accuracy-mini.svg") in queries.write_query_plots(part, runs, SOURCE, tmp_path, "mini")


def test_a_method_stands_on_the_rung_that_the_meter_saw() -> None:
    records = [*asked(), *asked("bbt", access_seen="SCORES"), *make_grid(("lora",))]
    figure = queries.access_ladder(parts(records)[0], SOURCE)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("granted CONTEXT") == 1
    assert [text.partition("\n")[0] for text in texts if "\n" in text] == ["SCORES", "WEIGHTS"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[-1] == "lora" and set(names[:2]) == {"bbt", "blackvip"}


def test_a_record_of_before_the_meter_saw_rungs_stands_on_the_one_it_was_granted() -> None:
    record = asked("blackvip")[0]
    old = record.model_copy(update={"method": record.method.model_copy(update={"access_seen": None})})
    figure = queries.access_ladder(comparable_parts(leaderboard([old], {"mini": TASKS[:1]}))[0], SOURCE)
    assert any(text.get_text().startswith("SCORES") for text in figure.axes[0].texts)


@pytest.mark.parametrize("long", [False, True])
def test_nothing_is_cut_off(long: bool) -> None:
    name = "spatial_adapter_with_a_long_name" if long else "blackvip"
    records = [*asked(name, access="SCORES"), *asked("craft", ((400, 80), (400, 8000))), *make_grid(("lora", "full", "pgn", "zero_shot"))]
    part, runs = parts(records)
    assert_nothing_is_cut_off(queries.query_accuracy(part, runs, SOURCE))
    assert_nothing_is_cut_off(queries.access_ladder(part, SOURCE))


@given(st.lists(st.floats(0, 100), max_size=20).map(sorted), st.floats(0.1, 8))
def test_names_are_moved_apart_in_their_order(values: list[float], gap: float) -> None:
    places = queries._apart(np.array(values), gap)
    assert len(places) == len(values)
    assert (np.diff(places) >= gap * (1 - 1e-6)).all()
    if len(values) and (np.diff(values) >= gap).all():
        assert places == pytest.approx(values)
