"""The record of a run: one validated, versioned JSON document.

Whatever fits the schema can be shown in every table. Whether its parts agree with each other and with its files is for ``petlbench validate`` to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from petlbench.errors import NewerRecord, RecordError
from petlbench.records.fields import (
    Amount,
    Count,
    FileBelow,
    FileName,
    Hash,
    Hashes,
    Line,
    Name,
    Percent,
    Place,
    Rung,
    Seed,
    Settings,
    TaskName,
    Text,
    Time,
)
from petlbench.records.regular_file import read_regular

# Version 2 adds what is known of queries (rungs seen, bytes, transport, curves). Version 3 adds layouts, splits, joined tasks and usage of tokens.
# Version 4 adds run_memory_mb. Version 5 adds resumed, tuning, trials that were pruned, and runs that are scored on val.
SCHEMA_VERSION = 5
Status = Literal["ok", "failed", "diverged", "cancelled", "budget", "pruned"]
RESULTS = ("ok", "budget")  # the statuses of runs that count
_KEYS = attrgetter("__pydantic_fields_set__")  # that a section was read from
LARGEST = 2**26  # bytes of a record file


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class QueryCount(_Section):
    """Counts of what one phase of a run sent to a black box."""

    calls: Count = 0
    images: Count = 0
    contexts: Count = 0
    texts: Count = 0
    cached: Count = 0  # answered without a query; never part of ``images``
    bytes: Count = 0  # of images and contexts in float32 and of texts


class Method(_Section):
    name: Name  # as typed: a plugin or one of its presets
    plugin: Name
    access: Rung  # granted
    access_seen: Rung | None = None  # the highest that was used; None: no query, or not recorded, as before version 2
    config: Settings
    cite: Line = ""


class BackboneId(_Section):
    name: Name
    sha256: Hash  # over names, shapes and bytes of all parameters and buffers
    parameters: Count
    transport: Literal["in_process", "http"] = "in_process"
    activation: str = ""  # of the vision tower, as torch names it; empty: unknown, as of a served model
    mean: list[float] = Field(default_factory=list)  # of the normalisation of images, by channel; empty: not recorded
    std: list[float] = Field(default_factory=list)
    self_check: list[float] = Field(
        default_factory=list
    )  # answers to a fixed picture, see petlbench.backbones.self_check; empty: not recorded


class ProtocolId(_Section):
    id: Name
    settings: Settings


class Code(_Section):
    version: Line
    commit: Line | None = None  # None outside a git checkout
    is_dirty: bool | None = None


class Environment(_Section):
    python: Line
    platform: Line
    device: Line
    threads: Count
    precision: Line
    packages: dict[Line, Line]


class Parameters(_Section):
    trainable: Count  # without the head
    head: Count
    stored_bytes: Count
    backbone: Count
    allocation: dict[Place, Count] = Field(default_factory=dict)  # shares of ``trainable``; empty: not recorded


class Cost(_Section):
    train_seconds: Amount = 0.0
    eval_seconds: Amount = 0.0
    total_seconds: Amount = 0.0
    run_memory_mb: Amount | None = None  # peak above the memory with backbone and task loaded; None: unknown, as before version 4
    peak_memory_mb: Amount | None = None  # of the whole process: allocated on the device on a GPU, the resident set on a CPU
    images_decoded: Count = 0
    images_forwarded: Count = 0  # through the backbone, all phases
    images_encoded: Count = 0  # through models that the method has beside the backbone
    flops_per_image: Amount | None = None  # of a prediction; None: unknown, as for models that can only be queried
    queries: dict[Name, QueryCount] = Field(default_factory=dict)  # phase -> count
    resumed: Count = 0  # times that the run went on from a checkpoint of an interrupted one; seconds are the sum over the pieces


class PartMetrics(_Section):
    """Metrics of one of several joined tasks."""

    accuracy: Percent  # when the classes of all tasks compete
    own_accuracy: Percent  # when only the classes of the image's own task do
    samples: Count


class Metrics(_Section):
    accuracy: Percent  # of the test split; of val in a trial (``Record.scored_on``)
    samples: Count
    standard_error: Percent  # of the accuracy, binomial
    val_accuracy: Percent | None = None
    parts: dict[Name, PartMetrics] = Field(default_factory=dict)  # of joined tasks, each by its name


class Epoch(_Section):
    epoch: Count
    loss: float
    learning_rate: float
    val_accuracy: Percent | None = None
    test_accuracy: Percent | None = None  # only under the selection rule ``oracle_test``


class CurvePoint(_Section):
    """Test accuracy of a query method after sending so much in training; for curves, never to choose an epoch."""

    images: Count
    contexts: Count
    accuracy: Percent  # of the test split


class Predictions(_Section):
    file: FileName  # beside the record
    sha256: Hash


class Tuning(_Section):
    """The study whose winner a run has its settings from, and what all trials of it cost."""

    study: Name
    trials: Count  # with those that failed
    asked: Count  # trials that the study was to have; it has fewer when its budget was spent, or its grid has no more points
    failed: Count = 0  # trials without a result
    pruned: Count = 0  # trials that were ended early
    sampler: Name
    sampler_seed: Seed
    seeds: list[Seed]  # of each trial, whose score is the mean over them
    val_accuracy: Percent  # of the winner, mean over seeds
    default_val_accuracy: Percent | None = None  # of the first trial, which has the default settings; None: they are not in the space
    seconds: Amount = 0.0
    queries: dict[Name, QueryCount] = Field(default_factory=dict)  # phase -> count


class Record(_Section):
    """One run. ``run_id`` is the hash of the resolved configuration. A record with a result has metrics; any other has an ``error``."""

    schema_version: Literal[1, 2, 3, 4, 5] = 5
    run_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    status: Status
    error: Text | None = None
    created: Time
    suite: Name
    task: TaskName
    task_revision: Line = ""
    class_count: Count = 0
    split_hashes: dict[Name, Hashes] = Field(default_factory=dict)
    layout: Line = ""  # layout of the images on disk; empty: the task makes them
    split: Line = ""  # published, or how the splits were made
    protocol: ProtocolId
    selection: Name
    backbone: BackboneId
    method: Method
    seed: Seed
    hyperparameters: Line = "default"  # source of the settings: default, suite, task, recipe, tuned
    tuning: Tuning | None = None  # None: the settings were not tuned
    config: Settings
    code: Code
    environment: Environment
    parameters: Parameters | None = None
    cost: Cost = Field(default_factory=Cost)
    metrics: Metrics | None = None
    history: list[Epoch] = Field(default_factory=list)
    curve: list[CurvePoint] = Field(default_factory=list)
    predictions: Predictions | None = None
    token_usage: FileName | None = None  # file beside the record: use of library tokens by class
    checkpoint: FileBelow | None = None

    @model_validator(mode="after")
    def _has_what_tables_show(self) -> Record:
        if self.has_result and self.metrics is None:
            raise ValueError(f"status {self.status} without metrics")
        return self

    @property
    def label(self) -> str:
        """Name the run in a sentence."""
        return f"{self.method.name} on {self.task}, seed {self.seed}"

    @property
    def has_result(self) -> bool:
        """True if the run finished, or stopped with a result when its budget was spent."""
        return self.status in RESULTS

    @property
    def scored_on(self) -> str:
        """The split that the metrics are of: ``test``, or ``val`` for a trial of tuning."""
        return str(self.protocol.settings.get("score_on", "test"))

    @property
    def is_tested(self) -> bool:
        """True if it counts in tables: it has a result, and that is of the test split."""
        return self.has_result and self.scored_on == "test"

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for records of the same run on the same inputs: one configuration on the same weights and the same revision of the data."""
        return self.run_id, self.backbone.sha256, self.task_revision


