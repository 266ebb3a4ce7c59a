"""Runs that go wrong: what is recorded, what is raised, what is left on disk."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from petlbench import Access, GradientMethod, QueryMethod, QueryModel, TrainingData
from petlbench.analysis.validate import problems_of
from petlbench.config.resolve import RunConfig
from petlbench.errors import ConfigError, DataError, Diverged, RecordError
from petlbench.optim.loop import Epoch
from petlbench.records import schema
from petlbench.records.schema import Record, read_record
from petlbench.records.store import RecordStore, is_kept
from petlbench.runs.execute import execute
from tests.words import plan, resolve


def config(out: Path, method: str = "zero_shot", *words: str, task: str = "mini/digits") -> RunConfig:
    return resolve([f"method={method}", f"task={task}", f"out={out}", "train.epochs=2", "train.warmup_epochs=0", "threads=1", *words])


def the_record(out: Path) -> Record:
    """The only record below a results folder, read from disk and free of problems."""
    (path,) = RecordStore(out).paths()
    assert problems_of(path) == []
    return read_record(path)


class Faulty(QueryMethod):
    """Fails as its test wants it to."""

    access = Access.SCORES
    fault: Callable[[TrainingData], Any] = staticmethod(lambda data: None)
    answer = 0.0

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        type(self).fault(data)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return torch.full((len(images), 10), self.answer)


@pytest.fixture
def faulty(plugin: Callable[..., type]) -> Callable[..., str]:
    def make(fault: Callable[[TrainingData], Any] = lambda data: None, answer: float = 0.0) -> str:
        plugin("faulty", type("Faulty", (Faulty,), {"fault": staticmethod(fault), "answer": answer}))
        return "faulty"

    return make


def raises(error: BaseException) -> Callable[[TrainingData], None]:
    def fail(data: TrainingData) -> None:
        raise error

    return fail


def assert_diverged(record: Record, out: Path) -> None:
    assert record.status == "diverged" and record.error
    assert record.metrics is record.predictions is None
    assert the_record(out) == record


def test_a_loss_that_explodes_is_recorded_as_diverged(tmp_path: Path) -> None:
    record, _ = execute(config(tmp_path, "full", "train.learning_rate=1e30", "train.optimizer=sgd"))
    assert_diverged(record, tmp_path)
    assert "the training loss is nan" in (record.error or "")


def test_a_loss_that_a_method_reports_as_not_finite_is_recorded_as_diverged(tmp_path: Path, faulty: Callable[..., str]) -> None:
    method = faulty(lambda data: data.log_epoch(Epoch(epoch=0, loss=float("inf"), learning_rate=0.1)))
    record, _ = execute(config(tmp_path, method))
    assert_diverged(record, tmp_path)


def test_a_learning_rate_that_is_not_finite_is_recorded_as_diverged(tmp_path: Path, faulty: Callable[..., str]) -> None:
    method = faulty(lambda data: data.log_epoch(Epoch(epoch=0, loss=1.0, learning_rate=float("inf"))))
    record, _ = execute(config(tmp_path, method))
    assert_diverged(record, tmp_path)
    assert record.error == "the learning rate is inf in epoch 0"


def test_a_learning_rate_beyond_all_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"learning_rate 1e\+308 times batch_size / 256 is beyond what a number can hold"):
        config(tmp_path, "full", "train.learning_rate=1e308", "train.batch_size=2560", "train.scale_learning_rate=true")


@pytest.mark.parametrize("wrong", [{"epoch": -1}, {"loss": "small"}, {"learning_rate": None}, {"loss": torch.ones(2)}])
def test_a_report_of_a_method_that_no_record_can_hold_fails_the_run(
    tmp_path: Path, faulty: Callable[..., str], wrong: dict[str, Any]
) -> None:
    method = faulty(lambda data: data.log_epoch(Epoch(**{"epoch": 0, "loss": 1.0, "learning_rate": 0.1, **wrong})))
    record, _ = execute(config(tmp_path, method))
    assert record.status == "failed" and "\n" not in (record.error or "")
    assert (record.error or "").startswith("method faulty reported an epoch ")
    assert the_record(tmp_path) == record


def test_numbers_of_other_libraries_are_numbers(tmp_path: Path, faulty: Callable[..., str]) -> None:
    method = faulty(lambda data: data.log_epoch(Epoch(epoch=np.int64(0), loss=torch.tensor(1.5), learning_rate=np.float32(0.5))))  # type: ignore[arg-type]
    record, _ = execute(config(tmp_path, method))
    assert record.history == [schema.Epoch(epoch=0, loss=1.5, learning_rate=0.5)] and the_record(tmp_path) == record


def test_a_result_that_no_record_can_hold_is_recorded_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.learners.QueryLearner.images_encoded", lambda self: -1)
    record, _ = execute(config(tmp_path))
    assert (record.status, record.metrics) == ("failed", None)
    assert record.error == "a result that cannot be recorded: cost.images_encoded: Input should be greater than or equal to 0"
    assert the_record(tmp_path) == record


def test_scores_that_are_not_finite_are_recorded_as_diverged(tmp_path: Path, faulty: Callable[..., str]) -> None:
    record, _ = execute(config(tmp_path, faulty(answer=float("nan"))))
    assert_diverged(record, tmp_path)


def test_an_interrupt_is_recorded_as_cancelled_and_raised(tmp_path: Path, faulty: Callable[..., str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(config(tmp_path, faulty(raises(KeyboardInterrupt()))))
    assert (the_record(tmp_path).status, the_record(tmp_path).error) == ("cancelled", "interrupted")


def test_a_failing_method_is_recorded_with_its_error_and_returned(tmp_path: Path, faulty: Callable[..., str]) -> None:
    record, _ = execute(config(tmp_path, faulty(raises(ZeroDivisionError("by nought")))))
    assert (record.status, record.error) == ("failed", "ZeroDivisionError: by nought")
    assert the_record(tmp_path) == record


def test_an_error_that_is_no_unicode_is_recorded(tmp_path: Path, faulty: Callable[..., str]) -> None:
    record, _ = execute(config(tmp_path, faulty(raises(OSError("no file caf\udce9.png")))))
    assert record.error == "OSError: no file caf\\udce9.png" and the_record(tmp_path) == record


def test_a_failure_is_raised_as_well_when_asked_for(tmp_path: Path, faulty: Callable[..., str]) -> None:
    with pytest.raises(ZeroDivisionError):
        execute(config(tmp_path, faulty(raises(ZeroDivisionError()))), reraise=True)
    assert the_record(tmp_path).status == "failed"


class Unreadable(Exception):
    """An error whose text is an error."""

    def __str__(self) -> str:
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (GeneratorExit(), "GeneratorExit: "),
        (MemoryError(), "MemoryError: "),
        (Unreadable(), "Unreadable: (its text cannot be read)"),
        (ValueError("\x1b[31m\ud800\x00"), r"ValueError: \x1b[31m\ud800\x00"),
        (DataError("x" * 10**7), f"{'x' * 2000}…"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_way_a_method_leaves_is_recorded(tmp_path: Path, faulty: Callable[..., str], error: BaseException, recorded: str) -> None:
    record, _ = execute(config(tmp_path, faulty(raises(error))))
    assert (record.status, record.error) == ("failed", recorded)
    assert the_record(tmp_path) == record


def test_a_script_is_not_ended_by_a_method_that_exits(tmp_path: Path, faulty: Callable[..., str]) -> None:
    with pytest.raises(RuntimeError, match="SystemExit: 0"):
        execute(config(tmp_path, faulty(raises(SystemExit(0)))), reraise=True)


def test_a_method_that_exits_when_it_is_made_is_recorded(tmp_path: Path, plugin: Callable[..., type]) -> None:
    class Absent(Faulty):
        def __init__(self, *_: Any) -> None:
            sys.exit(0)

    plugin("absent", Absent)
    (cell,) = plan(["method=absent", "task=mini/digits", f"out={tmp_path}"]).runs
    record, _ = execute(cell.config)
    assert (record.status, record.error) == ("failed", "SystemExit: 0")


def test_what_a_method_changes_of_its_process_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def seen() -> tuple[Any, ...]:
        switches = torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
        return (*switches, Path.cwd(), sys.stdout, warnings.filters[:], signal.getsignal(signal.SIGINT))

    def meddle(data: TrainingData) -> None:
        os.chdir("/")
        sys.stdout = io.StringIO()
        warnings.simplefilter("error")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        raise ZeroDivisionError

    before = seen()
    record, path = execute(config(Path("results"), faulty(meddle)))
    assert seen() == before
    assert not path.is_absolute() and read_record(tmp_path / path) == record


def test_a_failed_run_that_is_run_again_replaces_its_record(tmp_path: Path, faulty: Callable[..., str]) -> None:
    faults = iter([ZeroDivisionError(), None])

    def fail_once(data: TrainingData) -> None:
        if error := next(faults):
            raise error

    method = faulty(fail_once)
    assert [execute(config(tmp_path, method))[0].status for _ in range(2)] == ["failed", "ok"]
    assert the_record(tmp_path).status == "ok"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("by nought"), Diverged("nan")])
def test_a_result_outlives_a_repetition_without_one(
    tmp_path: Path, faulty: Callable[..., str], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    faults = iter([None, error])

    def fail_later(data: TrainingData) -> None:
        if fault := next(faults):
            raise fault

    words = (tmp_path, faulty(fail_later), "save=true")
    result, path = execute(config(*words))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert result.status == "ok"
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            execute(config(*words))
        assert f"the earlier result was kept: {path}" in caplog.text
    else:
        record, there = execute(config(*words))
        assert not record.has_result and there == path and is_kept(record, path)
    assert the_record(tmp_path) == result
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_run_that_fails_after_its_test_leaves_no_files(tmp_path: Path, plugin: Callable[..., type]) -> None:
    """The method changes the shared backbone, which is only detected after the test."""

    class Meddler(GradientMethod):
        def adapt(self, vit: Any) -> None:
            vit.norm.bias.data += 1.0
            vit.norm.weight.requires_grad_(True)

    plugin("meddler", Meddler)
    record, path = execute(config(tmp_path, "meddler", "save=true"))
    assert record.status == "failed" and "changed the shared backbone" in (record.error or "")
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {path, tmp_path / "records" / ".lock"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"task": "mini/digit"}, r"no task 'mini/digit'\. Did you mean 'mini/digits'\?"),
        ({"task": "folder:/no/such/folder"}, r"/no/such/folder/train is not a folder"),
        ({"backbone": "mini_clp"}, r"no backbone 'mini_clp'\. Did you mean 'mini_clip'\?"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_recorded(tmp_path: Path, words: dict[str, str], expected: str) -> None:
    backbone = [f"backbone={words['backbone']}"] if "backbone" in words else []
    with pytest.raises(Exception, match=expected):
        execute(config(tmp_path / "results", "zero_shot", *backbone, task=words.get("task", "mini/digits")))
    assert not (tmp_path / "results").exists()


def test_a_read_only_results_folder_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: Callable[..., str]
) -> None:
    started: list[TrainingData] = []
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=rf"cannot write to {tmp_path}: .* is not a writable folder; choose another with out=DIR"):
        execute(config(tmp_path, faulty(started.append)))
    assert not started


def test_a_results_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to .*file/results"):
        execute(config(tmp_path / "file" / "results"))


@pytest.mark.parametrize("step", ["open", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_or_read_only_is_one_error_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    real = getattr(Path, step)

    def refused(self: Path, *args: Any, **kwargs: Any) -> Any:
        if tmp_path in self.parents:
            raise OSError(code, os.strerror(code))
        return real(self, *args, **kwargs)

    execute(config(tmp_path / "elsewhere"))  # so that the images are in the cache
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, refused)
        with pytest.raises(
            RecordError, match=rf"cannot write .*\.json: {os.strerror(code)}; free space or choose another folder"
        ) as caught:
            execute(config(tmp_path / "results"))
    assert "\n" not in str(caught.value)
    assert {path.name for path in (tmp_path / "results").rglob("*") if path.is_file()} <= {".lock"}


def test_a_corrupt_image_fails_the_run_and_is_named_in_its_record(tmp_path: Path) -> None:
    from PIL import Image

    for split, count in (("train", 5), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "pets" / split / name / f"{index}.png")
    broken = tmp_path / "pets" / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    record, _ = execute(config(tmp_path / "results", task=f"folder:{tmp_path / 'pets'}"))
    assert record.status == "failed" and str(broken) in (record.error or "")


def test_too_few_images_for_the_shots_fail_the_run_and_name_the_class(tmp_path: Path) -> None:
    record, _ = execute(config(tmp_path, "zero_shot", "protocol.shots=100"))
    assert record.status == "failed"
    assert "fewer than protocol.shots=100; lower the shots" in (record.error or "")


def test_a_record_that_was_cut_short_is_run_again(tmp_path: Path) -> None:
    words = ["method=zero_shot", "task=mini/digits", f"out={tmp_path}", "threads=1"]
    _, path = execute(resolve(words))
    assert plan(words).runs[0].state == "done"
    path.write_text(json.dumps(json.loads(path.read_text()))[:-30])
    assert plan(words).runs[0].state == "missing"
