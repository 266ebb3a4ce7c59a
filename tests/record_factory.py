"""Make records without a run."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petlbench.checkpoints.file import packed_predictions
from petlbench.config.identity import protocol_id, run_id
from petlbench.records import schema
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore

TASKS = ("mini/digits", "mini/shapes", "mini/textures", "mini/colours", "mini/letters", "mini/counting")
SUITES = {"mini": TASKS}
PROTOCOL = "native-1a2b3c4d"
PREDICTED, LABELS = torch.tensor([0, 1, 2, 0] * 50), torch.tensor([0, 1, 1, 0] * 50)

# name -> access, trainable parameters, typical accuracy
METHODS: Mapping[str, tuple[str, int, float]] = {
    "zero_shot": ("SCORES", 0, 41.0),
    "bar": ("SCORES", 37_632, 44.5),
    "vp_spsa": ("SCORES", 69_840, 45.2),
    "blackvip": ("SCORES", 9_913, 49.3),
    "bbt": ("CONTEXT", 2_048, 52.8),
    "craft": ("CONTEXT", 19_968, 58.1),
    "linear_probe": ("FEATURES", 0, 71.4),
    "vp": ("GRADIENTS", 69_840, 63.0),
    "pgn": ("GRADIENTS", 1_270_000, 72.6),
    "bitfit": ("WEIGHTS", 25_344, 80.1),
    "vpt_deep": ("WEIGHTS", 92_160, 82.9),
    "adapter": ("WEIGHTS", 154_368, 83.5),
    "lora": ("WEIGHTS", 147_456, 83.9),
    "full": ("WEIGHTS", 21_700_000, 82.0),
}


def make_record(
    method: str = "lora",
    task: str = TASKS[0],
    seed: int = 0,
    accuracy: float = 80.0,
    *,
    access: str | None = None,
    settings: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    backbone: str = "mini_clip",
    weights: str = "c0ffee00" * 8,
    protocol: str = PROTOCOL,
    selection: str = "last",
    revision: str = "r1",
    status: schema.Status = "ok",
    trainable: int | None = None,
    allocation: Mapping[str, int] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    queries: int = 1200,
    access_seen: str | None = None,
    curve: Sequence[tuple[int, int, float]] = (),
) -> Record:
    """A valid record. ``settings`` are the method's, ``train`` the training recipe's; both become part of the run id.

    ``curve``: images and contexts sent and the accuracy then.
    """
    rung, size, _ = METHODS.get(method, ("WEIGHTS", 1000, 0.0))
    rung, size = access or rung, size if trainable is None else trainable
    config = {
        "task": task,
        "method": {"name": method, "plugin": method, **(settings or {})},
        "backbone": {"name": backbone, "checkpoint": None},
        "protocol": {"name": protocol, "selection": selection},
        "train": {"epochs": 20, "learning_rate": 1e-3, **(train or {})},
        "budget": {"images": None},
        "seed": seed,
        "precision": "auto",
    }
    is_finished = status in ("ok", "budget")
    phases = {"train": schema.QueryCount(calls=8, images=queries - 200), "test": schema.QueryCount(calls=2, images=200)}
    return Record(
        run_id=run_id(config),
        status=status,
        error=None if is_finished else "the loss is no longer finite",
        created=created,
        suite=task.partition("/")[0],
        task=task,
        task_revision=revision,
        class_count=3,
        protocol=schema.ProtocolId(id=protocol, settings={"selection": selection}),
        selection=selection,
        backbone=schema.BackboneId(name=backbone, sha256=weights, parameters=22_000_000),
        method=schema.Method(name=method, plugin=method, access=rung, access_seen=access_seen or rung, config=dict(settings or {})),
        seed=seed,
        config=config,
        code=schema.Code(version="0.1.0", commit="0123456789abcdef", is_dirty=False),
        environment=schema.Environment(python="3.11", platform="linux", device="cpu", threads=1, precision="fp32", packages={}),
        parameters=schema.Parameters(
            trainable=size, head=1930, stored_bytes=4 * size + 7720, backbone=22_000_000, allocation=dict(allocation or {})
        ),
        cost=schema.Cost(
            train_seconds=12.5 + seed,
            total_seconds=15.0 + seed,
            run_memory_mb=100.0 + seed,
            peak_memory_mb=800.0 + seed,
            images_forwarded=5000 if rung == "WEIGHTS" else queries,
            queries=phases if rung != "WEIGHTS" else {},
        ),
        curve=[schema.CurvePoint(images=images, contexts=contexts, accuracy=reached) for images, contexts, reached in curve],
        metrics=schema.Metrics(accuracy=accuracy, samples=200, standard_error=2.8) if is_finished else None,
    )


def make_grid(methods: Sequence[str] = tuple(METHODS), tasks: Sequence[str] = TASKS, seeds: Sequence[int] = (0, 1, 2)) -> list[Record]:
    """Plausible records of methods x tasks x seeds, the same on every call."""
    noise = random.Random(0)
    difficulty = {task: noise.uniform(-14, 12) for task in tasks}
    records = []
    for method in methods:
        for task in tasks:
            typical = METHODS[method][2] + difficulty[task] + noise.gauss(0, 4)
            records += [make_record(method, task, seed, min(99.5, max(5.0, typical + noise.gauss(0, 1.2)))) for seed in seeds]
    return records


def store_record(results: Path, predicted: Tensor = PREDICTED, labels: Tensor = LABELS, **options: Any) -> Path:
    """Write a record in which nothing contradicts anything, with its predictions; 75 % right unless others are given."""
    accuracy = 100 * (predicted == labels).double().mean().item()
    record = make_record(accuracy=accuracy, **options)
    path = RecordStore(results).path_of(record)
    file, content = path.with_suffix(".predictions.safetensors"), packed_predictions(predicted, labels)
    evidence = {
        "predictions": schema.Predictions(file=file.name, sha256=hashlib.sha256(content).hexdigest()),
        "protocol": schema.ProtocolId(id=protocol_id(record.config["protocol"]), settings=record.config["protocol"]),
        "metrics": schema.Metrics(accuracy=accuracy, samples=200, standard_error=math.sqrt(accuracy * (100 - accuracy) / 200)),
    }
    return RecordStore(results).write(record.model_copy(update=evidence), {file: content})