def parse_record(text: str | bytes, origin: str) -> Record:
    """Parse a record from JSON. RecordError names the file and the invalid field; NewerRecord, if its schema is newer than this code."""
    return _as_written(text) or _checked(text, origin)


def _as_written(text: str | bytes) -> Record | None:
    """Parse a record in one pass if its file is as petlbench writes it, byte for byte; None otherwise, and for what does not fit the schema.

    Whatever the one pass cannot see, such as a key that stands twice, is not in a file that the record gives again.
    """
    try:
        record = Record.model_validate_json(text)
    except ValidationError:
        return None
    return record if _gives(record, text.encode() if isinstance(text, str) else text) else None


def _gives(record: Record, content: bytes) -> bool:
    """Return True if a record is written as this content. Its history, most of a long run's file, holds numbers only: counting its keys is enough."""
    left_out: set[str] = set()
    start = content.find(b'\n "history": [\n')
    end = content.find(b"\n ]", start)
    if 0 <= start < end:
        keys = sum(map(len, map(_KEYS, record.history)))
        if content.count(b'":', start + 3, end) != keys + 1:
            return False
        left_out, content = {"history"}, content[:start] + content[end + 3 :].removeprefix(b",")
    return record.model_dump_json(indent=1, exclude_unset=True, exclude=left_out).encode() + b"\n" == content


def _checked(text: str | bytes, origin: str) -> Record:
    """Parse a record step by step, with a reason for whatever is wrong."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        if text.startswith("\ufeff"):
            raise RecordError(f"{origin}: begins with a byte order mark; save it as UTF-8 without one")
        data = json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_without_repetition)
    except UnicodeDecodeError:
        raise RecordError(f"{origin}: not a text file; delete it and run again") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{origin}: not a complete JSON document ({error.msg} at line {error.lineno}); delete it and run again") from None
    except RecursionError:
        raise RecordError(f"{origin}: nested too deeply for a record; delete it and run again") from None
    except ValueError as error:  # of the functions below, or an int of thousands of digits
        raise RecordError(f"{origin}: {_one_line(str(error).partition(';')[0])}; delete it and run again") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int:
        raise RecordError(f"{origin}: no schema_version; this is not a petlbench record")
    if version > SCHEMA_VERSION:
        raise NewerRecord(f"{origin}: schema version {version}, this petlbench reads up to {SCHEMA_VERSION}; update petlbench")
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        raise RecordError(f"{origin}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Return the first field that breaks the schema and why, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _one_line(f"{where or 'record'}: {first['msg'].removeprefix('Value error, ')}")


def _one_line(text: str) -> str:
    """Return text from a file as it can be printed: at most 300 characters, none of them invisible."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:300])


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:30]} is no finite number")
    return number


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)[:50]}' stands twice")
    return found


def read_record(path: Path) -> Record:
    """Read and validate one record file."""
    return parse_record(read_regular(path, LARGEST), str(path))
