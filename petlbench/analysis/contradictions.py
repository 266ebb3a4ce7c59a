"""Find facts of one record that cannot all be true. The files that it names are checked in ``petlbench.analysis.validate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from petlbench.access.rungs import BOXES
from petlbench.config.identity import protocol_id
from petlbench.records.schema import QueryCount, Record
from petlbench.registry import METHODS

_RUNGS = list(BOXES)  # lowest first
_AHEAD = timedelta(days=5 * 365)  # of this machine's clock, which may be wrong, but not by so much
_OWN_LIMITS = ("val", "test")  # phases with limits of their own
_SLACK = 0.01  # seconds


def contradictions(record: Record) -> list[str]:
    """Return a sentence for each contradiction within a record; empty if there are none."""
    found = [*_disagreements(record), *_of_access(record), *_of_budget(record), *_of_history(record)]
    if datetime.fromisoformat(record.created) > datetime.now(UTC) + _AHEAD:
        found.append(f"created is {record.created}, which is in the future")
    if record.has_result:
        found += [sentence for check in _OF_RESULTS for sentence in check(record)]
    return found


def _disagreements(record: Record) -> list[str]:
    """Compare the fields that tables use with the configuration, which the run id protects."""
    config = record.config
    method, protocol = _section(config, "method"), _section(config, "protocol")
    said = {
        "task": (record.task, config.get("task")),
        "suite": (record.suite, record.task.partition(":" if ":" in record.task else "/")[0]),
        "seed": (record.seed, config.get("seed")),
        "method.name": (record.method.name, method.get("name")),
        "method.plugin": (record.method.plugin, method.get("plugin")),
        "method.config": (record.method.config, {key: value for key, value in method.items() if key not in ("name", "plugin")}),
        "backbone.name": (record.backbone.name, _section(config, "backbone").get("name")),
        "protocol.settings": (record.protocol.settings, protocol),
        "protocol.id": (record.protocol.id, protocol_id(protocol)),
        "selection": (record.selection, protocol.get("selection")),
    }
    return [f"{field} is {stated!r}, the configuration has {true!r}" for field, (stated, true) in said.items() if stated != true]


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _of_access(record: Record) -> Iterator[str]:
    """Compare the granted rung with the plugin's, if it is installed, and with the highest that was used."""
    method = record.method
    if method.plugin in METHODS.known() and method.access != (declared := METHODS.get(method.plugin).access.name):
        yield f"method.access is {method.access}, the plugin {method.plugin} declares {declared}"
    if method.access_seen is None:
        asked = sum(count.images + count.cached + count.contexts for count in record.cost.queries.values())
        if record.schema_version > 1 and record.has_result and (method.access == "WEIGHTS" or asked):
            yield f"method.access_seen is null, the run had {method.access}" + (f" and sent {asked:,} images" if asked else "")
    elif _RUNGS.index(method.access_seen) > _RUNGS.index(method.access):
        yield f"method.access_seen is {method.access_seen}, {method.access} was granted"


def _of_budget(record: Record) -> Iterator[str]:
    budget = _section(record.config, "budget")
    of_training = {name: limit for name, limit in budget.items() if name not in _OWN_LIMITS and limit is not None}
    for phase, limits in {"train": of_training, **{name: _section(budget, name) for name in _OWN_LIMITS}}.items():
        sent, prefix = record.cost.queries.get(phase), "" if phase == "train" else f"{phase}."
        for name, limit in limits.items():
            if limit is None:
                continue
            if name not in QueryCount.model_fields or not isinstance(limit, int):
                yield f"unknown or invalid limit budget.{prefix}{name}={limit!r}"
            elif sent is not None and (count := getattr(sent, name)) > limit:
                yield f"cost.queries.{phase}.{name} is {count:,}, the budget is {limit:,}"
    if record.status == "budget" and not of_training:
        yield "status budget, the configuration has no budget"


def _of_history(record: Record) -> Iterator[str]:
    epochs, planned = [epoch.epoch for epoch in record.history], _section(record.config, "train").get("epochs")
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        yield f"the epochs of the history are not in order: {', '.join(map(str, epochs[:20]))}"
    elif epochs and isinstance(planned, int) and epochs[-1] >= planned:
        yield f"the history ends with epoch {epochs[-1]}, train.epochs is {planned} and the first is 0"


def _of_parts(record: Record) -> Iterator[str]:
    """Check what is known of the task, the backbone and the method's parameters."""
    if record.status == "ok" and record.error is not None:
        yield "status ok with an error"
    if record.class_count < 2 and (record.class_count or record.schema_version > 1):
        yield f"class_count is {record.class_count}, a task has at least 2"
    if not record.backbone.sha256:
        yield "backbone.sha256 is empty"
    if (parameters := record.parameters) is None:
        yield f"status {record.status} without parameters"
        return
    if parameters.allocation and (placed := sum(parameters.allocation.values())) != parameters.trainable:
        yield f"parameters.trainable is {parameters.trainable:,}, the allocation has {placed:,}"
    if parameters.backbone != record.backbone.parameters:
        yield f"parameters.backbone is {parameters.backbone:,}, backbone.parameters is {record.backbone.parameters:,}"


def _of_time(record: Record) -> Iterator[str]:
    cost = record.cost
    if cost.train_seconds + cost.eval_seconds > cost.total_seconds + _SLACK:
        yield f"training and evaluation took {cost.train_seconds + cost.eval_seconds:.2f} s, cost.total_seconds is {cost.total_seconds:.2f}"


def _of_queries(record: Record) -> Iterator[str]:
    """Check the counts of a model that is only queried; version 1 has none. A method may predict without asking, but not ask about some images only."""
    queries = record.cost.queries
    if record.method.access == "WEIGHTS" or record.schema_version == 1 or record.metrics is None:
        return
    phase, samples = record.scored_on, record.metrics.samples
    test = queries.get(phase, QueryCount())
    if (test.images or test.cached or test.calls) and test.images + test.cached < samples:
        yield f"cost.queries.{phase}.images is {test.images:,}, metrics.samples is {samples:,}"
    sent = sum(count.images for phase, count in queries.items() if phase != "curve")
    if record.backbone.transport == "in_process" and record.cost.images_forwarded > sent:
        yield f"cost.images_forwarded is {record.cost.images_forwarded:,}, cost.queries have {sent:,} images"


def _of_curve(record: Record) -> Iterator[str]:
    if not record.curve or record.metrics is None:
        return
    points = [(point.images, point.contexts) for point in record.curve]
    if any(later < earlier for pair in pairwise(points) for earlier, later in zip(*pair, strict=True)):
        yield "the curve goes back: images and contexts that were sent cannot become fewer"
    train = record.cost.queries.get("train", QueryCount())
    if points[-1] != (train.images, train.contexts):
        yield f"the curve ends after {points[-1][0]:,} images and {points[-1][1]:,} contexts, training sent {train.images:,} and {train.contexts:,}"
    if record.curve[-1].accuracy != record.metrics.accuracy:
        yield f"the curve ends at {record.curve[-1].accuracy:.4f}, metrics.accuracy is {record.metrics.accuracy:.4f}"


_OF_RESULTS: tuple[Callable[[Record], Iterator[str]], ...] = (_of_parts, _of_time, _of_queries, _of_curve)
