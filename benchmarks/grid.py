"""A results folder in which every run of a grid is done, without computing any: valid records with predictions, of the size of real ones."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from petlbench import api
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.file import packed_predictions
from petlbench.config.files import suite_of
from petlbench.config.identity import to_identity
from petlbench.config.resolve import RunConfig
from petlbench.data.load import find_task
from petlbench.records import provenance, schema
from petlbench.records.store import side_file
from petlbench.registry import METHODS
from petlbench.runs.log import record_path

SAMPLES = 1000  # test images of a run


def fill(out: Path, methods: str, tasks: str, seeds: int) -> int:
    """Write the record and the predictions of every run of a grid; return how many runs that are."""
    planned = api.plan(methods, tasks, range(seeds), {"out": str(out)})
    for run in planned.runs:
        _write(run.config)
    return len(planned.runs)


def _write(config: RunConfig) -> None:
    labels = torch.arange(SAMPLES) % 10
    right = 500 + (int(config.run_id, 16) % 400)
    predicted = torch.where(torch.arange(SAMPLES) < right, labels, (labels + 1) % 10)
    content = packed_predictions(predicted, labels)
    path = record_path(config)
    file = side_file(path, "predictions", content)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    predictions = schema.Predictions(file=file.name, sha256=hashlib.sha256(content).hexdigest())
    record = schema.Record(**_fields(config), predictions=predictions, metrics=_metrics(right))
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _fields(config: RunConfig) -> dict[str, Any]:
    plugin, identity = METHODS.get(config.plugin), config.identity
    epochs = [schema.Epoch(epoch=epoch, loss=1 / (1 + epoch), learning_rate=1e-3) for epoch in range(20)]
    return {
        "run_id": config.run_id,
        "status": "ok",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": suite_of(config.task),
        "task": config.published_task,
        "task_revision": _revision(config.task),
        "class_count": 10,
        "protocol": schema.ProtocolId(id=config.protocol_id, settings=to_identity(config.protocol)),
        "selection": config.protocol.selection,
        "backbone": schema.BackboneId(name=config.backbone.name, sha256=_weights(config.backbone.name), parameters=1_200_000),
        "method": schema.Method(
            name=config.method,
            plugin=config.plugin,
            access=plugin.access.name,
            config={key: value for key, value in identity["method"].items() if key not in ("name", "plugin")},
            cite=plugin.cite,
        ),
        "seed": config.seed,
        "hyperparameters": config.hyperparameters,
        "config": identity,
        "code": provenance.code(),
        "environment": _environment(),
        "parameters": schema.Parameters(trainable=10_000, head=1290, stored_bytes=45_160, backbone=1_200_000),
        "cost": schema.Cost(train_seconds=9.0, eval_seconds=1.0, total_seconds=10.0 + config.seed % 7, images_forwarded=20_000),
        "history": epochs,
    }


def _metrics(right: int) -> schema.Metrics:
    share = right / SAMPLES
    return schema.Metrics(accuracy=100 * share, samples=SAMPLES, standard_error=100 * (share * (1 - share) / SAMPLES) ** 0.5)


@cache
def _revision(task: str) -> str:
    return find_task(task).revision


@cache
def _weights(backbone: str) -> str:
    return load_backbone_cached(backbone, None, torch.device("cpu"))[1]


@cache
def _environment() -> schema.Environment:
    return provenance.environment(torch.device("cpu"), "fp32")
