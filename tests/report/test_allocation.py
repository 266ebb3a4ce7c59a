"""Heatmaps of a method's parameters by place: which are drawn, and invariants of their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from petlbench.analysis.aggregate import comparable_parts, leaderboard, runs_frame
from petlbench.records.schema import Record
from petlbench.report import allocation
from tests.record_factory import SUITES, TASKS, make_record
from tests.report.figures import assert_nothing_is_cut_off

SOURCE = "Source: suite mini · protocol native-1a2b3c4d · backbone mini_clip · seeds 0,1,2"
OPERATIONS = ["norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2"]
A, B = TASKS[:2]


def with_allocation(places: Mapping[str, int], task: str = A, seed: int = 0, method: str = "chooser", **options: Any) -> Record:
    return make_record(method, task, seed, trainable=sum(places.values()), allocation=places, **options)


def plausible(depth: int, seed: int) -> dict[str, int]:
    """Make random counts: whole modules, single entries or nothing."""
    chance = np.random.default_rng(seed)
    counts = {f"{i}.{operation}": int(chance.choice([0, 7, 61, 12_288, 30_720])) for i in range(depth) for operation in OPERATIONS}
    return {**counts, "embed": 768, "norm": 768 * (seed % 2)}


def drawn(records: list[Record], tasks: Iterable[str] = TASKS) -> Figure:
    suite = records[0].suite
    part, runs = comparable_parts(leaderboard(records, {suite: list(tasks)}))[0], runs_frame(records)
    return allocation.allocation_heatmaps(part, allocation.mean_allocation(runs), records[0].method.name, SOURCE)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def numbers(axes: Axes) -> dict[str, str]:
    """Read place -> number off the axes' labels."""
    columns = [label.get_text() for label in axes.get_xticklabels()]
    cells = [text for text in axes.texts if not isinstance(text, Annotation)]
    return {f"{text.get_position()[1]}.{columns[int(text.get_position()[0])]}": text.get_text() for text in cells}


def colours(axes: Axes) -> np.ndarray:
    """Return colours (blocks, operations, RGBA) by drawn position."""
    (mesh,) = (collection for collection in axes.collections if isinstance(collection, QuadMesh))
    corners, cells = mesh.get_coordinates(), np.asarray(mesh.get_array())
    x, y = np.moveaxis((corners[:-1, :-1] + corners[1:, 1:]) / 2, -1, 0).round().astype(int)
    found = np.empty_like(cells)
    found[y, x] = cells
    return found


