"""Evaluate a method that queries while it trains: at which epochs, and within which budget."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.config.settings import Budget
from petlbench.learners.curve import Curve
from petlbench.records.schema import Record
from petlbench.runs.execute import execute
from tests.remote.processes import serving
from tests.words import resolve

Point = tuple[int, int]  # images and contexts


def drawn_curve(*epochs: Point, budget: Budget | None = None) -> tuple[Curve, Meter, list[int]]:
    """Draw a curve over epochs that send (images, contexts), by evaluations of ten images; return curve, meter and the evaluated epochs."""
    meter, looked, ended = Meter(budget or Budget()), [], 0
    curve = Curve(meter, lambda: {"epoch": torch.tensor(ended)})
    for images, contexts in epochs:
        meter.charge(images=images, contexts=contexts)
        ended += 1
        curve.after_step()

    def look(state: dict[str, Tensor]) -> float:
        meter.charge(images=10)
        looked.append(int(state["epoch"]))
        return min(90.0, 10.0 * int(state["epoch"]))

    curve.draw(95.0, {"images": 10}, look)
    return curve, meter, looked


def sent(curve: Curve) -> list[Point]:
    return [(point.images, point.contexts) for point in curve.points]


def test_a_point_is_taken_whenever_what_was_sent_has_doubled_and_at_the_end() -> None:
    curve, _, looked = drawn_curve(*[(10, 0)] * 9)
    assert [point.images for point in curve.points] == [20, 40, 80, 90]
    assert [point.accuracy for point in curve.points] == [20.0, 40.0, 80.0, 95.0]
    assert looked == [2, 4, 8]


def test_contexts_count_as_well() -> None:
    curve, _, _ = drawn_curve((400, 40), *[(0, 40)] * 8)
    assert sent(curve) == [(400, 80), (400, 160), (400, 320), (400, 360)]


def test_a_method_that_sends_everything_at_once_is_looked_at_at_the_end_only() -> None:
    curve, meter, looked = drawn_curve((400, 0), *[(0, 0)] * 20)
    assert not looked and not meter.counts["curve"]["images"]
    assert [(point.images, point.accuracy) for point in curve.points] == [(400, 95.0)]


def test_looks_are_counted_in_a_phase_of_their_own() -> None:
    _, meter, looked = drawn_curve(*[(10, 0)] * 5)
    assert (meter.counts["train"]["images"], meter.counts["curve"]["images"]) == (50, 10 * len(looked))


def test_what_was_kept_at_the_end_is_not_looked_at_again() -> None:
    curve, _, looked = drawn_curve((10, 0), (10, 0))
    assert not looked and [(point.images, point.accuracy) for point in curve.points] == [(20, 95.0)]


@pytest.mark.parametrize(("left", "looks"), [(0, []), (9, []), (10, [2]), (29, [2, 4]), (30, [2, 4, 8])])
def test_looks_are_made_with_what_training_has_left_of_the_budget(left: int, looks: list[int]) -> None:
    curve, meter, looked = drawn_curve(*[(10, 0)] * 9, budget=Budget(images=90 + left))
    assert looked == looks
    assert (meter.counts["train"]["images"], meter.counts["curve"]["images"]) == (90, 10 * len(looks))
    assert [point.images for point in curve.points] == [10 * epoch for epoch in looks] + [90]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_points_are_few_and_in_order(epochs: list[tuple[int, int]]) -> None:
    curve, meter, _ = drawn_curve(*epochs)
    assert sent(curve) == sorted(set(sent(curve)))
    assert sent(curve)[-1] == (meter.counts["train"]["images"], meter.counts["train"]["contexts"])
    assert len(curve.points) <= 2 * 11 + 3  # two quantities below 2**11


def asked(out: Path, *words: str) -> Record:
    record, _ = execute(
        resolve(["method=vp_spsa", "task=mini/digits", "protocol.shots=4", "train.epochs=4", f"out={out}", "threads=1", *words])
    )
    assert record.has_result, record.error
    return record


def test_the_points_of_a_run_end_with_its_result_and_change_nothing(tmp_path: Path) -> None:
    record, without = asked(tmp_path), asked(tmp_path, "curve=false")  # a model in this process is evaluated by default
    assert record.metrics is not None and without.metrics is not None
    per_epoch = record.cost.queries["train"].images // 4
    assert [point.images for point in record.curve] == [2 * per_epoch, 4 * per_epoch]
    assert record.curve[-1].accuracy == record.metrics.accuracy == without.metrics.accuracy
    assert (without.curve, without.cost.queries["train"]) == ([], record.cost.queries["train"])
    assert record.cost.queries["test"] == without.cost.queries["test"]
    assert record.cost.queries["curve"].images == 500 * (len(record.curve) - 1)  # the last point is the result
    assert record.cost.images_forwarded == without.cost.images_forwarded
    assert record.run_id == without.run_id


def test_a_run_that_spends_its_budget_ends_with_what_it_has_learned(tmp_path: Path) -> None:
    whole = asked(tmp_path).cost.queries["train"].images
    record = asked(tmp_path, f"budget.images={whole // 2}")
    assert record.status == "budget" and record.metrics is not None
    assert record.error == f"budget reached after {whole // 2:,} of {whole // 2:,} images"
    assert [point.images for point in record.curve] == [whole // 2] == [record.cost.queries["train"].images]
    assert record.cost.queries["curve"].images == 0


@pytest.mark.parametrize(("room", "looks"), [(499, 0), (500, 1)])
def test_a_run_whose_budget_has_no_room_for_a_look_goes_on_and_learns_the_same(room: int, looks: int, tmp_path: Path) -> None:
    whole = asked(tmp_path)
    record = asked(tmp_path, f"budget.images={whole.cost.queries['train'].images + room}")
    assert record.status == "ok" and record.metrics == whole.metrics
    assert record.cost.queries["train"] == whole.cost.queries["train"]
    assert record.cost.queries["curve"].images == 500 * looks
    assert record.curve == whole.curve[:looks] + whole.curve[-1:]


@pytest.mark.parametrize(("word", "looks"), [("curve=null", 0), ("curve=false", 0), ("curve=true", 1)])
def test_a_remote_model_is_looked_at_only_where_it_is_said(word: str, looks: int, tmp_path: Path) -> None:
    with serving(load_backbone_cached("mini_clip", None, torch.device("cpu"))[0]) as (url, _):
        record = asked(tmp_path, "backbone=remote", f"url={url}", word)
        counted = images_at_server(url)
    assert record.cost.queries["curve"].images == 500 * looks
    assert len(record.curve) == 2 * looks
    assert counted == sum(phase.images for phase in record.cost.queries.values())


def images_at_server(url: str) -> int:
    """Return the number of images that a server has counted."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("petlbench_images_total "))
