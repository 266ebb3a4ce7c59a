"""The Python interface."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import petlbench
from petlbench import Access, QueryMethod, QueryModel, TrainingData
from petlbench.api import Result, Results
from petlbench.errors import AccessError, CheckpointError, ConfigError, RecordError
from petlbench.records.schema import read_record

FAST: dict[str, Any] = {"protocol.shots": 1, "train.epochs": 1, "train.warmup_epochs": 0, "threads": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A zero-shot run."""
    return petlbench.run(method="zero_shot", task="mini/digits", threads=1, out=tmp_path_factory.mktemp("results"), progress=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("study")
    return petlbench.bench(["zero_shot", "linear"], "mini/digits", [0, 1], FAST, out=out, jobs=1, progress=False)


def test_a_run_is_recorded_and_its_result_says_so(done: Result) -> None:
    assert read_record(done.path) == done.record
    assert done.status == "ok" and not done.is_kept
    assert done.accuracy is not None and done.accuracy > 50
    assert done.summary()["accuracy"] == done.accuracy and done.summary()["record"] == str(done.path)
    assert repr(done).startswith("<zero_shot on mini/digits") and f"{done.accuracy:.1f}" in repr(done)
    assert done.location() == f"record: {done.path}"


def test_settings_may_come_as_a_mapping_nested_or_with_dots(tmp_path: Path) -> None:
    first = petlbench.run({**FAST, "method": "linear"}, task="mini/digits", out=tmp_path, progress=False)
    nested: dict[str, Any] = {"protocol": {"shots": 1}, "train": {"epochs": 1, "warmup_epochs": 0}}
    second = petlbench.run(nested, method="linear", task="mini/digits", threads=1, out=tmp_path, progress=False)
    assert first.record.run_id == second.record.run_id and first.accuracy == second.accuracy


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown key 'sed'"):
        petlbench.run(method="zero_shot", task="mini/digits", sed=1)


class Failing(QueryMethod):
    access = Access.SCORES
    learns = False

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        raise AccessError("out of order")

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images)


def test_a_run_that_fails_raises_its_error_and_is_recorded(plugin: Any, tmp_path: Path) -> None:
    plugin("failing", Failing)
    settings: dict[str, Any] = {"method": "failing", "task": "mini/digits", "threads": 1, "out": tmp_path}
    with pytest.raises(AccessError, match="out of order"):
        petlbench.run(settings, progress=False)
    (failed,) = petlbench.results(tmp_path).itertuples()
    assert failed.status == "failed" and "out of order" in failed.error
    result = petlbench.run(settings, progress=False, reraise=False)
    assert result.status == "failed" and result.accuracy is None and "out of order" in repr(result)


def test_a_plan_has_every_run_with_its_state(study: Results) -> None:
    planned = petlbench.plan(["zero_shot", "linear"], "mini/digits", [0, 1, 2], FAST, out=study.plan.out)
    states = {(run.config.method, run.config.seed): run.state for run in planned.runs}
    assert states == {(method, seed): "missing" if seed == 2 else "done" for method in ("zero_shot", "linear") for seed in range(3)}


@pytest.mark.parametrize(
    ("setting", "argument"), [({"method": "lora"}, "methods"), ({"task": "mini/digits"}, "tasks"), ({"seed": 1}, "seeds")]
)
def test_a_grid_refuses_a_setting_that_names_one_run(setting: dict[str, Any], argument: str) -> None:
    for grid in (petlbench.plan, petlbench.bench):
        with pytest.raises(ConfigError, match=f"a grid takes {argument}=…"):
            grid("linear", "mini/digits", settings=setting)


def test_a_setting_of_the_method_is_one_of_a_grid(tmp_path: Path) -> None:
    (run,) = petlbench.plan("lora", "mini/digits", [0], {"method.rank": 3}, out=tmp_path).runs
    assert run.config.method_config.rank == 3


def test_a_bench_gives_a_result_per_run_and_their_table(study: Results) -> None:
    assert len(study) == 4 and list(study) == [study[number] for number in range(4)] and not study.failures
    table = study.accuracies()
    assert list(table.index) == ["linear", "zero_shot"] and list(table.columns) == ["mini/digits"]
    of_linear = [result.accuracy for result in study if result.record.method.name == "linear"]
    assert table.loc["linear", "mini/digits"] == pytest.approx(sum(of_linear) / 2)  # type: ignore[arg-type]
    assert set(study.leaderboard()["method"]) == {"zero_shot", "linear"}
    assert repr(study).startswith("<4 runs carried out, 0 without a result, 0 were done before>\n")
    assert "<table" in study._repr_html_() and f"{table.loc['linear', 'mini/digits']:.2f}" in study._repr_html_()