def footer(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


def written(records: list[Record], folder: Path) -> list[Path]:
    part, runs = comparable_parts(leaderboard(records, SUITES))[0], runs_frame(records)
    return allocation.write_allocation_plots(part, runs, SOURCE, folder, "mini")


@pytest.fixture
def drawn_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the pictures instead of writing them."""
    names: list[str] = []
    monkeypatch.setattr(allocation, "save_figure", lambda _figure, _folder, name: names.append(name) or [])
    return names


def test_a_method_that_allocates_by_task_is_drawn_and_others_are_not(tmp_path: Path, drawn_names: list[str]) -> None:
    by_task = [with_allocation({"0.q": count, "1.q": 0}, task) for task, count in ((A, 5), (B, 6))]
    by_seed = [with_allocation({"0.q": 5 + seed}, task, seed, "by_seed") for task in (A, B) for seed in (0, 1)]
    everywhere = [with_allocation({"0.q": 5}, task, method="fixed") for task in (A, B)]
    unrecorded = [make_record("old", A, trainable=3), make_record("old", B, trainable=4)]
    half_recorded = [with_allocation({"0.q": 5}, A, method="half"), make_record("half", B)]
    written([*by_task, *by_seed, *everywhere, *unrecorded, *half_recorded], tmp_path)
    assert drawn_names == ["chooser_allocation_mini"]


def test_the_same_count_at_another_place_is_another_allocation(tmp_path: Path, drawn_names: list[str]) -> None:
    written([with_allocation({"0.q": 5}, A), with_allocation({"0.q": 5, "1.q": 0}, B)], tmp_path)
    assert not drawn_names
    written([with_allocation({"0.q": 5}, A), with_allocation({"0.k": 5}, B)], tmp_path)
    assert drawn_names


def test_names_of_variants_become_names_of_files_and_stay_apart(tmp_path: Path, drawn_names: list[str]) -> None:
    def runs(budget: str, seeds: tuple[int, ...] = (0,)) -> list[Record]:
        choices = [(task, seed) for task in (A, B) for seed in seeds]
        return [with_allocation({"0.q": 1 + TASKS.index(task)}, task, seed, settings={"budget": budget}) for task, seed in choices]

    written([*runs("usual", (0, 1)), *runs("a/b"), *runs("a b")], tmp_path)
    assert drawn_names[:2] == ["chooser_allocation_mini", "chooser_budget_a_b_allocation_mini"]
    assert len(set(drawn_names)) == 3


def test_files_are_the_same_on_every_call_and_settings_of_matplotlib_stay(tmp_path: Path) -> None:
    records = [with_allocation(plausible(3, i), task) for i, task in enumerate((A, B))]
    before = dict(matplotlib.rcParams)
    first, second = ([path.read_bytes() for path in written(records, tmp_path / folder)] for folder in ("a", "b"))
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"chooser_allocation_mini.{suffix}" for suffix in ("png", "svg")]


def test_every_number_stands_at_its_block_and_operation() -> None:
    places = {"0.q": 12_288, "2.fc2": 30_720, "1.norm1": 1, "2.norm2": 0}
    (axes,) = panels(drawn([with_allocation(places)]))
    assert numbers(axes) == {"0.q": "12.3k", "2.fc2": "30.7k", "1.norm1": "1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    assert axes.get_ylim()[0] < axes.get_ylim()[1]  # block 0 at the bottom
    shaded = np.argwhere(np.ptp(colours(axes)[..., :3], axis=-1) > 0)
    assert {f"{block}.{OPERATIONS[column]}" for block, column in shaded} == numbers(axes).keys()


def test_numbers_are_means_over_the_seeds_of_a_task_and_none_is_rounded_to_nothing() -> None:
    seeds = ({"0.q": 10, "0.k": 1}, {"0.q": 20}, {"0.q": 60})
    figure = drawn([with_allocation(places, seed=seed) for seed, places in enumerate(seeds)])
    (axes,) = panels(figure)
    assert numbers(axes) == {"0.q": "30", "0.k": "<1"}
    assert "means over seeds" in footer(figure)


def test_a_place_without_parameters_looks_unlike_every_number() -> None:
    (axes,) = panels(drawn([with_allocation({"0.q": 1, "0.k": 1_000_000, "0.v": 1000, "1.q": 0})]))
    cells = colours(axes)
    empty = cells[1, 0]
    filled = [cells[0, OPERATIONS.index(operation)] for operation in "qkv"]
    assert np.ptp(empty[:3]) == 0  # grey, which is neither in the scale nor on the page
    assert 0.8 < empty[0] < 0.95
    assert empty[3] == 1
    assert all(np.ptp(colour[:3]) > 0.2 for colour in filled)
    others = np.delete(cells.reshape(-1, 4), [1, 2, 3], axis=0)
    assert (others == empty).all()


def test_more_is_darker_on_a_logarithmic_scale() -> None:
    counts = {"q": 10, "k": 100, "v": 1000, "proj": 10_000}
    figure = drawn([with_allocation({f"0.{operation}": count for operation, count in counts.items()})])
    (axes,) = panels(figure)
    darkness = [1 - colours(axes)[0, OPERATIONS.index(operation)][:3].mean() for operation in counts]
    assert darkness == sorted(darkness)
    (bar,) = (axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert bar.get_xscale() == "log"
    assert "trainable parameters" in bar.get_xlabel()
    figure.draw_without_rendering()
    low, high = bar.get_xlim()
    shown = [label.get_text() for label in bar.get_xticklabels() if 0.99 * low < label.get_position()[0] < 1.01 * high]
    assert shown == ["10", "100", "1k", "10k"]


def test_all_panels_share_one_scale() -> None:
    first, second = panels(drawn([with_allocation({"0.q": 50, "0.k": 7}, A), with_allocation({"0.q": 50, "0.k": 70_000}, B)]))
    assert (colours(first)[0, 1] == colours(second)[0, 1]).all()
    assert (colours(first)[0, 1] != colours(second)[0, 2]).any()
    assert (colours(first)[0, 2] != colours(second)[0, 1]).any()


def test_the_title_of_a_panel_has_the_total_and_what_is_outside_the_blocks_stands_below() -> None:
    first, second = panels(drawn([with_allocation({"0.q": 1000, "norm": 5, "embed": 768}, A), with_allocation({"0.q": 4}, B)]))
    assert first.get_title(loc="left") == "digits: 1.8k"
    assert second.get_title(loc="left") == "shapes: 4"
    lines = [[text.get_text() for text in axes.texts if isinstance(text, Annotation)] for axes in (first, second)]
    assert lines == [["outside the blocks: embed 768, norm 5"], [""]]


@pytest.mark.parametrize("operation", ["attn", "mlp", "other"])
def test_whole_modules_have_a_column_only_where_something_is_trained_there(operation: str) -> None:
    (axes,) = panels(drawn([with_allocation({"0.q": 3, f"1.{operation}": 552})]))
    assert numbers(axes)[f"1.{operation}"] == "552"
    (axes,) = panels(drawn([with_allocation({"0.q": 3, f"1.{operation}": 0})]))
    assert [label.get_text() for label in axes.get_xticklabels()] == OPERATIONS


def test_blocks_without_parameters_at_the_end_are_drawn() -> None:
    (axes,) = panels(drawn([with_allocation({"0.q": 3, "11.q": 0})]))
    assert len(axes.get_yticks()) == 12


def test_a_method_with_all_its_parameters_outside_the_blocks_is_drawn() -> None:
    first, second = panels(drawn([with_allocation({"shared": 640}, A), with_allocation({"shared": 320}, B)]))
    assert numbers(first) == numbers(second) == {}


def test_a_task_without_a_recorded_allocation_is_named_instead_of_drawn() -> None:
    figure = drawn([with_allocation({"0.q": 3}), make_record("chooser", B)], (A, B, TASKS[2]))
    assert len(panels(figure)) == 1
    assert "no run recorded its allocation: shapes, textures." in footer(figure)
    assert SOURCE in footer(figure)
    assert "Not drawn" not in footer(drawn([with_allocation({"0.q": 3})], (A,)))


@pytest.mark.parametrize(("task_count", "depth"), [(1, 3), (2, 24), (6, 6), (19, 4)])
def test_nothing_is_cut_off_or_covered(task_count: int, depth: int) -> None:
    tasks = [f"many/a_task_with_some_name_{i}" for i in range(task_count)]
    name = "a_method_with_a_long_name_of_forty_letters"
    figure = drawn([with_allocation(plausible(depth, i), task, method=name) for i, task in enumerate(tasks)], tasks)
    assert_nothing_is_cut_off(figure)
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    assert len(boxes) == task_count + 1
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a is not None and b is not None and a.overlaps(b)]


def test_numbers_fit_into_their_cells_and_stand_out() -> None:
    figure = drawn(
        [with_allocation({f"{block}.{op}": 10 ** (block % 5) * 12 for block in range(24) for op in OPERATIONS}, task) for task in (A, B)]
    )
    figure.draw_without_rendering()
    for axes in panels(figure):
        width, height = axes.bbox.width / len(OPERATIONS), axes.bbox.height / 24
        shades = colours(axes)
        for text in (text for text in axes.texts if not isinstance(text, Annotation)):
            box = text.get_window_extent()
            assert box.width < width
            assert box.height < height
            x, y = map(int, text.get_position())
            pair = sorted(luminance(colour) for colour in (shades[y, x], matplotlib.colors.to_rgba(text.get_color())))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, text.get_text()  # the threshold of WCAG 2


def luminance(colour: Iterable[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in list(colour)[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
