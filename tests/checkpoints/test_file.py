"""Write checkpoints and predictions to disk and read them back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.evaluate import evaluate_checkpoint
from petlbench.checkpoints.file import Checkpoint, packed_checkpoint, packed_predictions, read_checkpoint
from petlbench.errors import CheckpointError
from tests.words import resolve

CONFIG = resolve(["method=linear", "task=mini/digits"]).identity
STATE = {"head.weight": torch.arange(6.0).view(2, 3).T, "head.bias": torch.zeros(3, dtype=torch.bfloat16), "steps": torch.tensor(4)}


def test_tensors_configuration_the_backbones_checksum_and_the_classes_survive(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(packed_checkpoint(STATE, CONFIG, "abc", ("dog", "cat")))
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert found.config == CONFIG and found.backbone_sha256 == "abc" and found.class_names == ("dog", "cat")
    assert all(torch.equal(found.state[name], tensor) and found.state[name].dtype == tensor.dtype for name, tensor in STATE.items())
    assert found.state.keys() == STATE.keys()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04cos\nsystem\n(S'exit'\ntR."])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{path}: not a readable safetensors file"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: not a readable"):
        read_checkpoint(tmp_path / "absent.safetensors")


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed_checkpoint(STATE, CONFIG, "abc")[:-5])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: not a readable"):
        read_checkpoint(path)


def test_tensors_of_another_program_are_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"not a petlbench checkpoint; make one with petlbench run … save=true"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("metadata", [{}, {"config": "{", "backbone_sha256": "abc"}])
def test_a_checkpoint_without_a_readable_configuration_is_named(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "petlbench-1"} | metadata)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: its configuration cannot be read"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("names", ["{", "3", '{"0": "cat"}', "[1, 2]"])
def test_names_of_classes_that_are_none_are_one_line(tmp_path: Path, names: str) -> None:
    metadata = {"format": "petlbench-1", "config": "{}", "backbone_sha256": "abc", "class_names": names}
    save_file({"w": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: its names of classes are no list of texts"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("0", "2", "1", *"3456789"),
            r"the checkpoint is for the classes 0, 2, 1, .*, mini/digits has others: the first that differs is class 2, which was '2' and is '1'",
        ),
        (tuple("01234567"), r"class 9, which was 'none' and is '8'; name a task with the same classes in the same order"),
        (("zero", *"123456789"), r"class 1, which was 'zero' and is '0'"),
    ],
)
def test_a_checkpoint_of_other_classes_or_another_order_is_refused_and_the_first_that_differs_named(
    names: tuple[str, ...], expected: str
) -> None:
    _, checksum = load_backbone_cached("mini_clip", None, torch.device("cpu"))
    with pytest.raises(CheckpointError, match=expected):
        evaluate_checkpoint(Checkpoint({}, CONFIG, checksum, names), {"threads": 1})


def test_a_checkpoint_learned_on_other_weights_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(CheckpointError, match=r"it was trained on mini_clip with weights 0000.*…, the backbone now has [0-9a-f]{12}…"):
        evaluate_checkpoint(Checkpoint({}, CONFIG, "0" * 64), {"threads": 1})


def test_predictions_are_stored_with_their_labels() -> None:
    stored = load(packed_predictions(torch.tensor([1, 2, 0]), torch.tensor([1, 1, 0])))
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {"predicted": [1, 2, 0], "labels": [1, 1, 0]}
