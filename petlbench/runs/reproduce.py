"""Run one record again, from its own configuration, and say what differs.

Today's YAML has no say in it: settings, budget and protocol are those of the record. Data and weights are looked for on this machine and must be the same.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from petlbench.analysis.validate import read_predictions
from petlbench.checkpoints.file import read_checkpoint
from petlbench.config.identity import run_id, to_identity
from petlbench.config.resolve import RunConfig, load_method, nested
from petlbench.config.settings import MOST_THREADS
from petlbench.config.typed import hints, quoted
from petlbench.data.acquire.presence import data_folder
from petlbench.data.content import located, with_content
from petlbench.data.load import find_task
from petlbench.errors import CheckpointError, ConfigError, RecordError
from petlbench.learners.setting import open_backbone
from petlbench.optim.device import pick_device
from petlbench.records.labels import split_name, split_task
from petlbench.records.schema import Record, read_record
from petlbench.records.store import differences
from petlbench.runs.checks import check
from petlbench.runs.execute import execute

SETTINGS = ("cache_mb", "data_root", "device", "out", "store_mb", "threads", "url")  # with the places of the run's task and files
Values = dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """A record and the run that was made from it."""

    original: Record
    record: Record
    path: Path  # of the new record
    samples: int | None  # test images whose predictions were compared; None: they could not be, and ``accuracy`` was
    changed: int | None  # how many of them are another class
    note: str  # what was not compared and why, and settings that an older record does not have; or empty
    learned: Values | None  # tensors, how many of them differ, the largest difference; None: not compared

    @property
    def is_same(self) -> bool:
        """True if it ended in the same way and predicts the same class for every test image (without the predictions: with the same accuracy)."""
        if self.record.status != self.original.status:
            return False
        return self.changed == 0 if self.changed is not None else _accuracy(self.record) == _accuracy(self.original)

    def differing(self, values: Callable[[Record], Values]) -> dict[str, tuple[Any, Any]]:
        """Return what differs, as it was and as it is now; ``values``: ``of_result``, ``of_surroundings`` or ``of_cost``."""
        return {name: (then, now) for name, (then, now) in self._pairs(values).items() if then != now}

    def equal(self, values: Callable[[Record], Values]) -> list[str]:
        """Return the names of what is the same."""
        return [name for name, (then, now) in self._pairs(values).items() if then == now]

    def _pairs(self, values: Callable[[Record], Values]) -> dict[str, tuple[Any, Any]]:
        then, now = values(self.original), values(self.record)
        pairs = {name: (then.get(name), now.get(name)) for name in {**then, **now}}
        return {name: pair for name, pair in pairs.items() if any(pair)}  # a count of 0 and one that was not recorded say the same

    def __repr__(self) -> str:
        return f"<{self.original.label}: {'the same' if self.is_same else 'another'} result, {self.path}>"


def reproduce(path: Path, settings: Mapping[str, Any], progress: Callable[[int, int], None] = lambda done, total: None) -> Reproduction:
    """Run the record at ``path`` again.

    ``settings``: where and how, not what (``SETTINGS``). Without ``out`` the new record is written to a new folder for temporary files, without
    ``device`` and ``threads`` it runs on a CPU if the record did, with as many threads. What was learned is saved if the record's is there to compare.

    RecordError for a record that was changed or cancelled, or whose data or weights are not what they were.
    """
    original = read_record(path)
    if original.status == "cancelled":
        raise RecordError(f"{path}: the run was cancelled, so it has no result to reproduce; start it with petlbench run")
    if (computed := run_id(original.config)) != original.run_id:
        edited = f"its settings were changed after the run: their hash is {computed}, its run id {original.run_id}"
        raise RecordError(f"{path}: {edited}; take the record from where it was made")
    given = nested(settings)
    config = _configured(path, original, given)
    added = _check_content(path, original, config)
    if "out" not in given:
        config.execution.out = tempfile.mkdtemp(prefix="petlbench-reproduced-")
    record, new = execute(config, progress)
    samples, changed, note = _compared_predictions(original, path, record, new)
    learned, note_of_learned = _compared_states(original, path, record, new)
    older = f"settings that the record does not have were at their defaults: {', '.join(added)}" if added else ""
    return Reproduction(original, record, new, samples, changed, "; ".join(filter(None, (note, note_of_learned, older))), learned)


def of_result(record: Record) -> Values:
    """What a run found and counted."""
    found: Values = {"status": record.status, "error": record.error, "accuracy": _accuracy(record)}
    if record.metrics is not None:
        found |= {"val accuracy": record.metrics.val_accuracy, "test images": record.metrics.samples}
        found |= {f"accuracy of {name}": part.accuracy for name, part in record.metrics.parts.items()}
    if record.parameters is not None:
        found |= {"parameters": record.parameters.trainable, "parameters of the head": record.parameters.head}
        found["stored bytes"] = record.parameters.stored_bytes
    found |= {"epochs": len(record.history), "training loss": record.history[-1].loss if record.history else None}
    for phase, counts in record.cost.queries.items():
        found |= {f"{name} in {phase}": count for name, count in counts.model_dump().items()}
    found |= {"images forwarded": record.cost.images_forwarded, "images encoded": record.cost.images_encoded}
    return found | {f"accuracy after {point.images} images, {point.contexts} contexts": point.accuracy for point in record.curve}


def of_surroundings(record: Record) -> Values:
    """The code and the machine of a run."""
    code, environment = record.code, record.environment
    found: Values = {"version": code.version, "commit": code.commit, "uncommitted changes": code.is_dirty}
    found |= {name: getattr(environment, name) for name in ("python", "platform", "device", "threads", "precision")}
    found |= {f"package {name}": version for name, version in environment.packages.items()}
    return found | {"splits": record.split_hashes or None}


def of_cost(record: Record) -> Values:
    """Times and memory, which are never quite the same."""
    cost = record.cost
    found = {f"{phase} seconds": getattr(cost, f"{phase}_seconds") for phase in ("train", "eval", "total")}
    return found | {"memory MB": cost.run_memory_mb, "process MB": cost.peak_memory_mb}


def _accuracy(record: Record) -> float | None:
    return None if record.metrics is None else record.metrics.accuracy


def _configured(path: Path, record: Record, given: dict[str, Any]) -> RunConfig:
    """Return the run of a record, carried out as ``given`` says. ConfigError for what only the record can say, and for a folder that holds it."""
    if strange := sorted(set(given) - {*SETTINGS, "task", "backbone", "method"}):
        takes = f"{', '.join(SETTINGS)} and where the run's task and files lie"
        raise ConfigError(f"reproduce takes {takes}, got {', '.join(strange)}; the rest is in the record")
    if "out" in given and path.resolve().is_relative_to(Path(str(given["out"])).resolve()):
        raise ConfigError(f"out={given['out']} holds {path} itself, which is not written over; name another folder")
    on_cpu = {"device": "cpu"} if record.environment.device.startswith("cpu") else {}
    threads = {"threads": min(record.environment.threads, MOST_THREADS) or None}
    how = {"curve": bool(record.curve), "save": _checkpoint_of(record, path) is not None}
    try:
        config = located(_filled_in(record.config), {"out": tempfile.gettempdir(), **on_cpu, **threads, **given, **how})
    except CheckpointError as error:
        raise RecordError(f"{path}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if config.backbone.is_remote and config.execution.url is None:
        raise ConfigError(f"{path}: it was made on the served model {config.backbone.name}; add its address, url=http://HOST:PORT")
    return dataclasses.replace(config, hyperparameters=record.hyperparameters)


def _check_content(path: Path, record: Record, config: RunConfig) -> list[str]:
    """Return the settings that the record does not have. RecordError when its settings, data or weights are not those of now."""
    check(config)
    now = _with_names_of(record, with_content(config)).identity
    if changed := _first_difference(record.config, now):
        raise RecordError(
            f"{path}: {changed}, so this would be another run; leave out what changes it, or take the petlbench that made the record"
        )
    revision = find_task(config.task, data_folder(config.execution.data_root)).revision
    with open_backbone(config, pick_device(config.execution.device)) as (_, weights):
        said = {"task": f"task {record.task}", "weights": f"the weights of {record.backbone.name}"}
        for what, then, there in differences(record, revision, weights):
            raise RecordError(f"{path}: {said[what]} changed since ({then[:12]} → {there[:12]}); a result on them is that of another run")
    return _added_since(record.config, now)


def _with_names_of(record: Record, config: RunConfig) -> RunConfig:
    """Return a run with the names that the record has for the user's files, where they hold the same: they may have been renamed since."""
    content = dict(config.content)
    for key, name in config.content.items():
        before = functools.reduce(
            lambda found, part: found.get(part) if isinstance(found, Mapping) else None, key.split("."), cast(Any, record.config)
        )
        if _hashes(key, before) == _hashes(key, name):
            content[key] = before
    return dataclasses.replace(config, content=content)


