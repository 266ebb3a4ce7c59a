"""Summarise raw samples as one row per configuration, and the rows as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.subjects import Settings
from benchmarks.workers import Measurement

Row = dict[str, Any]
PARTS = ("forward", "step")
COLUMNS = {  # heading -> key of a row or of its ratios, format
    "forward s": ("forward_seconds", "#.4g"),
    "step s": ("step_seconds", "#.4g"),
    "images/s": ("images_per_second", "#.4g"),
    "step / plain_full": ("step_to_plain_full", ".2f"),
    "step / plain_peft": ("step_to_plain_peft", ".2f"),
    "step / floor": ("step_to_floor", ".2f"),
    "peak MB": ("peak_mb", ",.0f"),
    "model MB": ("model_mb", ",.0f"),
    "model MB / plain_full": ("model_memory_to_plain_full", ".2f"),
    "format": ("number_format", ""),
}


def summarise(measured: Mapping[str, Measurement], settings: Settings) -> Row:
    """A group that was measured side by side: ``gemm``, and ``rows``, one per configuration. Values that are not available are None.

    Seconds are medians over the counted rounds: of one batch, for gemm of one pass over a block's products.
    """
    models = [name for name in measured if name != "gemm"]
    gemm = _timed("gemm", measured["gemm"]) | {"gflops": measured["gemm"].facts["gflops"]} if "gemm" in measured else None
    rows = {name: _timed(name, measured[name]) | _memory(measured[name]) for name in models}
    missing: Row = dict.fromkeys(("step_seconds", "model_mb"))
    full, peft = (rows.get(name, missing) for name in ("plain_full", "plain_peft"))
    for row in rows.values():
        row["images_per_second"] = settings.batch / row["step_seconds"]
        for part in PARTS:
            row[f"{part}_floor_seconds"] = _floor_seconds(row, gemm, part)
        row["ratios"] = {
            "step_to_plain_full": _quotient(row["step_seconds"], full["step_seconds"]),
            "step_to_plain_peft": _quotient(row["step_seconds"], peft["step_seconds"]),
            "forward_to_floor": _quotient(row["forward_seconds"], row["forward_floor_seconds"]),
            "step_to_floor": _quotient(row["step_seconds"], row["step_floor_seconds"]),
            "model_memory_to_plain_full": _quotient(row["model_mb"], full["model_mb"]),
        }
    return {"gemm": gemm, "rows": list(rows.values())}


def table(group: Row, title: str) -> Table:
    """The rows of a group; gemm's rates are in the caption."""
    result = Table(title=title, caption=_caption(group["gemm"]), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("", no_wrap=True)
    for heading in COLUMNS:
        result.add_column(heading, justify="right")
    for row in group["rows"]:
        result.add_row(row["name"], *(_cell(row, key, style) for key, style in COLUMNS.values()))
    return result


def _timed(name: str, measurement: Measurement) -> Row:
    """Columns of every configuration, gemm included."""
    facts, rounds = measurement.facts, {"forward": measurement.forward_seconds, "step": measurement.step_seconds}
    samples = {part: [seconds / facts["repetitions"] for seconds in rounds[part][1:]] for part in PARTS}
    return {
        "name": name,
        "number_format": facts["number_format"],
        **{f"{part}_seconds": statistics.median(samples[part]) for part in PARTS},
        "flops": facts["flops"],
        "samples": samples,
        "warm_up_seconds": {part: rounds[part][0] for part in PARTS},  # of whole rounds
    }


def _memory(measurement: Measurement) -> Row:
    peak, imported = measurement.facts["peak_mb"], measurement.facts["imported_mb"]
    return {"peak_mb": peak, "imported_mb": imported, "model_mb": peak - imported}


def _floor_seconds(row: Row, gemm: Row | None, part: str) -> float | None:
    """The time of a row's products at gemm's rate. None for another number format."""
    if gemm is None or row["number_format"] != gemm["number_format"]:
        return None
    return float(row["flops"][part] / gemm["flops"][part] * gemm[f"{part}_seconds"])


def _quotient(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def _cell(row: Row, key: str, style: str) -> str:
    value = row["ratios"][key] if key in row["ratios"] else row[key]
    return "–" if value is None else format(value, style)


def _caption(gemm: Row | None) -> str | None:
    if gemm is None:
        return None
    forward, both = (gemm["flops"][part] / gemm[f"{part}_seconds"] / 1e9 for part in PARTS)
    return f"gemm, {gemm['number_format']}: {forward:,.0f} GFLOP/s forward, {both:,.0f} with activation gradients"
