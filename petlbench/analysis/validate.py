"""Check records: each against its configuration and predictions, and against other records."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from petlbench.analysis.aggregate import runs_frame
from petlbench.analysis.contradictions import contradictions
from petlbench.config.identity import run_id
from petlbench.errors import RecordError
from petlbench.records.file_names import exists
from petlbench.records.reader import for_tables
from petlbench.records.regular_file import read_regular
from petlbench.records.schema import BackboneId, Metrics, Record, read_record

# Of the largest answer to a fixed picture: processors, GPUs and libraries round by less than a tenth of it, another activation changes more
SELF_CHECK_TOLERANCE = 0.01
TOLERANCE = 1e-4  # percent: accuracies are float32 means


@dataclass(frozen=True)
class Checked:
    """What was found in a record file that was read once, with its predictions."""

    path: Path
    record: Record | None  # None: it cannot be read; without its history (``for_tables``)
    problems: list[str]  # empty if there are none
    digests: Mapping[str, str]  # of predicted and labels; empty: the record has none that can be read


def check_record(path: Path) -> Checked:
    """Check a record file and the files that it names."""
    try:
        record = read_record(path)
    except RecordError as error:
        return Checked(path, None, [str(error)], {})
    problems = []
    if (identity := run_id(record.config)) != record.run_id:
        problems.append(f"run_id {record.run_id} is not the hash of the configuration, {identity}")
    if not re.search(rf"-{record.run_id}(-[0-9a-f]{{8}})?$", path.stem):
        problems.append(f"the file is not named after its run_id {record.run_id}")
    problems += contradictions(record)
    if record.token_usage is not None and not _lies_beside(record.token_usage, path):
        problems.append(f"token usage {record.token_usage} is missing")
    tensors: dict[str, Tensor] = {}
    try:
        tensors = read_predictions(record, path)
    except RecordError as error:
        problems += [str(error)] if record.has_result else []
    if record.has_result:
        problems += _problems_of_result(record, tensors) if tensors else []
    else:
        problems += [f"status {record.status} without an error"] if record.error is None else []
        problems += [f"status {record.status} with metrics or predictions"] if record.metrics or record.predictions else []
    return Checked(path, for_tables(record), problems, {name: _digest(tensor) for name, tensor in tensors.items()})


def problems_of(path: Path) -> list[str]:
    """Return the problems of a record file; empty if there are none."""
    return check_record(path).problems


def problems_among(records: Iterable[Checked]) -> dict[Path, list[str]]:
    """Return problems between records: several results of one run, test labels that differ from those of other records, equal weights that answer a
    fixed picture differently.

    Those whose predictions cannot be read are skipped; ``check_record`` reports them.
    """
    runs: dict[tuple[str, str, str], list[tuple[Path, str]]] = defaultdict(list)
    labels: dict[tuple[str, str], list[tuple[Path, str]]] = defaultdict(list)
    backbones: dict[tuple[str, int], list[tuple[Path, BackboneId]]] = defaultdict(list)  # weights and number of values compared
    for one in records:
        if (record := one.record) is None or not one.digests:
            continue
        if record.backbone.self_check:
            backbones[record.backbone.sha256, len(record.backbone.self_check)].append((one.path, record.backbone))
        runs[record.key].append((one.path, one.digests["predicted"]))
        if record.scored_on == "test":  # those of val depend on the protocol
            labels[record.task, record.task_revision].append((one.path, one.digests["labels"]))
    problems: dict[Path, list[str]] = defaultdict(list)
    for path, problem in _problems_of_weights(backbones):
        problems[path].append(problem)
    for (identity, _, _), of_run in runs.items():
        for path, digest in of_run:
            if elsewhere := [str(other) for other, of_other in of_run if of_other != digest]:
                problems[path].append(f"run {identity} has another result in {', '.join(elsewhere)}")
    for (task, revision), of_task in labels.items():
        alike = Counter(digest for _, digest in of_task)
        for path, digest in of_task:
            if 2 * alike[digest] <= len(of_task):  # not those of the majority
                others, data = len(of_task) - alike[digest], revision or "unknown"
                problems[path].append(f"its test labels differ from those of {others} other records of {task}, data {data}")
    return dict(problems)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def _problems_of_weights(groups: Mapping[tuple[str, int], Sequence[tuple[Path, BackboneId]]]) -> Iterator[tuple[Path, str]]:
    """Compare the answers of equal weights to a fixed picture with those of the first record."""
    for (sha256, _), members in groups.items():
        first_path, first = members[0]
        for path, backbone in members[1:]:
            pairs = list(zip(backbone.self_check, first.self_check, strict=True))
            difference, largest = max(abs(one - other) for one, other in pairs), max(abs(other) for _, other in pairs)
            if difference > SELF_CHECK_TOLERANCE * largest:
                uses = " against ".join(f"{used.activation}, mean {used.mean}, std {used.std}" for used in (backbone, first))
                yield (
                    path,
                    f"the weights {sha256[:12]}… answer a fixed picture otherwise than in {first_path}: by {difference:.3g} where the largest answer "
                    f"is {largest:.3g}, {SELF_CHECK_TOLERANCE:.0%} of it are allowed ({uses})",
                )


def missing_cells(records: Iterable[Record], suites: Mapping[str, Sequence[str]]) -> list[str]:
    """List missing runs: every task with every seed used on a suite, backbone and protocol, for each method with results there."""
    runs = runs_frame(records)
    missing = []
    for suite, tasks in suites.items():
        of_suite = runs[runs["task"].isin(list(tasks))]
        for (backbone, protocol), column in of_suite.groupby(["backbone", "protocol"]):
            seeds = sorted(set(column["seed"]))
            for method, row in column.groupby("method"):
                have = set(zip(row["task"], row["seed"], strict=True))
                lacking = [f"{task} seed {seed}" for task in tasks for seed in seeds if (task, seed) not in have]
                missing += [f"{suite} on {backbone}, protocol {protocol}: {method} lacks {cell}" for cell in lacking]
    return missing


def _problems_of_result(record: Record, tensors: Mapping[str, Tensor]) -> list[str]:
    assert record.metrics is not None
    metrics, count = record.metrics, len(tensors["labels"])
    accuracy = 100.0 * (tensors["predicted"] == tensors["labels"]).float().mean().item()
    recomputed = {"accuracy": accuracy, "standard_error": math.sqrt(accuracy * (100.0 - accuracy) / count)}
    problems = [
        f"metrics.{name} is {stated:.4f}, the predictions give {true:.4f}"
        for name, true in recomputed.items()
        if not abs((stated := getattr(metrics, name)) - true) <= TOLERANCE
    ]
    if count != metrics.samples:
        problems.append(f"metrics.samples is {metrics.samples}, there are {count} predictions")
    named = torch.cat(list(tensors.values()))
    outside = [extreme for extreme in (int(named.min()), int(named.max())) if not 0 <= extreme < (record.class_count or math.inf)]
    if outside:
        known = f"0 to {record.class_count - 1}" if record.class_count else "from 0 on"
        problems.append(f"the predictions name class {outside[0]}, classes are {known}")
    problems += _problems_of_parts(metrics, tensors)
    evaluated = [epoch.val_accuracy for epoch in record.history if epoch.val_accuracy is not None]
    if metrics.val_accuracy is not None and metrics.val_accuracy != max(evaluated, default=None):
        problems.append(
            f"metrics.val_accuracy is {metrics.val_accuracy:.4f}, the best of the history is {max(evaluated, default=math.nan):.4f}"
        )
    return problems


def _problems_of_parts(metrics: Metrics, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Check the accuracy of each joined task; their images follow each other, task by task."""
    parts, right = metrics.parts, (tensors["predicted"] == tensors["labels"]).double()
    sizes = [part.samples for part in parts.values()]
    if not parts:
        return
    if min(sizes) < 1 or sum(sizes) != len(right):
        yield f"metrics.parts are about {sum(sizes)} images, there are {len(right)} predictions"
        return
    for (name, part), of_part in zip(parts.items(), right.split(sizes), strict=True):
        accuracy = 100.0 * of_part.mean().item()
        if not abs(part.accuracy - accuracy) <= TOLERANCE:
            yield f"metrics.parts.{name}.accuracy is {part.accuracy:.4f}, the predictions give {accuracy:.4f}"
        if not accuracy - TOLERANCE <= part.own_accuracy <= 100.0:  # an image that is right among all classes is right among its task's own
            yield f"metrics.parts.{name}.own_accuracy is {part.own_accuracy:.4f}, the predictions give at least {accuracy:.4f}"


