"""Draw which classes use which tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from petlbench.learners.token_usage import TokenUsage, packed_usage
from petlbench.records.schema import PartMetrics, Record
from petlbench.records.store import RecordStore, write_atomically
from petlbench.report import token_usage
from petlbench.report.token_usage import effective, write_usage_plots
from tests.record_factory import make_record
from tests.report.figures import assert_nothing_is_cut_off

SHARES = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Collect figures by name instead of writing them."""
    figures: dict[str, Figure] = {}

    def keep(figure: Figure, folder: Path, name: str) -> list[Path]:
        figures[name] = figure
        return [folder / f"{name}.png"]

    monkeypatch.setattr(token_usage, "save_figure", keep)
    return figures


def record_with_usage(
    results: Path, task: str, seed: int = 0, shares: torch.Tensor = SHARES, parts: tuple[str, ...] = (), method: str = "pgn"
) -> Record:
    """Make a record with its token usage. With ``parts`` there is one class of each part."""
    record = make_record(method, task, seed)
    path = RecordStore(results).path_of(record).with_suffix(".usage.safetensors")
    names = tuple(f"{part} class" for part in parts) or tuple(f"class {row}" for row in range(len(shares)))
    write_atomically(path, packed_usage(TokenUsage(shares, names)))
    assert record.metrics is not None
    of_parts = {part: PartMetrics(accuracy=1, own_accuracy=1, samples=1) for part in parts}
    return record.model_copy(update={"token_usage": path.name, "metrics": record.metrics.model_copy(update={"parts": of_parts})})


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_there_is_one_panel_per_task_of_the_smallest_seed(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    records = [record_with_usage(tmp_path, task, seed) for task in ("mini/digits", "mini/count") for seed in (2, 1)]
    write_usage_plots(tmp_path, records)
    assert list(drawn) == ["token_usage-pgn-mini"]
    assert [title.partition(":")[0] for title in titles(drawn["token_usage-pgn-mini"])] == ["mini/count, seed 1", "mini/digits, seed 1"]
    assert_nothing_is_cut_off(drawn["token_usage-pgn-mini"])


def test_tokens_are_sorted_by_the_class_that_uses_them_most(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    write_usage_plots(tmp_path, [record_with_usage(tmp_path, "mini/digits")])
    (image,) = drawn["token_usage-pgn-mini"].axes[0].images
    colours = np.asarray(image.get_array())
    darkness = 1 - colours[..., :3].mean(axis=-1)
    assert darkness[0].argmax() == 0 and darkness[1].argmax() == 1
    assert (darkness[0] > darkness[1]).tolist() == [True, False, False]


def test_each_class_tells_how_many_tokens_it_uses(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    write_usage_plots(tmp_path, [record_with_usage(tmp_path, "mini/digits", shares=torch.tensor([[0.5, 0.5, 0], [0, 0, 1.0]]))])
    (beside,) = drawn["token_usage-pgn-mini"].axes[0].child_axes
    assert [label.get_text() for label in beside.get_yticklabels()] == ["2.0", "1.0"]


def test_joined_tasks_are_shown_by_task_as_well(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    write_usage_plots(tmp_path, [record_with_usage(tmp_path, "mini/a+mini/b", shares=torch.eye(2), parts=("mini/a", "mini/b"))])
    assert titles(drawn["token_usage-pgn-mini"])[1].startswith("the same by task, where a token serves 1.0 of 2")


def test_prompts_that_do_not_depend_on_the_image_are_not_drawn(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    assert write_usage_plots(tmp_path, [record_with_usage(tmp_path, "mini/digits", shares=torch.full((3, 4), 0.25))]) == []
    assert drawn == {}


def test_records_without_usage_are_left_alone(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    assert write_usage_plots(tmp_path, [make_record("lora", "mini/digits")]) == []


@pytest.mark.parametrize(("classes", "tokens"), [(2, 4), (100, 256), (397, 16)])
def test_nothing_is_cut_off(tmp_path: Path, drawn: dict[str, Figure], classes: int, tokens: int) -> None:
    shares = torch.rand(classes, tokens, generator=torch.Generator().manual_seed(0))
    write_usage_plots(tmp_path, [record_with_usage(tmp_path, "mini/digits", shares=shares / shares.sum(dim=1, keepdim=True))])
    assert_nothing_is_cut_off(drawn["token_usage-pgn-mini"])


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    record = record_with_usage(tmp_path, "mini/digits")
    first = [path.read_bytes() for path in write_usage_plots(tmp_path, [record])]
    assert first and first == [path.read_bytes() for path in write_usage_plots(tmp_path, [record])]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_effective_tokens_lie_between_one_and_all(counts: list[int]) -> None:
    found = effective(np.array([counts], dtype=float))
    assert 1 - 1e-9 <= found <= len(counts) + 1e-9
    assert effective(np.ones((2, len(counts)))) == pytest.approx(len(counts))
