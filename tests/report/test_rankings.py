"""Check the content of a comparison's plots, not their looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from petlbench.analysis.aggregate import comparable_parts, leaderboard, runs_behind, runs_frame, task_columns
from petlbench.analysis.statistics import compare
from petlbench.analysis.tradeoffs import tradeoffs
from petlbench.records.schema import Record
from petlbench.report import rankings
from tests.record_factory import METHODS, SUITES, TASKS, make_grid, make_record
from tests.report.figures import assert_nothing_is_cut_off

SOURCE = "Source: suite mini · backbone mini_clip"


def drawn(records: list[Record], kind: str = "ranks") -> Figure:
    part, runs = comparable_parts(leaderboard(records, SUITES))[0], runs_frame(records)
    if kind == "fronts":
        return rankings.pareto_fronts(part, tradeoffs(part, runs), SOURCE)
    comparison = compare(runs_behind(part, runs), task_columns(part))
    assert comparison.friedman is not None
    return rankings.critical_difference_diagram(comparison, comparison.friedman, "mini", SOURCE)


def named(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if isinstance(text, Annotation) and text.get_text()]


def bars(figure: Figure) -> list[tuple[float, float]]:
    """Return the first and the last mean rank of every bar."""
    return [tuple(line.get_xdata()) for line in figure.axes[0].lines if line.get_linewidth() == 3]


def test_every_method_stands_at_its_mean_rank() -> None:
    records = [
        make_record(method, task, accuracy=accuracy) for task in TASKS for method, accuracy in (("lora", 90), ("full", 80), ("bar", 70))
    ]
    figure = drawn(records)
    assert named(figure)[:3] == ["lora  1.00", "full  2.00", "3.00  bar"]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"] == [1.0, 2.0, 3.0]


def test_bars_join_what_differs_by_less_than_the_critical_difference() -> None:
    """Ranks 1, 2 and 3 on 6 tasks, where Nemenyi's difference is 1.35."""
    records = [
        make_record(method, task, accuracy=accuracy) for task in TASKS for method, accuracy in (("lora", 90), ("full", 80), ("bar", 70))
    ]
    assert bars(drawn(records)) == [pytest.approx((0.96, 2.04)), pytest.approx((1.96, 3.04))]


def test_the_diagram_names_who_is_left_out_and_what_there_is_too_little_of() -> None:
    footer = (
        drawn([*make_grid(("lora", "full", "bar")), make_record("bbt")])
        .get_supxlabel()
        .replace("\N{NO-BREAK SPACE}", " ")
        .replace("\n", " ")
    )
    assert (
        "Without bbt: no result on some task." in footer
        and "Friedman's p is approximate with 3 methods on 6 tasks." in footer
        and SOURCE in footer
    )
    assert "Wilcoxon" not in footer  # pairs are not in the picture


def test_the_front_is_named_and_what_is_beaten_is_grey() -> None:
    records = [
        make_record(method, task, accuracy=accuracy, trainable=size)
        for task in TASKS
        for method, accuracy, size in (("lora", 90, 100), ("full", 80, 200), ("adapter", 70, 50))
    ]
    axes = drawn(records, "fronts").axes[0]
    colours = [line.get_color() for line in axes.lines if line.get_marker() != "None"]
    assert {text.get_text() for text in axes.texts} - {""} == {"lora", "adapter"}
    assert colours == ["#0072B2", "0.75", "#0072B2"]


def test_the_front_steps_up_where_the_next_method_stands() -> None:
    """Between two methods the accuracy to be had is that of the cheaper one."""
    records = [
        make_record(method, task, accuracy=accuracy, trainable=size)
        for task in TASKS
        for method, accuracy, size in (("lora", 90, 200), ("adapter", 70, 100))
    ]
    (line,) = [line for line in drawn(records, "fronts").axes[0].lines if line.get_marker() == "None"]
    assert line.get_drawstyle() == "steps-post" and line.get_xydata().tolist() == [[100.0, 70.0], [200.0, 90.0]]


def test_a_cost_that_nobody_has_is_not_drawn() -> None:
    figure = drawn(make_grid(("lora", "full", "adapter")), "fronts")
    assert "queries (images sent per run)" not in [axes.get_xlabel() for axes in figure.axes if axes.get_visible()]


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        ([0.0, 0.7, 12.0], ["0", "0.1", "1", "10"]),
        ([0.00016, 0.7, 12.0], ["0", "0.1", "1", "10"]),  # next to nothing
        ([0.3, 0.7, 12.0], ["1", "10"]),
        ([0.4, 1.1, 2.3], ["0", "0.5", "1", "1.5", "2", "2.5"]),
        ([300.0, 900.0, 1300.0], ["0", "200", "400", "600", "800", "1k", "1.2k", "1.4k"]),
        ([0.01, 0.02, 0.03], ["0", "1"]),
    ],
)
def test_the_labels_of_a_cost_axis_are_what_they_stand_for(seconds: list[float], labels: list[str]) -> None:
    axes = Figure().subplots()
    rankings._cost_axis(axes, np.array(seconds))
    low, high = axes.get_xlim()
    formatter = axes.xaxis.get_major_formatter()
    assert [formatter(tick) for tick in axes.xaxis.get_majorticklocs() if low <= tick <= high] == labels


@pytest.mark.parametrize("kind", ["ranks", "fronts"])
def test_a_name_with_dollars_is_no_mathematics(kind: str) -> None:
    records = [make_record(method, task, accuracy=80) for task in TASKS for method in (r"a$\frac{$", "full", "bar")]
    figure = drawn(records, kind)
    figure.draw_without_rendering()
    assert any(r"a\$\frac{\$" in name for name in named(figure))


@pytest.mark.parametrize("kind", ["ranks", "fronts"])
@pytest.mark.parametrize("methods", [tuple(METHODS)[:3], tuple(METHODS)])
def test_nothing_is_cut_off(kind: str, methods: tuple[str, ...]) -> None:
    assert_nothing_is_cut_off(drawn(make_grid(methods, seeds=(0,)), kind))


def test_long_names_are_not_cut_off() -> None:
    name = "spatial_adapter_with_a_long_name"
    records = [make_record(name, task, seed, 80 + r + seed, settings={"rank": r}) for task in TASKS for seed in (0, 1) for r in range(4)]
    assert_nothing_is_cut_off(drawn(records))


@pytest.mark.parametrize(
    ("methods", "kinds"), [(("lora", "bar"), ["pareto"]), (("lora", "bar", "full"), ["pareto", "critical_difference"])]
)
def test_ranks_are_drawn_where_they_can_be_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: tuple[str, ...], kinds: list[str]
) -> None:
    monkeypatch.setattr(rankings, "save_figure", lambda _figure, folder, name: [folder / name])
    records = make_grid(methods)
    part, runs = comparable_parts(leaderboard(records, SUITES))[0], runs_frame(records)
    paths = rankings.write_ranking_plots(part, tradeoffs(part, runs), compare(runs, TASKS), SOURCE, tmp_path, "mini")
    assert [path.name for path in paths] == [f"{kind}-mini" for kind in kinds]
