"""The runs of winners: which settings they have, what their records say, and what is said when there is no study to take them from."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from petlbench.analysis.aggregate import leaderboard
from petlbench.analysis.columns import origin
from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import nested, restore
from petlbench.errors import ConfigError, TuningError
from petlbench.records.schema import Record, Tuning
from petlbench.report.leaderboard import leaderboard_table, write_leaderboard
from petlbench.runs.plan import Plan
from petlbench.tuning import tuned
from petlbench.tuning.tuned import plan_tuned
from tests.record_factory import SUITES, make_record, store_record
from tests.tuning.fakes import FakeExecutor, record, tune


def planned(out: Path, method: str = "lora", seeds: Any = (0, 1), **settings: Any) -> Plan:
    return plan_tuned(method, "mini/digits", seeds, nested({"out": str(out), "threads": 1, **settings}), False)


def test_the_winner_is_trained_on_train_and_val_and_tested_with_every_seed(tmp_path: Path) -> None:
    tune(tmp_path, FakeExecutor(images=300), trials=3, method="bar")
    plan = planned(tmp_path, "bar")
    assert [run.config.seed for run in plan.runs] == [0, 1] and {run.state for run in plan.runs} == {"missing"}
    config = plan.runs[0].config
    assert (config.protocol.train_on, config.protocol.score_on, config.execution.out) == ("trainval", "test", str(tmp_path))
    found, _ = record(config, 70.0, images=50)
    assert found.tuning is not None and found.hyperparameters == f"tuned: 3 trials, tpe seed 0, val {found.tuning.val_accuracy:.2f} %"
    assert (found.tuning.trials, found.tuning.sampler, found.tuning.seeds, found.tuning.study) == (3, "tpe", [0], config.study)
    assert found.tuning.queries["train"].images == 900 and found.tuning.default_val_accuracy is not None
    frame = leaderboard([found], SUITES).iloc[0]
    assert (frame["queries"], frame["queries_with_tuning"]) == (50, 950)
    assert frame["method"] == "bar (tuned, 3 trials)" and frame["settings"] == f"tuned (3 trials, val {found.tuning.val_accuracy:.2f} %)"


def test_a_tuned_run_is_another_run_than_one_with_the_same_settings_and_reads_back(tmp_path: Path) -> None:
    tune(tmp_path, FakeExecutor(lambda config: 50.0 + 40.0 * (config.train.learning_rate == 6e-3)), trials=2)
    (run,) = planned(tmp_path, seeds=(0,)).runs  # the winner has the default settings
    own = restore({key: value for key, value in run.config.identity.items() if key != "study"})
    assert own.run_id != run.config.run_id
    again = restore(run.config.identity)
    assert (again.run_id, again.study, again.hyperparameters) == (run.config.run_id, run.config.study, "tuned")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.epochs": 3}, r"no study of lora .*; lora-mini_digits-.* has train.epochs=12, not 3; run petlbench tune method=lora .*train.epochs=3"),
        ({"trials": 20}, "has trials=2; run petlbench tune .*trials=20"),
        ({"search.method.rank": [2, 4]}, "searched another space .*; run petlbench tune .* search.method.rank="),
        ({"protocol.selection": "best_val"}, "or protocol.selection=last"),
    ],
    ids=["other settings", "other trials", "other space", "rule that needs val"],
)  # fmt: skip
def test_a_study_that_does_not_fit_is_one_line_with_the_command_to_run(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    tune(tmp_path, FakeExecutor(), trials=2)
    with pytest.raises((TuningError, ConfigError), match=message) as caught:
        planned(tmp_path, **settings)
    assert "\n" not in str(caught.value)


def test_a_study_that_is_not_finished_or_of_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, FakeExecutor(dies_at=2), trials=4)
    with pytest.raises(TuningError, match=r"has 2 of 4 trials; run petlbench tune .* trials=4.*, which continues it"):
        planned(tmp_path, trials=4)
    tune(tmp_path, FakeExecutor(), trials=4)
    assert planned(tmp_path).runs
    monkeypatch.setattr(tuned, "code_of", lambda method: "petlbench 9, lora 1a2b3c4d")
    with pytest.raises(TuningError, match=r"was made by other code .* move .* away and run petlbench tune"):
        planned(tmp_path)


def test_two_studies_of_one_setting_have_to_be_told_apart(tmp_path: Path) -> None:
    tune(tmp_path, FakeExecutor(), trials=2)
    tune(tmp_path, FakeExecutor(), trials=3)
    with pytest.raises(TuningError, match="2 studies of lora on mini/digits have these settings; say which with study=NAME"):
        planned(tmp_path)
    assert planned(tmp_path, trials=3).runs[0].config.hyperparameters.startswith("tuned: 3 trials")


def test_a_method_without_anything_to_tune_keeps_its_settings_and_says_so(tmp_path: Path) -> None:
    tune(tmp_path, FakeExecutor(), trials=2)
    plan = planned(tmp_path, "lora,zero_shot", seeds=(0,))
    assert [(run.config.method, run.config.study is None, run.config.protocol.train_on) for run in plan.runs] == [
        ("lora", False, "trainval"),
        ("zero_shot", True, "trainval"),
    ]
    assert "nothing to tune, so default settings: zero_shot" in plan.sentences()


@pytest.mark.parametrize(
    ("hyperparameters", "expected"),
    [
        ("default", "default"),
        ("suite mini", "default"),
        ("task mini/textures", "default"),
        ("recipe noah", "paper"),
        ("task vtab/dtd", "paper"),
        ("suite fgvc", "paper"),
    ],
)
def test_the_origin_of_settings(hyperparameters: str, expected: str) -> None:
    assert origin(make_record().model_copy(update={"hyperparameters": hyperparameters})) == expected


def test_sections_of_yaml_files_that_are_papers_name_their_source() -> None:
    for name in names("methods"):
        values = load_yaml("methods", name)
        sections = {**values.get("suites", {}), **values.get("tasks", {})}
        without = [
            key
            for key, section in sections.items()
            if not key.startswith("mini") and "source" not in section and section.keys() != {"search"}
        ]
        assert without in ([], ["blackvip16"]), name  # that of vp has the released code's schedule, as its comment says


def tuned_record(**options: Any) -> Record:
    study = Tuning(study="s", trials=5, asked=5, sampler="tpe", sampler_seed=0, seeds=[0], val_accuracy=81.5)
    return make_record(**options, train={"learning_rate": 0.1}).model_copy(update={"tuning": study, "hyperparameters": "tuned: 5 trials"})


def printed(frame: pd.DataFrame) -> str:
    console = Console(width=160, file=StringIO(), force_terminal=False)
    console.print(leaderboard_table(frame))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_settings_of_another_origin_are_a_row_of_their_own_and_marked_in_a_ranking() -> None:
    records = [make_record("lora", accuracy=80.0), make_record("vpt", accuracy=79.0), tuned_record(method="lora", accuracy=85.0)]
    frame = leaderboard(records, {"mini": SUITES["mini"][:1]})
    assert dict(zip(frame["method"], frame["settings"], strict=True)) == {
        "lora (tuned, 5 trials)": "tuned (5 trials, val 81.50 %)",
        "lora": "default",
        "vpt": "default",
    }
    shown = printed(frame)
    assert "1†" in shown and "2†" not in shown and "† beside a rank: settings of another origin" in shown
    alike = printed(leaderboard(records[:2], {"mini": SUITES["mini"][:1]}))
    assert "†" not in alike


def test_csv_markdown_and_page_have_the_columns(tmp_path: Path) -> None:
    store_record(tmp_path, method="lora")
    write_leaderboard(tmp_path, {"mini": SUITES["mini"][:1]})
    assert pd.read_csv(tmp_path / "leaderboard.csv")["settings"].tolist() == ["default"]
    assert "| settings |" in (tmp_path / "leaderboard.md").read_text() or " settings " in (tmp_path / "leaderboard.md").read_text()