def _hashes(key: str, name: Any) -> list[Any]:
    if key == "task":
        return [digest or task for task, digest in split_task(str(name))]
    return [split_name(str(one))[1] or one for one in (name if isinstance(name, list) else [name])]


def _filled_in(stored: Mapping[str, Any]) -> Values:
    """Add the settings that an older configuration lacks, at the defaults of their classes: else today's YAML would set them."""
    method = stored.get("method")
    kinds = {name: kind for name, kind in hints(RunConfig).items() if dataclasses.is_dataclass(kind) and name != "execution"}
    found = {**stored, **{name: _filled(cast(Any, kind), stored.get(name, {})) for name, kind in kinds.items()}}
    if isinstance(method, Mapping) and isinstance(name := method.get("name"), str):
        found["method"] = _filled(load_method(name)[0].Config, method)
    return found


def _filled(kind: type, values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    found, of_kind = dict(values), hints(cast(Any, kind))
    for field in dataclasses.fields(cast(Any, kind)):
        if dataclasses.is_dataclass(of_kind[field.name]):
            found[field.name] = _filled(cast(Any, of_kind[field.name]), values.get(field.name, _default(field)))
        elif field.name not in values and (default := _default(field)) is not dataclasses.MISSING:
            found[field.name] = default
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return to_identity(default) if dataclasses.is_dataclass(default) else default


def _first_difference(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Name the first setting of ``then`` that is another now; empty if none is."""
    for key, before in then.items():
        after = now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if found := _first_difference(before, after, f"{prefix}{key}."):
                return found
        elif before != after:
            return f"{prefix}{key} was {quoted(before)} and is {quoted(after)}"
    return ""


def _added_since(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the settings that are in ``now`` alone."""
    found = [f"{prefix}{key}" for key in now if key not in then]
    both = [key for key in now if isinstance(now[key], Mapping) and isinstance(then.get(key), Mapping)]
    return [*found, *(name for key in both for name in _added_since(then[key], now[key], f"{prefix}{key}."))]


def _compared_predictions(then: Record, path: Path, now: Record, new: Path) -> tuple[int | None, int | None, str]:
    """Return how many predictions there are, how many differ, and why they were not compared."""
    if not (then.has_result and now.has_result):
        return None, None, ""
    try:
        before, after = read_predictions(then, path), read_predictions(now, new)
    except RecordError as error:
        return None, None, f"predictions were not compared: {error}"
    if not torch.equal(before["labels"], after["labels"]):
        return None, None, "predictions were not compared: the test labels differ"
    return len(before["labels"]), int((before["predicted"] != after["predicted"]).sum()), ""


def _compared_states(then: Record, path: Path, now: Record, new: Path) -> tuple[Values | None, str]:
    """Return how far what was learned differs, and why it was not compared."""
    first, second = _checkpoint_of(then, path), _checkpoint_of(now, new)
    if first is None:
        return None, f"what was learned was not compared: {then.checkpoint} is missing" if then.checkpoint else ""
    if second is None:  # the run has no result now
        return None, ""
    try:
        before, after = read_checkpoint(first).state, read_checkpoint(second).state
    except CheckpointError as error:
        return None, f"what was learned was not compared: {error}"
    names = sorted({*before, *after})
    apart = [name for name in names if name not in before or name not in after or before[name].shape != after[name].shape]
    both = [name for name in names if name not in apart]
    largest = {name: (before[name].double() - after[name].double()).abs().max().item() for name in both if before[name].numel()}
    return {
        "tensors": len(names),
        "differing": len(apart) + sum(value > 0 for value in largest.values()),
        "largest difference": max(largest.values(), default=0.0),
    }, ""


def _checkpoint_of(record: Record, path: Path) -> Path | None:
    """Return the checkpoint of a record, if it lies in the results folder that the record lies in."""
    folder = next((parent.parent for parent in path.resolve().parents if parent.name == "records"), None)
    if record.checkpoint is None or folder is None or not (found := folder / record.checkpoint).is_file():
        return None
    return found
