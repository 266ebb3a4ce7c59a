"""The file that an unfinished run leaves: tensors as safetensors, all else as JSON in its metadata, and a hash over both. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from petlbench.errors import RecordError
from petlbench.optim.steps import State
from petlbench.records.regular_file import read_regular

FORMAT = "petlbench-unfinished-1"


def packed_state(identity: Mapping[str, str], state: State) -> bytes:
    """Return the content of a file. TypeError when a state holds something else than tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps([dict(identity), _described(state, tensors)])
    return save(tensors, {"format": FORMAT, "state": text, "sha256": _seal(text, tensors)})


def read_state(path: Path) -> tuple[dict[str, str], State]:
    """Return identity and state of a file. RecordError when it is damaged or something else."""
    try:
        content = read_regular(path)
        tensors, metadata = load(content), _metadata(content)
        if metadata.get("format") != FORMAT or metadata.get("sha256") != _seal(text := metadata["state"], tensors):
            raise ValueError("it is damaged")
        identity, described = json.loads(text)
        return dict(identity), _restored(described, tensors)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise RecordError(f"{path}: {error}") from None


def _metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata of a safetensors document, of which the first 8 bytes say how long it is."""
    return dict(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"])


def _seal(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(value: State, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, with names in place of its tensors: containers are marked by what they are, so that keys and tuples stay what they are."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # no two share memory
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"map": [[key, _described(one, tensors)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_described(one, tensors) for one in value]}
    if isinstance(value, list):
        return [_described(one, tensors) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state can hold tensors, numbers, texts, lists, tuples and dicts of them, not {type(value).__name__}")


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> State:
    if isinstance(value, list):
        return [_restored(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, what),) = value.items()
    if kind == "tensor":
        return tensors[what]
    if kind == "tuple":
        return tuple(_restored(one, tensors) for one in what)
    return {key: _restored(one, tensors) for key, one in what}
