"""The state of a run in a results folder: a record counts as its result only if the data and weights are what they were.

Nothing is decoded for this, and of the user's files only those are read that have changed (``data.digests``).
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import data_folder
from petlbench.data.load import find_task
from petlbench.records.file_names import file_part, slug
from petlbench.records.labels import split_name, split_task
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, differences
from petlbench.remote.client import RemoteBackbone
from petlbench.runs.log import recorded

State = Literal["done", "failed", "missing", "stale"]


class States:
    """Finds the states of runs. What is there now is looked up once per task and backbone, and only where there is a record to compare."""

    def __init__(self) -> None:
        self._revision = cache(lambda task, root: find_task(task, root).revision)
        self._weights = cache(_weights_of)

    def of(self, config: RunConfig) -> tuple[State, str]:
        """Return the state of a run (``with_content``) and, if it is stale, what changed since."""
        store = RecordStore(Path(config.execution.out))
        records = [record for record in recorded(config) if record.status != "cancelled"]
        finished = [record for record in records if record.has_result]
        changes = [self._changes(record, config) for record in finished]
        if "" in changes:
            return "done", ""
        if len(finished) < len(records):
            return "failed", ""
        if changes:
            return "stale", changes[-1]
        reasons = [reason for record in _earlier(store, config) if (reason := _renamed(record, config))]
        return ("stale", reasons[-1]) if reasons else ("missing", "")

    def _changes(self, record: Record, config: RunConfig) -> str:
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


def _earlier(store: RecordStore, config: RunConfig) -> Iterator[Record]:
    """Read the results of runs with the same words on other content, oldest first."""
    if not config.content:
        return
    name = "-".join(map(glob.escape, (slug(config.method), slug(config.backbone.name), f"s{config.seed}"))) + "-*.json"
    suite = file_part(config.published_task.partition(":" if ":" in config.task else "/")[0])
    wanted = _words(config.identity, config.content)
    found = [record for path in store.folder.glob(f"{glob.escape(suite)}*/**/{name}") if (record := store.find(path)) and record.has_result]
    yield from sorted((one for one in found if _words(one.config, config.content) == wanted), key=lambda record: record.created)


def _words(identity: Mapping[str, Any], keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration without the content of its files: with labels alone."""
    found: dict[str, Any] = {}
    for key, value in identity.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found[key] = _words(value, keys, f"{name}.")
        elif name in keys and name == "task":
            found[key] = [label for label, _ in split_task(str(value))]
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
