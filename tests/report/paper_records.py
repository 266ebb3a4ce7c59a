"""Make records for a paper's table."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from petlbench.config.files import load_suite
from petlbench.published.numbers import published
from petlbench.records.schema import ProtocolId, Record
from petlbench.report.paper_runs import Choice
from petlbench.report.paper_shape import load_table
from petlbench.report.paper_table import FilledTable, fill
from tests.record_factory import make_record

VIT = "timm:vit_base_patch16_224.augreg_in21k"
CLIP = "open_clip:ViT-B-16/openai"
RN50 = "open_clip:RN50/openai"


def run(method: str, task: str, seed: int = 0, accuracy: float = 80.0, backbone: str = VIT, name: str = "fgvc", **settings: Any) -> Record:
    """A record whose protocol has settings; other fields as in ``make_record`` with ``selection``."""
    record = make_record(
        method, task, seed, accuracy, backbone=backbone, protocol=f"{name}-{zlib.crc32(str(settings).encode()):08x}", **_own(settings)
    )
    kept = {"name": name, "selection": record.selection, **{key: value for key, value in settings.items() if key not in _OWN}}
    return record.model_copy(update={"protocol": ProtocolId(id=record.protocol.id, settings=kept)})


_OWN = ("selection", "settings", "weights", "revision", "created")


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key in _OWN}


def grid(suite: str, method: str, accuracy: float = 80.0, seeds: tuple[int, ...] = (0, 1, 2), **settings: Any) -> list[Record]:
    """Make a run of every task and seed; accuracies differ by one from seed to seed."""
    return [run(method, task, seed, accuracy + seed, name=suite, **settings) for task in load_suite(suite).tasks for seed in seeds]


def filled(table: str, panel: str, records: list[Record], **choice: Any) -> FilledTable:
    return fill(load_table(table), records, published(), Choice(**choice))[panel]
