"""Collect the results of a run as it proceeds, and write its record whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from petlbench.access.meter import Meter
from petlbench.config.files import suite_of
from petlbench.config.identity import to_identity
from petlbench.config.resolve import RunConfig
from petlbench.data.content import published_text
from petlbench.learners.cost import Stopwatch
from petlbench.method import Method
from petlbench.records import provenance, schema
from petlbench.records.store import RecordStore, side_file


def record_path(config: RunConfig) -> Path:
    """Return the path of a run's record, whether it exists or not."""
    store = RecordStore(Path(config.execution.out))
    return store.path(config.published_task, config.method, config.backbone.name, config.seed, config.run_id)


@dataclass
class RunLog:
    """The results of a run so far."""

    config: RunConfig
    method: Method
    device: torch.device
    meter: Meter
    clock: Stopwatch
    precision: str  # number format
    status: str = "ok"  # or "budget"; failures are passed to ``write``
    history: list[schema.Epoch] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)  # of the record, as they become known
    cost: dict[str, Any] = field(default_factory=dict)  # fields of Cost
    files: dict[Path, bytes] = field(default_factory=dict)  # that a record with a result names

    def keep(self, kind: str, content: bytes, folder: Path | None = None) -> Path:
        """Add a file to be written with the record, beside it or in another folder; returns its path."""
        backbone = self.fields.get("backbone")
        revision, weights = self.fields.get("task_revision", ""), backbone.sha256 if backbone else ""
        record = RecordStore(Path(self.config.execution.out)).path_for(record_path(self.config), revision, weights)
        beside = side_file(record, kind, content)
        path = beside if folder is None else folder / beside.name
        self.files[path] = content
        return path

    def write(self, status: str, error: str | None = None) -> tuple[schema.Record, Path]:
        """Write the record; returns it and its path. The result of an earlier run is never replaced by a record without one.

        The returned record has the error as it was raised, for this user to act on; the written one names none of the user's folders.
        """
        error = error or self.fields.get("error")
        config, identity, seconds = self.config, self.config.identity, self.clock.seconds
        known: dict[str, Any] = {
            "run_id": config.run_id,
            "status": self.status if status == "ok" else status,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": suite_of(config.task),
            "task": config.published_task,
            "protocol": schema.ProtocolId(id=config.protocol_id, settings=to_identity(config.protocol)),
            "selection": config.protocol.selection,
            "backbone": schema.BackboneId(name=config.backbone.name, sha256="", parameters=0),
            "method": schema.Method(
                name=config.method,
                plugin=config.plugin,
                access=self.method.access.name,
                access_seen=None if self.meter.seen is None else self.meter.seen.name,
                config={key: value for key, value in identity["method"].items() if key not in ("name", "plugin")},
                cite=self.method.cite,
            ),
            "seed": config.seed,
            "hyperparameters": config.hyperparameters,
            "config": identity,
            "code": provenance.code(),
            "environment": provenance.environment(self.device, self.precision),
            "cost": schema.Cost(
                train_seconds=seconds.get("train", 0.0),
                eval_seconds=seconds.get("eval", 0.0),
                total_seconds=seconds.get("total", 0.0),
                queries={phase: schema.QueryCount(**counts) for phase, counts in self.meter.counts.items()},
                **self.cost,
            ),
            "history": self.history,
        }
        record = schema.Record(**(known | self.fields | ({"error": published_text(error, config)} if error else {})))
        if not record.has_result:
            record = record.model_copy(update={"metrics": None, "predictions": None, "token_usage": None, "checkpoint": None})
        path = RecordStore(Path(config.execution.out)).write(record, self.files if record.has_result else {})
        return (record.model_copy(update={"error": error}) if error else record), path
