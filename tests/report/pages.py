"""Make a leaderboard page with everything it can show, for tests of its data and in a browser."""

from __future__ import annotations

from typing import Literal

from petlbench.published.numbers import PublishedNumber
from petlbench.records.schema import Record
from petlbench.report.page import page_html
from petlbench.report.page_data import page_data
from tests.record_factory import TASKS, make_grid, make_record

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FGVC = ("fgvc/cub200_2011", "fgvc/nabirds", "fgvc/oxford_flowers", "fgvc/stanford_dogs", "fgvc/stanford_cars")
VIT_AS_PRINTED = "ViT-B/16 (supervised IN-21k)"
VIT = "timm:vit_base_patch16_224.augreg_in21k"
SUITES = {"mini": TASKS, "fgvc": FGVC}


def records() -> list[Record]:
    """Three methods on mini, one on another backbone and one under another protocol; on fgvc a hostile name and a missing cell; two failures."""
    found = make_grid(("zero_shot", "craft", "lora"))
    found += [make_record("lora", task, settings={"rank": 4}, accuracy=70 + i) for i, task in enumerate(TASKS)]
    found += [make_record("full", task, backbone="vit_tiny", accuracy=60 + i) for i, task in enumerate(TASKS)]
    found += [make_record("full", task, protocol="p-2", accuracy=50 + i) for i, task in enumerate(TASKS)]
    found += [make_record(HOSTILE, task, accuracy=40 + i, backbone=VIT) for i, task in enumerate(FGVC)]
    found += [make_record("full", task, seed, accuracy=80 + i + seed / 4, backbone=VIT) for i, task in enumerate(FGVC) for seed in (0, 1)]
    found += [make_record("linear", task, accuracy=30, backbone=VIT) for task in FGVC]
    found += [make_record("bitfit", task, accuracy=90, backbone=VIT) for task in FGVC[:3]]
    found += [make_record("bar", TASKS[1], 3, status="diverged"), make_record(HOSTILE, FGVC[0], 9, status="failed")]
    return found


def printed(
    method: str,
    task: str,
    value: str,
    *,
    metric: str = "top1_accuracy_percent",
    backbone: str = VIT_AS_PRINTED,
    shots: str = "full",
    kind: Literal["reprint", "third-party"] = "reprint",
) -> PublishedNumber:
    suite, _, dataset = task.partition("/")
    return PublishedNumber(
        paper="SPT",
        arxiv="",
        table="main results (FGVC)",
        suite=suite,
        method=method,
        backbone=backbone,
        access="white-box",
        shots=shots,
        dataset=dataset,
        dataset_as_printed="",
        metric=metric,
        value=value,  # type: ignore[arg-type]
        std=None,
        source_kind=kind,
        source="main table <as reprinted>",
    )


PUBLISHED = [
    *(printed("Full", task, "99", backbone="Swin-B (supervised IN-22k)") for task in FGVC),
    *(printed("Full", task, value) for task, value in zip(FGVC, ("87.3", "82.7", "98.8", "89.4", "84.5"), strict=True)),
    *(printed("Linear", task, value) for task, value in zip(FGVC[:2], ("85.3", "75.9"), strict=True)),
    *(printed("Bias", task, "88", backbone="Swin-B (supervised IN-22k)") for task in FGVC),
]


def page(refresh_seconds: float | None = None) -> str:
    return page_html(page_data(records(), SUITES, PUBLISHED), refresh_seconds)
