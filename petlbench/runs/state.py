"""The state of a run in a results folder: a record counts as its result only if the data and weights are what they were.

Nothing is decoded for this, and of the user's files only those are read that have changed (``data.digests``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import data_folder
from petlbench.data.load import find_task
from petlbench.records.entry import Entry
from petlbench.records.index import RecordIndex
from petlbench.records.labels import split_name, split_task
from petlbench.records.schema import Record
from petlbench.records.store import differences
from petlbench.remote.client import RemoteBackbone
from petlbench.runs.log import recorded

State = Literal["done", "failed", "missing", "stale"]


class States:
    """Finds the states of runs. A results folder is read once. What is there now is looked up once per task and backbone, and only where there is a record
    to compare."""

    def __init__(self) -> None:
        self.index = cache(lambda out: RecordIndex(Path(out)))
        self._revision = cache(lambda task, root: find_task(task, root).revision)
        self._weights = cache(_weights_of)

    def of(self, config: RunConfig) -> tuple[State, str]:
        """Return the state of a run (``with_content``) and, if it is stale, what changed since."""
        index = self.index(config.execution.out)
        records = [record for record in recorded(config, index) if record.status != "cancelled"]
        finished = [record for record in records if record.has_result]
        changes = [self._changes(record, config) for record in finished]
        if "" in changes:
            return "done", ""
        if len(finished) < len(records):
            return "failed", ""
        if changes:
            return "stale", changes[-1]
        reasons = [reason for record in _earlier(index, config) if (reason := _renamed(record, config))]
        return ("stale", reasons[-1]) if reasons else ("missing", "")

    def _changes(self, record: Entry, config: RunConfig) -> str:
        """Return what changed since a record of the run, in words; empty if nothing did."""
        revision = self._revision(config.task, data_folder(config.execution.data_root))
        weights = self._weights(config.backbone.name, config.backbone.checkpoint, config.execution.url)
        said = {"task": f"task {config.published_task} changed (revision", "weights": f"weights of {config.backbone.name} changed (sha256"}
        return "; ".join(f"{said[what]} {before[:8]} → {now[:8]})" for what, before, now in differences(record, revision, weights))


def _weights_of(name: str, checkpoint: str | None, url: str | None) -> str:
    """Return the checksum of a backbone's weights where it is cheap to know: of a served model, and of weights that come with the package. Else ""."""
    if url is not None:
        with RemoteBackbone(url) as remote:
            return remote.checksum()
    is_shipped = checkpoint is None and name in names("backbones") and "weights" in load_yaml("backbones", name)
    return load_backbone_cached(name, checkpoint, torch.device("cpu"))[1] if is_shipped else ""


def _earlier(index: RecordIndex, config: RunConfig) -> list[Record]:
    """Read the results of runs with the same words on other content, oldest first."""
    if not config.content:
        return []
    wanted, labels = _words(config.identity, config.content), _labels(config.published_task)
    results = index.results_like(config.method, config.backbone.name, config.seed)
    read = [index.find(path) for path, entry in results if _labels(entry.task) == labels]
    found = [record for record in read if record is not None and _words(record.config, config.content) == wanted]
    return sorted(found, key=lambda record: record.created)


def _labels(task: str) -> list[str]:
    return [label for label, _ in split_task(task)]


def _words(identity: Mapping[str, Any], keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration without the content of its files: with labels alone."""
    found: dict[str, Any] = {}
    for key, value in identity.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found[key] = _words(value, keys, f"{name}.")
        elif name in keys and name == "task":
            found[key] = _labels(str(value))
        elif name in keys and value is not None:
            found[key] = [split_name(str(one))[0] for one in (value if isinstance(value, list) else [value])]
        else:
            found[key] = value
    return found


def _renamed(record: Record, config: RunConfig) -> str:
    """Return which of a run's files had other content in a record, in words."""
    changes = []
    for key, name in config.content.items():
        before: Any = record.config
        for part in key.split("."):
            before = before.get(part)
        split = split_task if key == "task" else _split_files
        for (label, now), (_, then) in zip(split(name), split(before), strict=False):
            if now != then:
                what, kind = (f"task {label}", "revision") if key == "task" else (f"{key} {label}", "sha256")
                changes.append(f"{what} changed ({kind} {then[:8] if then else 'unknown'} → {now[:8] if now else 'none'})")
    return "; ".join(changes)


def _split_files(names: str | list[str]) -> list[tuple[str, str | None]]:
    return [split_name(name) for name in ([names] if isinstance(names, str) else names)]
