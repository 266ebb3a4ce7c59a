"""Bad input on the command line: one line that names what is wrong, no traceback, an exit code that a script can use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from petlbench.checkpoints.file import packed_checkpoint, read_checkpoint
from petlbench.records.schema import read_record
from petlbench.records.store import RecordStore
from tests.conftest import Call

RUN = ("run", "method=zero_shot", "task=mini/digits", "threads=1")


def pets(root: Path) -> Path:
    """A small image folder in good order."""
    for split, count in (("train", 5), ("test", 1)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(root / split / name / f"{index}.png")
    return root


def assert_refused(result: tuple[int, str, str], *expected: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("petlbench: ") and err.count("\n") == 1 and err.endswith("\n")
    for text in expected:
        assert text in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "method=lroa", "task=mini/digits"), "no method 'lroa'. Did you mean 'lora'?"),
        ((*RUN, "recipe=noha"), "no recipe 'noha'. Did you mean 'noah'? (petlbench ls recipes lists all)"),
        (("run", "method=lora", "task=mini/digit"), "no task 'mini/digit'. Did you mean 'mini/digits'?"),
        ((*RUN, "backbone=mini_clap"), "no backbone 'mini_clap'. Did you mean 'mini_clip'?"),
        ((*RUN, "trian.epochs=3"), "unknown key 'trian'. Did you mean 'train'?"),
        ((*RUN, "train.epoch=3"), "unknown key 'train.epoch'. Did you mean 'epochs'?"),
        (("run", "method=lora", "task=mini/digits", "method.rank=eight"), "method.rank must be an int, got 'eight' (command line)"),
        ((*RUN, "device=tpu"), "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ((*RUN, "epochs"), "'epochs' is not of the form key=value"),
        (("run", "task=mini/digits"), "method=NAME is missing"),
        (("bench", "method=all", "task=minni"), "no suite or task 'minni'. Did you mean 'mini'?"),
        (("bench", "method=lroa"), "no method 'lroa'. Did you mean 'lora'?"),
        (("bench", "seeds=a,b"), "seeds must be whole numbers such as 0,1,2, got 'a,b'"),
        (("plan", "method=lroa"), "no method 'lroa'"),
        (("evaluate", "absent.safetensors"), "absent.safetensors: not a readable safetensors file"),
        (("leaderboard", "--out", "absent"), "run petlbench bench first"),
        (("show", "absent.json"), "absent.json: no such file"),
        (("leaderboard", "--out"), "--out needs a value, such as --out VALUE"),
        (("published", "pper=spt"), "unknown key 'pper'. Did you mean 'paper'?"),
        (
            ("export", "model.safetensors"),
            "export takes CHECKPOINT and TARGET, or no names for the table of all runs, got model.safetensors",
        ),
        (("runn",), "no command 'runn'. Did you mean 'run'?"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_two(call: Call, tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    assert_refused(call(*words), expected)
    assert not (tmp_path / "results").exists()


def test_an_empty_class_folder_is_refused(call: Call, tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    (root / "test" / "dog" / "0.png").unlink()
    assert_refused(call("run", "method=zero_shot", f"task=folder:{root}"), f"class folder {root / 'test' / 'dog'} has no images")


def test_a_results_folder_that_cannot_be_written_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(call(*RUN, "out=file/results"), "cannot write to file/results", "choose another with out=DIR")


def test_a_full_disk_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    call(*RUN, "out=elsewhere")  # so that the images are in the cache
    monkeypatch.setattr(Path, "replace", full)
    assert_refused(call(*RUN), "No space left on device; free space or choose another folder with out=DIR")


@pytest.mark.parametrize("text", ["{", '{"schema_version": 99}'])
def test_a_record_that_cannot_be_shown_is_one_line(call: Call, tmp_path: Path, text: str) -> None:
    path = tmp_path / "results" / "records" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert_refused(call("show", str(path)), str(path))


def test_a_checkpoint_of_another_shape_is_refused_by_name(call: Call, tmp_path: Path) -> None:
    code, _, err = call("run", "method=linear", "task=mini/digits", "train.epochs=1", "train.warmup_epochs=0", "threads=1", "save=true")
    assert code == 0, err
    (path,) = (tmp_path / "results" / "checkpoints").iterdir()
    other = ("evaluate", str(path), "task=mini/textures", "threads=1")
    assert_refused(call(*other), str(path), "mini/textures has others: the first that differs is class 1, which was '0' and is 'lined'")
    saved = read_checkpoint(path)
    path.write_bytes(packed_checkpoint(saved.state, saved.config, saved.backbone_sha256))  # as before names of classes were in it
    assert_refused(call(*other), str(path), "head.weight has shape (10, 128) in the checkpoint")
    assert call("evaluate", str(path), "threads=1")[0] == 0


def test_a_failing_run_has_exit_code_one_and_a_record_of_its_reason(call: Call, tmp_path: Path) -> None:
    code, out, _ = call(*RUN, "protocol.shots=1000", "--json")
    printed = json.loads(out)
    assert code == 1
    assert (printed["status"], printed["accuracy"]) == ("failed", None)
    assert read_record(tmp_path / printed["record"]).error == printed["error"]


def test_a_diverged_run_has_exit_code_one(call: Call) -> None:
    words = ("run", "method=full", "task=mini/digits", "train.learning_rate=1e30", "train.optimizer=sgd", "train.epochs=2", "threads=1")
    code, out, _ = call(*words, "train.warmup_epochs=0", "--json")
    assert (code, json.loads(out)["status"]) == (1, "diverged")


def test_an_interrupt_has_exit_code_130_and_a_cancelled_record(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("petlbench.learners.QueryLearner.predict", interrupt)
    code, _, err = call(*RUN)
    assert code == 130
    assert err.strip() == "petlbench: interrupted; what was computed is on disk, the same command continues"
    assert [record.status for record in RecordStore(tmp_path / "results").read()] == ["cancelled"]


def interrupt(*_: object) -> torch.Tensor:
    raise KeyboardInterrupt


def fail(*_: object) -> torch.Tensor:
    raise ZeroDivisionError("by nought")


def test_a_repetition_without_a_result_says_where_the_earlier_one_is(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(*RUN)[0] == 0
    (path,) = RecordStore(tmp_path / "results").paths()
    before, kept = path.read_bytes(), f"the earlier result was kept: {path.relative_to(tmp_path)}"
    monkeypatch.setattr("petlbench.learners.QueryLearner.predict", interrupt)
    assert call(*RUN)[0] == 130 and kept in caplog.text
    monkeypatch.setattr("petlbench.learners.QueryLearner.predict", fail)
    code, out, err = call(*RUN)
    assert (code, out) == (1, "") and "ZeroDivisionError: by nought" in err and kept in err
    code, out, _ = call(*RUN, "--json")
    printed = json.loads(out)
    assert (code, printed["status"], printed["kept"], printed["record"]) == (1, "failed", True, str(path.relative_to(tmp_path)))
    assert path.read_bytes() == before


def test_a_bench_whose_repeated_run_fails_keeps_its_earlier_result(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finished the run after the bench had found it missing."""
    assert call(*RUN)[0] == 0
    (path,) = RecordStore(tmp_path / "results").paths()
    before = path.read_bytes()
    monkeypatch.setattr("petlbench.runs.state.States.of", lambda self, config: ("missing", ""))
    monkeypatch.setattr("petlbench.learners.QueryLearner.predict", fail)
    code, out, err = call("bench", *RUN[1:], "--json", "--jobs", "1")
    assert code == 1 and [run["kept"] for run in json.loads(out)["runs"]] == [True]
    assert "the earlier result was kept" in " ".join(err.split()) and path.read_bytes() == before


def test_validate_finds_a_record_that_was_changed(call: Call, tmp_path: Path) -> None:
    call(*RUN)
    (path,) = RecordStore(tmp_path / "results").paths()
    assert call("validate")[0] == 0
    data = json.loads(path.read_text())
    data["metrics"]["accuracy"] = 99.9
    path.write_text(json.dumps(data))
    code, out, _ = call("validate")
    assert code == 1 and "metrics.accuracy is 99.9000, the predictions give" in out


def test_a_run_prints_exactly_one_json_object(tmp_path: Path) -> None:
    words = ("run", "method=zero_shot", "task=mini/digits", "seed=0", "threads=1", f"out={tmp_path / 'there'}", "--json")
    code = "import sys; from petlbench.cli import main; sys.argv[0] = 'petlbench'; main()"
    reply = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.count("\n") == 1
    printed = json.loads(reply.stdout)
    record = read_record(Path(printed["record"]))
    assert record.metrics is not None and printed["accuracy"] == record.metrics.accuracy > 20


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    code = "import sys, petlbench.cli as cli\ntry:\n    cli.main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    reply = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60)
    assert reply.returncode == 0 and reply.stdout
    assert reply.stderr.strip() == "False"
