"""Whether a record can be trusted: what it says is compared with what lies beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from petlbench.errors import RecordError
from petlbench.records.schema import Record, read_record
from petlbench.records.store import run_id

TOLERANCE = 1e-4  # percent: accuracies are float32 means


def problems_of(path: Path) -> list[str]:
    """What is wrong with a record file, in words; nothing when all is well."""
    try:
        record = read_record(path)
    except RecordError as error:
        return [str(error)]
    problems = []
    if run_id(record.config) != record.run_id:
        problems.append(f"run_id {record.run_id} is not the hash of the configuration, {run_id(record.config)}")
    if not path.stem.endswith(record.run_id):
        problems.append(f"the file is not named after its run_id {record.run_id}")
    problems += _disagreements(record)
    if record.has_result:
        problems += _problems_of_result(record, path)
    elif record.error is None:
        problems.append(f"status {record.status} without an error")
    return problems


def _disagreements(record: Record) -> list[str]:
    """What tables sort by must be what the configuration, which the run id protects, says."""
    config = record.config
    said = {
        "task": (record.task, config.get("task")),
        "suite": (record.suite, record.task.partition(":" if ":" in record.task else "/")[0]),
        "seed": (record.seed, config.get("seed")),
        "method.name": (record.method.name, _name_in(config.get("method"))),
        "backbone.name": (record.backbone.name, _name_in(config.get("backbone"))),
        "protocol.settings": (record.protocol.settings, config.get("protocol")),
    }
    return [f"{field} is {stated!r}, the configuration has {true!r}" for field, (stated, true) in said.items() if stated != true]


def _name_in(section: Any) -> Any:
    return section.get("name") if isinstance(section, dict) else None


def _problems_of_result(record: Record, path: Path) -> list[str]:
    if record.metrics is None or record.predictions is None:
        return [f"status {record.status} without metrics or predictions"]
    beside = path.parent / record.predictions.file
    if Path(record.predictions.file).name != record.predictions.file or not beside.is_file():
        return [f"predictions {record.predictions.file} are missing"]
    content = beside.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.predictions.sha256:
        return [f"predictions {record.predictions.file} were changed: their SHA-256 is not the recorded one"]
    try:
        tensors = load(content)
        correct = tensors["predicted"] == tensors["labels"]
    except (SafetensorError, KeyError, RuntimeError) as error:
        return [f"predictions {record.predictions.file} cannot be read: {error}"]
    problems = []
    recomputed = 100.0 * correct.float().mean().item()
    if not abs(recomputed - record.metrics.accuracy) <= TOLERANCE:
        problems.append(f"metrics.accuracy is {record.metrics.accuracy:.4f}, the predictions give {recomputed:.4f}")
    if len(correct) != record.metrics.samples:
        problems.append(f"metrics.samples is {record.metrics.samples}, there are {len(correct)} predictions")
    return problems
