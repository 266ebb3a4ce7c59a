"""Checkpoints and predictions as safetensors: no pickle, and the configuration is inside the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from petlbench.errors import CheckpointError

_CLASS_NAMES = TypeAdapter(tuple[str, ...] | None)


@dataclass(frozen=True)
class Checkpoint:
    """Learned tensors, the resolved configuration of the run that learned them, the checksum of its backbone and the names of the classes in order."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    backbone_sha256: str
    class_names: tuple[str, ...] | None = None  # None: the file is older than this entry


def packed_checkpoint(
    state: dict[str, Tensor], config: dict[str, Any], backbone_sha256: str, class_names: tuple[str, ...] | None = None
) -> bytes:
    """Return the content of a checkpoint file."""
    metadata = {"format": "petlbench-1", "config": json.dumps(config), "backbone_sha256": backbone_sha256}
    if class_names is not None:
        metadata["class_names"] = json.dumps(class_names)
    return save({name: tensor.contiguous() for name, tensor in state.items()}, metadata)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. CheckpointError when the file is not one, or holds weights that are not finite."""
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without an end
        raise CheckpointError(f"{path}: not a readable safetensors file (no regular file)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: a name that no file can have
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != "petlbench-1":
        raise CheckpointError(f"{path}: a safetensors file, but not a petlbench checkpoint; make one with petlbench run … save=true")
    check_finite(state, path)
    try:
        names = _CLASS_NAMES.validate_json(metadata.get("class_names", "null"))
        return Checkpoint(state, _configuration(metadata["config"]), metadata["backbone_sha256"], names)
    except ValidationError:
        raise CheckpointError(f"{path}: its names of classes are no list of texts; make the checkpoint again") from None
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be read ({error}); make the checkpoint again") from None


def _configuration(text: str) -> dict[str, Any]:
    """Parse a stored configuration. ValueError for anything but a JSON object."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected keys and values, got {text[:40]}")
    return found


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """CheckpointError that names the first tensor with a NaN or an infinity: scores of such weights would still have an accuracy."""
    for name, tensor in state.items():
        values = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor  # 8 bits have no isfinite
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite (NaN or infinity); train again")


def packed_predictions(predicted: Tensor, labels: Tensor) -> bytes:
    """Return the content of the file with predicted and true classes (N,) of the test split, from which every metric can be computed again."""
    return save({"predicted": predicted.to(torch.int32), "labels": labels.to(torch.int32)})