def test_a_bench_does_not_repeat_what_is_done_and_averages_only_its_own_runs(study: Results) -> None:
    again = petlbench.bench("zero_shot", "mini/digits", [0, 1], FAST, out=study.plan.out, jobs=1, progress=False)
    assert len(again) == 0 and list(again.accuracies().index) == ["zero_shot"]
    other = petlbench.bench("linear", "mini/digits", [0], FAST, out=study.plan.out, jobs=1, progress=False, **{"train.epochs": 9})
    (own,) = other
    assert other.accuracies().loc["linear", "mini/digits"] == own.accuracy != study.accuracies().loc["linear", "mini/digits"]


def test_results_are_a_row_per_record(study: Results) -> None:
    frame = petlbench.results(study.plan.out)
    assert {*zip(frame["method"], frame["seed"], strict=True)} == {(method, seed) for method in ("zero_shot", "linear") for seed in (0, 1)}


def test_results_of_an_empty_folder_are_no_rows(tmp_path: Path) -> None:
    assert len(petlbench.results(tmp_path)) == 0


def test_what_a_run_saved_is_evaluated_to_its_accuracy(tmp_path: Path) -> None:
    saved = petlbench.run(FAST, method="linear", task="mini/digits", save=True, out=tmp_path, progress=False)
    assert saved.record.checkpoint is not None
    checkpoint = tmp_path / saved.record.checkpoint
    assert petlbench.evaluate(checkpoint, threads=1)["accuracy"] == saved.accuracy
    with pytest.raises(ConfigError, match="evaluate takes backbone, data_root, device, task, threads, url, got seed, train"):
        petlbench.evaluate(checkpoint, {"train.epochs": 3}, seed=1)


def test_evaluate_names_the_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"^[^:]*other\.safetensors") as refused:
        petlbench.evaluate(tmp_path / "other.safetensors")
    assert str(refused.value).count("other.safetensors") == 1


def test_a_script_without_a_main_guard_benches_with_two_processes(tmp_path: Path) -> None:
    script = f"import petlbench; print(len(petlbench.bench('zero_shot', 'mini/digits', [0, 1], {FAST!r}, jobs=2, out={str(tmp_path)!r})))"
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_seeds_from_python_are_checked_and_counted_once(tmp_path: Path) -> None:
    assert [run.config.seed for run in petlbench.plan("linear", "mini/digits", seeds=[1, 1, 0], out=tmp_path).runs] == [1, 0]
    assert [run.config.seed for run in petlbench.plan("linear", "mini/digits", seeds=3, out=tmp_path).runs] == [3]
    for wrong in ([], "0,1", [0.5], True):
        with pytest.raises(ConfigError, match="seeds must be whole numbers"):
            petlbench.plan("linear", "mini/digits", seeds=wrong, out=tmp_path)  # type: ignore[arg-type]


def test_an_error_says_whether_a_value_was_typed_or_given_in_python() -> None:
    with pytest.raises(ConfigError, match=r"method.rank must be an int, got 'eight' \(settings\)"):
        petlbench.run({"method.rank": "eight"}, method="lora", task="mini/digits")


def test_a_plan_prints_its_counts(tmp_path: Path) -> None:
    planned = petlbench.plan(["linear", "zero_shot"], "mini/digits", seeds=[0, 1], out=tmp_path)
    assert repr(planned) == "<plan of 4 runs: 0 done, 0 failed, 4 missing>"
    assert planned.counts() == {method: {"done": 0, "failed": 0, "missing": 2} for method in ("linear", "zero_shot")}
    assert "<td>2</td>" in planned._repr_html_()


def test_results_of_a_folder_that_does_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no results folder .*absent"):
        petlbench.results(tmp_path / "absent")


def test_a_name_in_place_of_settings_is_refused() -> None:
    with pytest.raises(ConfigError, match="settings are a mapping or keyword arguments, such as method='lora', got 'lora'"):
        petlbench.run("lora")  # type: ignore[arg-type]


def test_the_line_of_a_finished_run_is_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    (result,) = petlbench.bench("zero_shot", "mini/digits", [0], FAST, out=tmp_path, jobs=1)
    assert f"[1/1] {result!r}".replace("<", "").replace(">", "") in capsys.readouterr().err.splitlines()
