"""The record of a run: one validated, versioned JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints, ValidationError

from petlbench.errors import RecordError

# Version 2 adds what is known of queries (rungs seen, bytes, transport, curves). Version 3 adds layouts, splits, joined tasks and usage of tokens.
# Version 4 adds run_memory_mb.
SCHEMA_VERSION = 4
Place = Annotated[str, StringConstraints(pattern=r"^(\d+\.)?[a-z]\w*$")]  # "3.q", "embed": see petlbench.nn.allocation
Status = Literal["ok", "failed", "diverged", "cancelled", "budget"]
RESULTS = ("ok", "budget")  # the statuses of runs that count


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryCount(_Section):
    """Counts of what one phase of a run sent to a black box."""

    calls: int = 0
    images: int = 0
    contexts: int = 0
    texts: int = 0
    cached: int = 0  # answered without a query; never part of ``images``
    bytes: int = 0  # of images and contexts in float32 and of texts


class Method(_Section):
    name: str  # as typed: a plugin or one of its presets
    plugin: str
    access: str  # granted rung
    access_seen: str | None = None  # highest rung used; None: no query
    config: dict[str, Any]
    cite: str = ""


class BackboneId(_Section):
    name: str
    sha256: str  # over names, shapes and bytes of all parameters and buffers
    parameters: int
    transport: Literal["in_process", "http"] = "in_process"


class ProtocolId(_Section):
    id: str
    settings: dict[str, Any]


class Code(_Section):
    version: str
    commit: str | None = None  # None outside a git checkout
    is_dirty: bool | None = None


class Environment(_Section):
    python: str
    platform: str
    device: str
    threads: int
    precision: str
    packages: dict[str, str]


class Parameters(_Section):
    trainable: int  # without the head
    head: int
    stored_bytes: int
    backbone: int
    allocation: dict[Place, NonNegativeInt] = Field(default_factory=dict)  # shares of ``trainable``; empty: not recorded


class Cost(_Section):
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    total_seconds: float = 0.0
    run_memory_mb: float | None = None  # peak above the memory with backbone and task loaded; None: unknown, as before version 4
    peak_memory_mb: float | None = None  # of the whole process: allocated on the device on a GPU, the resident set on a CPU
    images_decoded: int = 0
    images_forwarded: int = 0  # through the backbone, all phases
    images_encoded: int = 0  # through models that the method has beside the backbone
    flops_per_image: float | None = None  # of a prediction; None: unknown, as for models that can only be queried
    queries: dict[str, QueryCount] = Field(default_factory=dict)  # phase -> count


class PartMetrics(_Section):
    """Metrics of one of several joined tasks."""

    accuracy: float  # percent, when the classes of all tasks compete
    own_accuracy: float  # percent, when only the classes of the image's own task do
    samples: int


class Metrics(_Section):
    accuracy: float  # percent of the test split
    samples: int
    standard_error: float  # of the accuracy, percent, binomial
    val_accuracy: float | None = None
    parts: dict[str, PartMetrics] = Field(default_factory=dict)  # of joined tasks, each by its name


class Epoch(_Section):
    epoch: int
    loss: float
    learning_rate: float
    val_accuracy: float | None = None
    test_accuracy: float | None = None  # only under the selection rule ``oracle_test``


class CurvePoint(_Section):
    """Test accuracy of a query method after sending so much in training; for curves, never to choose an epoch."""

    images: int
    contexts: int
    accuracy: float  # percent of the test split


class Predictions(_Section):
    file: str  # relative to the record
    sha256: str


class Record(_Section):
    """One run. ``run_id`` is the hash of the resolved configuration; a record without status ``ok`` has an ``error`` and no metrics."""

    schema_version: Literal[1, 2, 3, 4] = 4
    run_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    status: Status
    error: str | None = None
    created: str  # ISO 8601, UTC
    suite: str
    task: str  # "suite/task"
    task_revision: str = ""
    class_count: int = 0
    split_hashes: dict[str, str] = Field(default_factory=dict)
    layout: str = ""  # layout of the images on disk; empty: the task makes them
    split: str = ""  # published, or how the splits were made
    protocol: ProtocolId
    selection: str
    backbone: BackboneId
    method: Method
    seed: int
    hyperparameters: str = "default"  # source of the settings: default, suite, task
    config: dict[str, Any]
    code: Code
    environment: Environment
    parameters: Parameters | None = None
    cost: Cost = Field(default_factory=Cost)
    metrics: Metrics | None = None
    history: list[Epoch] = Field(default_factory=list)
    curve: list[CurvePoint] = Field(default_factory=list)
    predictions: Predictions | None = None
    token_usage: str | None = None  # file beside the record: use of library tokens by class
    checkpoint: str | None = None

    @property
    def label(self) -> str:
        """Name the run in a sentence."""
        return f"{self.method.name} on {self.task}, seed {self.seed}"

    @property
    def has_result(self) -> bool:
        """True if it counts in tables: it finished, or stopped with a result when its budget was spent."""
        return self.status in RESULTS

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for records of the same run on the same inputs: one configuration on the same weights and the same revision of the data."""
        return self.run_id, self.backbone.sha256, self.task_revision


def parse_record(text: str, origin: str) -> Record:
    """Parse a record from JSON. RecordError names the file and the invalid field, or the schema version if it is newer than this code."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{origin}: not a complete JSON document ({error.msg} at line {error.lineno}); delete it and run again") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise RecordError(f"{origin}: no schema_version; this is not a petlbench record")
    if version > SCHEMA_VERSION:
        raise RecordError(f"{origin}: schema version {version}, this petlbench reads up to {SCHEMA_VERSION}; update petlbench")
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{origin}: {where or 'record'}: {first['msg']}") from None


def read_record(path: Path) -> Record:
    """Read and validate one record file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path}: not a text file; delete it and run again") from None
    return parse_record(text, str(path))
