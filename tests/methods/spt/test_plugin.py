"""SPT as a run: its ranking is computed once for all budgets and modules, and the selection travels with what was learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from petlbench.backbones.backbone import load_backbone
from petlbench.checkpoints.evaluate import evaluate_checkpoint
from petlbench.checkpoints.file import read_checkpoint
from petlbench.errors import ConfigError
from petlbench.methods.spt import SPTConfig, release_file
from petlbench.methods.spt.__main__ import main
from petlbench.methods.spt.candidates import candidates
from petlbench.methods.spt.selection import Selection
from petlbench.records.schema import Record
from petlbench.runs.execute import execute
from tests.words import resolve

SHORT = ("task=mini/digits", "protocol.shots=5", "train.epochs=1", "train.warmup_epochs=0", "threads=1")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Record]:
    return lambda method, *words: execute(resolve([f"method={method}", *SHORT, f"out={tmp_path}", *words]), reraise=True)[0]


@pytest.mark.usefixtures("cache")
def test_every_budget_and_both_modules_use_one_pass_over_the_scored_images(run: Callable[..., Record]) -> None:
    first = run("spt", "method.scored_images=32")
    others = [run("spt", "method.scored_images=32", "method.budget=0.5"), run("spt_adapter", "method.scored_images=32")]
    assert first.cost.images_forwarded == 32 + 50 + 500
    assert [other.cost.images_forwarded for other in others] == [50 + 500] * 2
    counts = [record.parameters.trainable for record in (first, *others) if record.parameters]
    assert len(set(counts)) == 3


def test_a_remembered_ranking_and_a_computed_one_give_the_same_run(cache: Path, run: Callable[..., Record], tmp_path: Path) -> None:
    first, second = (run("spt", f"out={tmp_path / name}") for name in ("computed", "remembered"))
    assert list((cache / "computed").rglob("*.sealed"))
    assert first.cost.images_forwarded > second.cost.images_forwarded
    assert (first.predictions, first.history) == (second.predictions, second.history)


@pytest.mark.usefixtures("cache")
def test_another_seed_or_protocol_is_scored_anew(run: Callable[..., Record]) -> None:
    runs = [run("spt"), run("spt", "seed=1"), run("spt", "protocol.normalise=none")]
    assert {record.cost.images_forwarded for record in runs} == {50 + 50 + 500}


def test_the_budget_is_nearly_met_and_the_record_says_where_it_went(run: Callable[..., Record]) -> None:
    parameters = run("spt").parameters
    assert parameters is not None
    assert 0.7 * 24_576 < parameters.trainable < 1.3 * 24_576
    assert sum(parameters.allocation.values()) == parameters.trainable
    assert parameters.allocation["embed"] == 128  # the class token


def test_a_checkpoint_holds_the_selection_and_needs_no_training_data(run: Callable[..., Record], tmp_path: Path) -> None:
    record = run("spt", "save=true")
    saved = read_checkpoint(tmp_path / str(record.checkpoint))
    assert {"plan.structured", "plan.positions"} <= set(saved.state)
    assert record.metrics is not None
    assert evaluate_checkpoint(saved, {"threads": 1})["accuracy"] == record.metrics.accuracy


def test_a_selection_file_replaces_the_scores(run: Callable[..., Record], tmp_path: Path) -> None:
    vit = load_backbone("mini_clip").vit
    rule = SPTConfig(rank=4, unit=24_576).rule(128)
    ranked = candidates(vit)
    kept = torch.randperm(sum(c.size for c in ranked), generator=torch.Generator().manual_seed(0))[:500]
    selection = Selection.of(ranked, rule, kept)
    release_file.write(tmp_path / "param_req_1.0.pth", selection)
    record = run("spt", f"method.selection={tmp_path / 'param_req_1.0.pth'}")
    assert record.cost.images_forwarded == 50 + 500
    assert record.parameters is not None
    assert record.parameters.trainable == selection.total - selection.kept_norm_entries


def test_the_selection_of_a_run_becomes_a_file_that_another_run_can_use(run: Callable[..., Record], tmp_path: Path) -> None:
    first = run("spt", "save=true")
    target = tmp_path / "param_req.pth"
    outcome = CliRunner().invoke(main, [str(tmp_path / str(first.checkpoint)), str(target)])
    assert outcome.output == f"selection: {target}\n"
    second = run("spt", f"method.selection={target}")
    assert first.predictions and second.predictions
    assert (first.predictions.sha256, first.parameters) == (second.predictions.sha256, second.parameters)


def test_a_checkpoint_of_another_method_has_no_selection(run: Callable[..., Record], tmp_path: Path) -> None:
    record = run("lora", "save=true")
    outcome = CliRunner().invoke(main, [str(tmp_path / str(record.checkpoint)), str(tmp_path / "param_req.pth")])
    assert outcome.exit_code == 1
    assert "learned by lora, which selects nothing" in outcome.output


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("method.budget=0", r"method\.budget must be > 0"),
        ("method.alpha=0", r"method\.alpha must be a number > 0"),
        ("method.module=both", r"method\.module must be one of lora, adapter"),
        ("method.dropout=1", r"method\.dropout must lie in \[0, 1\)"),
        ("method.scored_images=0", r"method\.scored_images must be an int >= 1"),
    ],
)
def test_a_wrong_setting_is_named(word: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        resolve(["method=spt", "task=mini/digits", word])


def test_a_budget_that_no_selection_meets_is_one_clear_error(run: Callable[..., Record]) -> None:
    with pytest.raises(ConfigError, match=r"method\.budget=0\.001 is 25 parameters, and no selection is that small"):
        run("spt", "method.budget=0.001")


def test_drop_path_decides_the_ranking_only_when_it_is_not_deterministic(run: Callable[..., Record]) -> None:
    runs = [run("spt", f"train.drop_path={rate}", f"method.deterministic={fixed}") for rate, fixed in ((0.3, True), (0.3, False))]
    places = [record.parameters.allocation for record in runs if record.parameters]
    assert places[0] == run("spt").parameters.allocation != places[1]  # type: ignore[union-attr]
