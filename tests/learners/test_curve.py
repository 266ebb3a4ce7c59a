"""When accuracy is looked at while a method that asks is being trained."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from petlbench.access.handle import Meter
from petlbench.learners.curve import Curve
from petlbench.records.schema import Record
from petlbench.runs.execute import execute
from tests.words import resolve


def followed(*epochs: tuple[int, int]) -> tuple[Curve, Meter, list[str]]:
    """A curve over epochs that send so many images and contexts each."""
    meter, phases = Meter(), []

    def look() -> float:
        phases.append(meter.phase)
        return 50.0

    curve = Curve(meter, look)
    for images, contexts in epochs:
        meter.charge(images=images, contexts=contexts)
        curve.after_step()
    return curve, meter, phases


def test_a_look_is_taken_whenever_what_was_sent_has_doubled() -> None:
    curve, _, _ = followed(*[(10, 0)] * 9)
    assert [point.images for point in curve.points] == [20, 40, 80]


def test_contexts_count_as_well() -> None:
    curve, _, _ = followed((400, 40), *[(0, 40)] * 8)
    assert [(point.images, point.contexts) for point in curve.points] == [(400, 80), (400, 160), (400, 320)]


def test_a_method_that_sends_everything_at_once_is_looked_at_at_the_end_only() -> None:
    curve, _, phases = followed((400, 0), *[(0, 0)] * 20)
    assert not phases
    curve.end(80.0)
    assert [(point.images, point.accuracy) for point in curve.points] == [(400, 80.0)]


def test_a_look_belongs_to_a_phase_of_its_own_and_training_goes_on_in_its_own() -> None:
    _, meter, phases = followed(*[(10, 0)] * 5)
    assert phases == ["curve", "curve"] and meter.phase == "train"


def test_the_end_replaces_a_look_at_the_same_place() -> None:
    curve, _, _ = followed((10, 0), (10, 0))
    curve.end(60.0)
    assert [(point.images, point.accuracy) for point in curve.points] == [(20, 60.0)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_points_are_few_and_in_order(epochs: list[tuple[int, int]]) -> None:
    curve, meter, _ = followed(*epochs)
    curve.end(1.0)
    sent = [(point.images, point.contexts) for point in curve.points]
    assert sent == sorted(set(sent))
    assert sent[-1] == (meter.counts["train"]["images"], meter.counts["train"]["contexts"])
    assert len(sent) <= 2 * 11 + 3  # two quantities below 2**11


def asked(out: Path, *words: str) -> Record:
    record, _ = execute(
        resolve(["method=vp_spsa", "task=mini/digits", "protocol.shots=4", "train.epochs=4", f"out={out}", "threads=1", *words])
    )
    assert record.has_result, record.error
    return record


def test_the_points_of_a_run_end_with_its_result_and_change_nothing(tmp_path: Path) -> None:
    record, without = asked(tmp_path), asked(tmp_path, "curve=false")
    assert record.metrics is not None and without.metrics is not None
    per_epoch = record.cost.queries["train"].images // 4
    assert [point.images for point in record.curve] == [2 * per_epoch, 4 * per_epoch]
    assert record.curve[-1].accuracy == record.metrics.accuracy == without.metrics.accuracy
    assert (without.curve, without.cost.queries["train"]) == ([], record.cost.queries["train"])
    assert record.cost.queries["test"] == without.cost.queries["test"]
    assert record.cost.queries["curve"].images == 500 * len(record.curve)
    assert record.cost.images_forwarded == without.cost.images_forwarded
    assert record.run_id == without.run_id


def test_a_run_that_spends_its_budget_ends_with_what_it_has_learned(tmp_path: Path) -> None:
    whole = asked(tmp_path).cost.queries["train"].images
    record = asked(tmp_path, f"budget.images={whole // 2}")
    assert record.status == "budget" and record.metrics is not None
    assert record.error == f"budget reached after {whole // 2:,} of {whole // 2:,} images"
    assert record.curve[-1].images == record.cost.queries["train"].images == whole // 2
