"""A checkpoint is data: what it holds can neither lead anywhere on the machine that opens it nor pass for a result."""

from __future__ import annotations

import copy
import functools
import json
import operator
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from petlbench.checkpoints.evaluate import evaluate_checkpoint
from petlbench.checkpoints.file import Checkpoint
from petlbench.errors import CheckpointError
from petlbench.learners.base import load_into
from tests.conftest import Call
from tests.deployed import learned
from tests.words import resolve

CONFIG = resolve(["method=linear", "task=mini/digits"]).identity
EVALUATE, EXPORT = ("evaluate", "{file}", "threads=1"), ("export", "{file}", "{target}")


@pytest.fixture(scope="module")
def saved() -> Checkpoint:
    return learned(method="linear")


def changed(key: str, value: Any) -> dict[str, Any]:
    """The stored configuration with another value."""
    config = copy.deepcopy(CONFIG)
    *path, last = key.split("/")
    functools.reduce(operator.getitem, path, config)[last] = value
    return config


def refusals(call: Call, folder: Path, saved: Checkpoint, config: Any, state: dict[str, Tensor] | None = None, *words: str) -> list[str]:
    """The lines of ``evaluate`` and ``export`` for a file of this configuration, as an object or as JSON."""
    path = folder / "a.safetensors"
    text = config if isinstance(config, str) else json.dumps(config)
    metadata = {"format": "petlbench-1", "config": text, "backbone_sha256": saved.backbone_sha256}
    save_file(saved.state if state is None else state, path, metadata)
    lines = []
    for command in (EVALUATE, EXPORT):
        code, out, err = call(*(word.format(file=path, target=folder / "target") for word in command), *words)
        assert (code, out) == (2, "") and err.startswith(f"petlbench: {path}: ") and err.count("\n") == 1, err
        lines.append(err)
    assert not (folder / "target").exists()
    return lines


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", "http://127.0.0.1:1/${oc.env:PETLBENCH_TOKEN}"),
        ("out", "elsewhere"),
        ("data_root", "/"),
        ("execution", {"url": "http://127.0.0.1:1"}),
        ("backbone/url", "http://127.0.0.1:1"),
        ("backbone.url", "http://127.0.0.1:1"),
        ("method/name", "${oc.env:PETLBENCH_TOKEN}"),
        ("method/name", None),
        ("method/name", {"a": 1}),
        ("method", ["linear"]),
        ("recipe", "../../secret"),
        ("recipe", {"a": 1}),
        ("task", {"a": 1}),
        ("seed", float("nan")),
        ("train/epochs", {"a": [1]}),
    ],
)
def test_only_what_a_run_is_comes_from_a_file(
    key: str, value: Any, saved: Checkpoint, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETLBENCH_TOKEN", "s3cret")
    for line in refusals(call, tmp_path, saved, changed(key, value)):
        assert "s3cret" not in line


def test_a_served_model_is_looked_for_at_an_address_that_is_typed_only(saved: Checkpoint, tmp_path: Path, call: Call) -> None:
    path, config = tmp_path / "a.safetensors", changed("backbone/name", "remote:http://127.0.0.1:1")
    save_file(saved.state, path, {"format": "petlbench-1", "config": json.dumps(config), "backbone_sha256": saved.backbone_sha256})
    for words in (("evaluate", str(path)), ("export", str(path), str(tmp_path / "target"))):
        code, out, err = call(*words)
        assert (code, out) == (2, "") and "is a served model; add its address, url=http://HOST:PORT" in err


def test_text_in_a_file_is_never_replaced_by_a_variable(saved: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLBENCH_TOKEN", "s3cret")
    config = changed("protocol/name", "${oc.env:PETLBENCH_TOKEN}")
    assert evaluate_checkpoint(Checkpoint(saved.state, config, saved.backbone_sha256), {"threads": 1})["samples"] == 500


@pytest.mark.parametrize("config", ["[]", '"text"', "3", "null", "[" * 100_000, '{"seed": ' + "9" * 5000 + "}", '{"a":' * 100_000])
def test_a_configuration_that_is_no_mapping_is_named(config: str, saved: Checkpoint, tmp_path: Path, call: Call) -> None:
    for line in refusals(call, tmp_path, saved, config):
        assert "its configuration cannot be read" in line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("backbone/checkpoint", "/etc/passwd", "add backbone.checkpoint=PATH"),
        ("backbone/checkpoint", "http://127.0.0.1:1/a.pth", "add backbone.checkpoint=PATH"),
        ("task", "csv:{fifo}", "add task=csv:PATH"),
        ("task", "folder:/", "add task=folder:PATH"),
        ("task", "mini/digits+folder:/", "add task=folder:PATH"),
    ],
)
def test_a_file_does_not_choose_what_is_read_here(
    key: str, value: str, expected: str, saved: Checkpoint, tmp_path: Path, call: Call
) -> None:
    os.mkfifo(tmp_path / "fifo")
    value = value.format(fifo=tmp_path / "fifo")
    named = f"{key.replace('/', '.')}={value.removeprefix('mini/digits+')}"
    for line in refusals(call, tmp_path, saved, changed(key, value)):
        assert f"it names {named}, and files of this machine are read only where you name them; {expected}" in line


def test_a_place_that_is_typed_again_is_read(saved: Checkpoint, tmp_path: Path, call: Call) -> None:
    config = changed("backbone/checkpoint", "/etc/passwd")
    for line in refusals(call, tmp_path, saved, config, None, f"backbone.checkpoint={tmp_path / 'absent.pth'}"):
        assert "absent.pth: no such file" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_have_no_accuracy(value: float, saved: Checkpoint, tmp_path: Path, call: Call) -> None:
    state = saved.state | {"head.weight": saved.state["head.weight"].index_fill(0, torch.tensor(3), value)}
    for line in refusals(call, tmp_path, saved, CONFIG, state):
        assert "head.weight holds values that are not finite (NaN or infinity)" in line


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_another_number_format_is_named_and_not_rounded(dtype: torch.dtype, saved: Checkpoint, tmp_path: Path, call: Call) -> None:
    state = saved.state | {"head.bias": saved.state["head.bias"].to(dtype)}
    for line in refusals(call, tmp_path, saved, CONFIG, state):
        assert f"head.bias holds {str(dtype).removeprefix('torch.')} in the checkpoint, expected float32" in line


def test_nothing_is_copied_from_a_state_that_does_not_fit() -> None:
    target = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(CheckpointError, match="b holds float64"):
        load_into(target, {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float64)})
    assert not target["a"].any()


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_what_is_no_regular_file_is_not_waited_for(command: str, tmp_path: Path, call: Call) -> None:
    os.mkfifo(tmp_path / "fifo")
    words = [str(tmp_path / "target")] if command == "export" else []
    code, out, err = call(command, str(tmp_path / "fifo"), *words)
    assert (code, out) == (2, "") and "fifo: not a readable safetensors file (no regular file)" in err
