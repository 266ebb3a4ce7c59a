"""Checkpoints and predictions as safetensors: no pickle, and the configuration is inside the file."""

from __future__ import annotations

import json
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
    """Read a checkpoint. CheckpointError when the file is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != "petlbench-1":
        raise CheckpointError(f"{path}: a safetensors file, but not a petlbench checkpoint; make one with petlbench run … save=true")
    try:
        names = _CLASS_NAMES.validate_json(metadata.get("class_names", "null"))
        return Checkpoint(state, json.loads(metadata["config"]), metadata["backbone_sha256"], names)
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be read ({error}); make the checkpoint again") from None
    except ValidationError:
        raise CheckpointError(f"{path}: its names of classes are no list of texts; make the checkpoint again") from None


def packed_predictions(predicted: Tensor, labels: Tensor) -> bytes:
    """Return the content of the file with predicted and true classes (N,) of the test split, from which every metric can be computed again."""
    return save({"predicted": predicted.to(torch.int32), "labels": labels.to(torch.int32)})
