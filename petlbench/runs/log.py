"""Collect the results of a run as it proceeds, and write its record whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from petlbench.access.meter import Meter
from petlbench.config.files import suite_of
from petlbench.config.identity import to_identity
from petlbench.config.resolve import RunConfig
from petlbench.data.content import published_text
from petlbench.errors import ConfigError
from petlbench.learners.cost import Stopwatch
from petlbench.method import Method
from petlbench.records import provenance, schema
from petlbench.records.store import RecordStore, side_file


def record_path(config: RunConfig) -> Path:
    """Return the path of a run's record, whether it exists or not."""
    store = RecordStore(Path(config.execution.out))
    return store.path(config.published_task, config.method, config.backbone.name, config.seed, config.run_id)


def recorded(config: RunConfig) -> list[schema.Record]:
    """Return the records of a run, one for each content that it was carried out on.

    Left out is what does not read back, is another run's, or whose files are not whole; with ``save`` these include the checkpoint. The one place
    that decides it, for ``plan``, ``bench`` and ``run``. RecordError for a record that a newer petlbench wrote, and for what cannot be replaced
    (``RecordStore.find``).
    """
    store = RecordStore(Path(config.execution.out))
    found = [(path, record) for path, record in store.records_of(record_path(config)) if _is_of(record, config)]
    return [record for path, record in found if not record.has_result or store.is_whole(record, path, config.execution.save)]


def recorded_since(config: RunConfig, moment: datetime) -> tuple[schema.Record, Path] | None:
    """Return what a run has recorded since a moment, with its path: of a process that may be gone."""
    least = moment.isoformat(timespec="seconds")
    new = [record for record in recorded(config) if record.created >= least]
    return (new[-1], RecordStore(Path(config.execution.out)).path_of(new[-1])) if new else None


def _is_of(record: schema.Record, config: RunConfig) -> bool:
    stated = (record.run_id, record.task, record.method.name, record.backbone.name, record.seed)
    return stated == (config.run_id, config.published_task, config.method, config.backbone.name, config.seed)


@dataclass
class RunLog:
    """The results of a run so far."""

    config: RunConfig
    plugin: type[Method]
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

    def check(self) -> None:
        """Refuse, before anything is computed, a run that could not be recorded: what a newer petlbench wrote stays, and a name must fit the schema."""
        recorded(self.config)
        try:
            self._as_record("cancelled", "not started", {})
        except ValidationError as error:
            raise ConfigError(f"this run cannot be recorded: {schema.first_problem(error)}") from None

    def write(self, status: str, error: str | None = None) -> tuple[schema.Record, Path]:
        """Write the record; returns it and its path. The result of an earlier run is never replaced by a record without one.

        What does not fit the schema is not written: the run has then failed for that reason. The returned record has the error as it was raised, for
        this user to act on; the written one names none of the user's folders.
        """
        error, measured = error or self.fields.get("error"), self._measured()
        try:
            record = self._as_record(self.status if status == "ok" else status, error, measured)
        except ValidationError as reason:
            error = f"a result that cannot be recorded: {schema.first_problem(reason)}"
            record = self._as_record("failed", error, {})
        if not record.has_result:
            record = record.model_copy(update={"metrics": None, "predictions": None, "token_usage": None, "checkpoint": None})
        path = RecordStore(Path(self.config.execution.out)).write(record, self.files if record.has_result else {})
        return (record.model_copy(update={"error": error}) if error else record), path

    def _measured(self) -> dict[str, Any]:
        """Return the fields of the record that the run has found so far, as plain values."""
        seconds = self.clock.seconds
        cost = {
            "train_seconds": seconds.get("train", 0.0),
            "eval_seconds": seconds.get("eval", 0.0),
            "total_seconds": seconds.get("total", 0.0),
            "queries": self.meter.counts,
            **self.cost,
        }
        return {"cost": cost, "history": self.history, **self.fields}

    def _as_record(self, status: str, error: str | None, measured: dict[str, Any]) -> schema.Record:
        config, identity = self.config, self.config.identity
        known: dict[str, Any] = {
            "run_id": config.run_id,
            "status": status,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": suite_of(config.task),
            "task": config.published_task,
            "protocol": {"id": config.protocol_id, "settings": to_identity(config.protocol)},
            "selection": config.protocol.selection,
            "backbone": {"name": config.backbone.name, "sha256": "", "parameters": 0},
            "method": {
                "name": config.method,
                "plugin": config.plugin,
                "access": (self.meter.granted or self.plugin.access).name,
                "access_seen": None if self.meter.seen is None else self.meter.seen.name,
                "config": {key: value for key, value in identity["method"].items() if key not in ("name", "plugin")},
                "cite": self.plugin.cite,
            },
            "seed": config.seed,
            "hyperparameters": config.hyperparameters,
            "config": identity,
            "code": provenance.code(),
            "environment": provenance.environment(self.device, self.precision),
        }
        # an exception may name a file in any bytes
        why = {"error": published_text(error, config).encode(errors="backslashreplace").decode()} if error else {}
        return schema.Record(**(known | measured | why))
