"""Selection files in the format of the released code."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import torch

from petlbench.errors import CheckpointError
from petlbench.methods.spt.candidates import candidates
from petlbench.methods.spt.release_file import read, write
from petlbench.methods.spt.selection import Rule, Selection
from tests.methods.spt.sizes import on_meta, start, tiny

RULE = Rule(class_token=16, rank=2, unit=3000)
WHOLE = {"blocks.0.attn.v.weight": 200, "blocks.1.mlp.fc2.weight": 200, "blocks.0.norm2.bias": 9, "blocks.1.mlp.fc1.bias": 40}
SINGLE = {"blocks.0.norm1.weight": [0, 2], "blocks.0.attn.proj.weight": [255], "blocks.1.attn.q.bias": [1], "norm.bias": [15]}


def selection() -> Selection:
    positions = [start(tiny(), name) + torch.arange(count) for name, count in WHOLE.items()]
    positions += [start(tiny(), name) + torch.tensor(flat) for name, flat in SINGLE.items()]
    return Selection.of(tiny(), RULE, torch.cat(positions))


def content() -> dict[str, Any]:
    """The selection as the released code writes it, spelled out."""
    rest = OrderedDict((candidate.name, torch.Size(candidate.shape)) for candidate in tiny() if candidate.name not in WHOLE)
    # weights of whole tensors before each, which the positions leave out
    skipped = {"blocks.0.norm1.weight": 0, "blocks.0.attn.proj.weight": 256, "blocks.1.attn.q.bias": 272, "norm.bias": 1360}
    return {
        "tuned_matrices": [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]],
        "tuned_vectors": ["blocks.0.norm2.bias", "blocks.1.mlp.fc1.bias"],
        "unstructured_name_shapes": rest,
        "unstructured_name_shapes_int": OrderedDict((name, np.int64(shape.numel())) for name, shape in rest.items()),
        "unstructured_indexes": torch.tensor(
            [start(tiny(), name) - skipped[name] + position for name, flat in SINGLE.items() for position in flat]
        ),
        "unstructured_params": 5,
        "structured_params": np.int64(64 + 160 + 16 + 64),
        "params": np.float32((5 + 304 + 16) / 3000),
    }


def saved(path: Path, **changes: Any) -> Path:
    torch.save(content() | changes, path)
    return path


def assert_equal(found: Selection, expected: Selection) -> None:
    assert torch.equal(found.structured, expected.structured)
    assert torch.equal(found.positions, expected.positions)
    assert (found.candidates, found.rule) == (expected.candidates, expected.rule)


def test_a_file_of_the_release_is_read(tmp_path: Path) -> None:
    assert_equal(read(saved(tmp_path / "param_req_0.1.pth"), tiny(), RULE), selection())


def test_what_is_written_is_what_the_release_writes(tmp_path: Path) -> None:
    write(tmp_path / "own.pth", selection())
    found, expected = torch.load(tmp_path / "own.pth", weights_only=True), content()
    assert list(found) == list(expected)
    assert torch.equal(found.pop("unstructured_indexes"), expected.pop("unstructured_indexes"))
    expected["params"] = float(expected["params"])  # a numpy scalar would hide what lies beyond its precision
    assert found == expected
    assert [type(value) for value in found.values()][:4] == [list, list, OrderedDict, OrderedDict]


@pytest.mark.parametrize("count", [0, 300, 3000])
def test_a_selection_survives_being_written_and_read(count: int, tmp_path: Path) -> None:
    size = sum(candidate.size for candidate in tiny())
    expected = Selection.of(tiny(), RULE, torch.randperm(size, generator=torch.Generator().manual_seed(count))[:count])
    write(tmp_path / "own.pth", expected)
    assert_equal(read(tmp_path / "own.pth", tiny(), RULE), expected)


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_numpy_scalars_are_read_under_the_names_of_numpy_1_and_2(package: bytes, tmp_path: Path) -> None:
    path, old = saved(tmp_path / "own.pth"), tmp_path / "named.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, data.replace(b"numpy._core.multiarray", package + b".multiarray"))
    assert package + b".multiarray\nscalar" in old.read_bytes()
    assert_equal(read(old, tiny(), RULE), selection())


class Planted:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch planted",)


@pytest.mark.parametrize(
    "value", [Planted(), Path("x"), np.array([1, 2]), np.array(["a"], dtype=object)], ids=["code", "object", "array", "objects"]
)
def test_other_objects_are_refused_and_nothing_is_run(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "foreign.pth", params=value)
    with pytest.raises(
        CheckpointError, match=r"foreign\.pth: not a selection file of the SPT release, or one that holds more than numbers"
    ):
        read(path, tiny(), RULE)
    assert not (tmp_path / "planted").exists()


def test_what_reading_allows_is_allowed_for_that_file_only(tmp_path: Path) -> None:
    path = saved(tmp_path / "own.pth")
    read(path, tiny(), RULE)
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        torch.load(path, weights_only=True)


def test_positions_may_stand_in_any_order(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", unstructured_indexes=content()["unstructured_indexes"].flip(0))
    assert_equal(read(path, tiny(), RULE), selection())


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in content().items() if name != key}


@pytest.mark.parametrize(
    ("write_file", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"not a file of torch"), "not a selection file of the SPT release"),
        (lambda path: path.write_bytes(b""), "not a selection file of the SPT release"),
        (lambda path: torch.save([1, 2], path), "it lacks tuned_matrices, tuned_vectors"),
        (lambda path: torch.save(without("tuned_vectors"), path), "it lacks tuned_vectors$"),
    ],
)
def test_a_file_that_is_no_selection_is_named(write_file: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    write_file(path)
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{message}"):
        read(path, tiny(), RULE)


def shapes(**changes: Any) -> OrderedDict[str, Any]:
    return OrderedDict((name, changes.get(name.replace(".", "_"), shape)) for name, shape in content()["unstructured_name_shapes"].items())


MASKS = content()["tuned_matrices"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tuned_matrices": [*MASKS, [0] * 6]},
            "tuned_matrices must be 2 lists, one per block of this backbone, of 6 zeros or ones; got 3",
        ),
        ({"tuned_matrices": [MASKS[0], [0] * 5]}, "of 6 zeros or ones"),
        ({"tuned_matrices": [MASKS[0], [0] * 5 + [2]]}, "of 6 zeros or ones"),
        ({"tuned_matrices": 7}, "not in the layout of a selection file of the SPT release"),
        ({"tuned_vectors": ["blocks.0.ls1.gamma"]}, "tuned_vectors names blocks.0.ls1.gamma, which is no bias or norm of this backbone"),
        ({"tuned_vectors": ["blocks.0.attn.q.weight"]}, "tuned_vectors names blocks.0.attn.q.weight"),
        ({"unstructured_name_shapes": shapes(norm_bias=torch.Size([17]))}, r"entry 29 is norm.bias \(17,\), expected norm.bias \(16,\)"),
        ({"unstructured_name_shapes": OrderedDict(list(shapes().items())[:-1])}, r"entry 29 is no more, expected norm.bias \(16,\)"),
        ({"unstructured_name_shapes": OrderedDict(reversed(shapes().items()))}, r"entry 0 is norm.bias \(16,\), expected blocks.0.norm1"),
        ({"tuned_vectors": ["blocks.0.norm2.bias"]}, "does not fit this backbone and the file's own masks"),
        ({"unstructured_name_shapes_int": OrderedDict(norm=3)}, "unstructured_name_shapes_int does not fit"),
        ({"unstructured_indexes": torch.tensor([5232])}, r"unstructured_indexes must be int64 numbers in \[0, 5,232\)"),
        ({"unstructured_indexes": torch.tensor([-1])}, "unstructured_indexes must be int64 numbers"),
        ({"unstructured_indexes": torch.tensor([0.5])}, "unstructured_indexes must be int64 numbers"),
        ({"unstructured_indexes": torch.tensor([4, 4])}, "positions must rise"),
        ({"unstructured_indexes": "none"}, "not in the layout of a selection file of the SPT release"),
        (
            {"unstructured_params": 6},
            "unstructured_params is 6 in the file and 5 by its own masks for lora modules of rank 2; set method.module",
        ),
        ({"structured_params": 305}, "structured_params is 305 in the file and 304 by its own masks"),
        ({"params": np.float32(0.1086)}, "params is 0.108600 in the file and 0.108333 by its own masks with a class token of 16"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"file\.pth: .*{message}"):
        read(saved(tmp_path / "file.pth", **change), tiny(), RULE)


@pytest.mark.parametrize("change", [{"depth": 3}, {"embed_dim": 24}, {"qkv_bias": False}])
def test_a_file_for_another_backbone_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this backbone"):
        read(saved(tmp_path / "file.pth"), tuple(candidates(on_meta(**change))), RULE)


@pytest.mark.parametrize("change", [{"module": "adapter"}, {"rank": 8}])
def test_a_file_for_other_modules_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"set method\.module and method\.rank"):
        read(saved(tmp_path / "file.pth"), tiny(), Rule(**{"class_token": 16, "rank": 2, "unit": 3000, **change}))
