"""Check the content of a leaderboard's plots, not their looks."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

from petlbench.analysis.aggregate import comparable_parts, leaderboard, runs_frame
from petlbench.records.schema import Record
from petlbench.report import plots
from tests.record_factory import METHODS, SUITES, TASKS, make_grid, make_record
from tests.report.figures import assert_nothing_is_cut_off

SOURCE = "Source: suite mini · protocol native-1a2b3c4d · backbone mini_clip · seeds 0,1,2"


def drawn(kind: str, records: list[Record]) -> Figure:
    part = comparable_parts(leaderboard(records, SUITES))[0]
    if kind == "seeds":
        return plots.seed_spread(part, runs_frame(records), SOURCE)
    return {"scatter": plots.accuracy_vs_parameters, "tasks": plots.task_heatmap}[kind](part, SOURCE)


def without(records: list[Record], method: str, task: str) -> list[Record]:
    return [record for record in records if (record.method.name, record.task) != (method, task)]


def footer(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("kind", ["scatter", "tasks", "seeds"])
def test_every_picture_names_its_source_and_the_kinds_of_access(kind: str) -> None:
    figure = drawn(kind, make_grid(("zero_shot", "pgn", "lora")))
    assert SOURCE in footer(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["black box", "grey box", "white box"]
    assert len({handle.get_marker() for handle in figure.legends[0].legend_handles}) == 3
    assert len({handle.get_color() for handle in figure.legends[0].legend_handles}) == 3


@pytest.mark.parametrize("kind", ["scatter", "tasks", "seeds"])
def test_nothing_is_cut_off_with_long_names_and_few_rows(kind: str) -> None:
    name = "spatial_adapter_with_a_long_name"
    records = [make_record(name, task, seed, 80 + seed, settings={"rank": r}) for task in TASKS for seed in range(3) for r in (1, 2)]
    figure = drawn(kind, records)
    assert_nothing_is_cut_off(figure)


def test_one_method_on_one_task_is_not_cut_off() -> None:
    part = comparable_parts(leaderboard([make_record()], {"mini": TASKS[:1]}))[0]
    figure = plots.task_heatmap(part, SOURCE)
    figure.draw_without_rendering()
    inches = figure.get_tightbbox()
    assert inches is not None
    assert inches.x1 <= figure.get_figwidth() + 0.01
    title, legend = figure.texts[0].get_window_extent(), figure.legends[0].get_window_extent()
    assert not title.overlaps(legend)


def test_names_of_14_methods_overlap_neither_each_other_nor_a_mark() -> None:
    figure = drawn("scatter", make_grid())
    axes = figure.axes[0]
    figure.draw_without_rendering()
    names = [text for text in axes.texts if isinstance(text, Annotation)]
    assert {name.get_text() for name in names} == set(METHODS)
    boxes = [Text.get_window_extent(name) for name in names]  # without the leader lines
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    marks = [axes.transData.transform(name.xy) for name in names]
    assert not [(box, mark) for box in boxes for mark in marks if box.padded(1).contains(*mark)]
    assert all(axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1) for box in boxes)


def test_no_parameters_has_a_place_and_a_tick() -> None:
    axes = drawn("scatter", make_grid(("zero_shot", "lora", "full"))).axes[0]
    low, high = axes.get_xlim()
    assert low < 0 < high
    assert axes.get_xticks()[0] == 0
    assert axes.xaxis.get_major_formatter()(100_000.0) == "100k"
    x = [axes.transData.transform((size, 50))[0] for size in (0, 1e5, 1e6)]
    assert x[1] - x[0] > 20
    assert x[2] - x[1] > 20


def test_a_method_without_a_mean_is_named_instead_of_drawn() -> None:
    figure = drawn("scatter", without(make_grid(("zero_shot", "lora", "full"), seeds=(0,)), "full", TASKS[0]))
    assert {text.get_text() for text in figure.axes[0].texts} == {"zero_shot", "lora"}
    assert "results of a task are missing: full" in footer(figure)


def test_a_scatter_of_nothing_but_incomplete_methods_is_drawn() -> None:
    assert "missing: lora" in footer(drawn("scatter", [make_record()]))


def test_every_cell_shows_its_number_or_is_hatched() -> None:
    records = without(make_grid(("zero_shot", "lora", "full"), seeds=(0,)), "full", TASKS[0])
    figure = drawn("tasks", records)
    numbers = sorted(text.get_text() for text in figure.axes[0].texts)
    expected = [record.metrics.accuracy for record in records if record.metrics]
    means = comparable_parts(leaderboard(records, SUITES))[0]["mean"].dropna()
    assert numbers == sorted(f"{value:.1f}" for value in [*expected, *means])
    cells = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(cells) == 3 * (len(TASKS) + 1)
    assert len([cell for cell in cells if cell.get_hatch()]) == 2  # the task and the mean
    assert "Hatched" in footer(figure)


def test_numbers_stand_out_from_their_cell() -> None:
    axes = drawn("tasks", make_grid()).axes[0]
    cells = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    shades = {(round(cell.get_x() + 0.5, 3), round(cell.get_y() + 0.5, 3)): cell.get_facecolor() for cell in cells}
    for text in axes.texts:
        x, y = text.get_position()
        pair = sorted(luminance(colour) for colour in (shades[round(x, 3), round(y, 3)], matplotlib.colors.to_rgba(text.get_color())))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, text.get_text()  # the threshold of WCAG 2


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def intervals(figure: Figure) -> int:
    return len([line for line in figure.axes[0].lines if line.get_alpha() == 0.25])


def test_three_seeds_have_an_interval_and_it_is_students() -> None:
    records = [make_record(task=task, seed=seed, accuracy=80 + seed) for task in TASKS for seed in range(3)]
    figure = drawn("seeds", records)
    (band,) = (line for line in figure.axes[0].lines if line.get_alpha() == 0.25)
    half = 4.302653 * 1.0 / math.sqrt(3)  # t for two degrees of freedom; the standard deviation of 80, 81, 82 is 1
    assert list(band.get_xdata()) == pytest.approx([81 - half, 81 + half], abs=1e-4)
    assert "No interval" not in footer(figure)


def test_fewer_seeds_have_none_and_the_picture_says_so() -> None:
    two = drawn("seeds", make_grid(("lora", "full"), seeds=(0, 1)))
    assert intervals(two) == 0
    assert "fewer than 3 seeds: all methods" in footer(two)
    some = drawn("seeds", [*make_grid(("lora",)), *make_grid(("full",), seeds=(0,))])
    assert intervals(some) == 1
    assert "fewer than 3 seeds: full" in footer(some)


def test_a_seed_that_lacks_a_task_has_no_mean() -> None:
    records = [record for record in make_grid(("lora",)) if (record.task, record.seed) != (TASKS[0], 2)]
    figure = drawn("seeds", records)
    assert intervals(figure) == 0
    assert "No seed with results for all tasks: lora" in footer(drawn("seeds", without(records, "lora", TASKS[0])))


def test_one_seed_needs_no_panel_of_deviations() -> None:
    assert len(drawn("seeds", make_grid(("lora",), seeds=(0,))).axes) == 1
    assert len(drawn("seeds", make_grid(("lora",), seeds=(0, 1))).axes) == 2


def test_files_are_the_same_on_every_call_and_settings_of_matplotlib_stay(tmp_path: Path) -> None:
    records = make_grid(("zero_shot", "pgn", "lora"), seeds=(0, 1))
    part, runs = comparable_parts(leaderboard(records, SUITES))[0], runs_frame(records)
    before = dict(matplotlib.rcParams)
    first, second = ([path.read_bytes() for path in plots.write_plots(part, runs, SOURCE, tmp_path / name, "mini")] for name in "ab")
    assert first == second
    assert dict(matplotlib.rcParams) == before
    names = [f"{kind}-mini.{suffix}" for kind in ("accuracy_vs_parameters", "seeds", "tasks") for suffix in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    assert all(content.startswith(b"\x89PNG") or b"<dc:date>" not in content for content in first)


def test_pyplot_and_its_global_figures_are_not_loaded() -> None:
    code = "import sys, petlbench.report.leaderboard; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