def read_predictions(record: Record, path: Path) -> dict[str, Tensor]:
    """Load the predicted and true classes (N,) of a record. RecordError if they are missing, changed or unreadable."""
    if record.metrics is None or record.predictions is None:
        raise RecordError(f"status {record.status} without metrics or predictions")
    name = record.predictions.file
    if not _lies_beside(name, path):
        raise RecordError(f"predictions {name} are missing")
    content = read_regular(path.parent / name)
    if hashlib.sha256(content).hexdigest() != record.predictions.sha256:
        raise RecordError(f"predictions {name} were changed: their SHA-256 is not the recorded one")
    try:
        tensors = load(content)
        predicted, labels = tensors["predicted"], tensors["labels"]
    except (SafetensorError, KeyError) as error:
        raise RecordError(f"predictions {name} cannot be read: {error}") from None
    if predicted.shape != labels.shape or predicted.ndim != 1 or not len(labels):
        raise RecordError(f"predictions {name} cannot be read: {tuple(predicted.shape)} predicted and {tuple(labels.shape)} true classes")
    if {predicted.dtype, labels.dtype} != {torch.int32}:
        raise RecordError(f"predictions {name} cannot be read: classes are {predicted.dtype} and {labels.dtype}, not torch.int32")
    return {"predicted": predicted, "labels": labels}


def _lies_beside(name: str, path: Path) -> bool:
    """Return True if a file named by a record is in the record's own folder, as every name without a folder is."""
    return exists(path.parent / name) and (path.parent / name).is_file()
