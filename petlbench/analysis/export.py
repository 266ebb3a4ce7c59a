"""All runs as one flat table, for other programs: a row per record, finished or not, a column per field."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from petlbench.access.meter import COUNTED, PHASES
from petlbench.errors import RecordError
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, write_atomically

_TYPES = {"text": "string", "JSON": "string", "integer": "Int64", "number": "Float64", "yes or no": "boolean"}


@dataclass(frozen=True)
class Column:
    """One column: its name, what it holds, where that stands in a record, what it means."""

    name: str
    kind: Literal["text", "JSON", "integer", "number", "yes or no"]
    field: str  # with dots
    meaning: str


_COUNTS = {
    "calls": "Calls sent while {}.",
    "images": "Images sent while {}.",
    "contexts": "Prompt contexts sent while {}.",
    "texts": "Texts sent while {}.",
    "cached": "Images answered from a cache while {}; part of no other count.",
    "bytes": "Bytes sent while {}: images and contexts in float32, and texts.",
}
_DOING = {
    "train": "training",
    "val": "looking at validation images",
    "test": "looking at test images",
    "curve": "looking at test images for the curve only",
}
COLUMNS = (
    Column("run_id", "text", "run_id", "Hash of the resolved configuration."),
    Column("schema_version", "integer", "schema_version", "Of the record."),
    Column(
        "status", "text", "status", "`ok`, `budget` (ended when its budget was spent, with a result), `failed`, `diverged` or `cancelled`."
    ),
    Column("error", "text", "error", "Why there is no result, or which budget was spent."),
    Column("created", "text", "created", "When the record was written; ISO 8601, UTC."),
    Column("suite", "text", "suite", "Suite or family of the task."),
    Column("task", "text", "task", "SUITE/TASK."),
    Column("task_revision", "text", "task_revision", "Revision of the data."),
    Column("class_count", "integer", "class_count", "Classes of the task."),
    Column("layout", "text", "layout", "How the images lay on the disk; empty where the task makes them."),
    Column("split", "text", "split", "Whose splits they are: published ones, or how they were made."),
    Column("split_train", "text", "split_hashes.train", "Hash of the training split."),
    Column("split_val", "text", "split_hashes.val", "Hash of the validation split."),
    Column("split_test", "text", "split_hashes.test", "Hash of the test split."),
    Column("protocol", "text", "protocol.id", "Name and hash of the protocol."),
    Column("protocol_settings", "JSON", "protocol.settings", "The protocol's settings."),
    Column("selection", "text", "selection", "Rule that chose the epoch: `last`, `best_val` or `oracle_test`."),
    Column("backbone", "text", "backbone.name", "Name of the backbone."),
    Column("backbone_sha256", "text", "backbone.sha256", "Hash of its weights."),
    Column("backbone_parameters", "integer", "backbone.parameters", "Parameters of its vision tower."),
    Column("transport", "text", "backbone.transport", "`in_process`, or `http` for a remote backbone."),
    Column("method", "text", "method.name", "Method as typed: a plugin or one of its presets."),
    Column("plugin", "text", "method.plugin", "The plugin behind it."),
    Column("access", "text", "method.access", "Rung of the access ladder that was granted."),
    Column("access_seen", "text", "method.access_seen", "Highest rung that was made use of."),
    Column("method_config", "JSON", "method.config", "The method's settings."),
    Column("cite", "text", "method.cite", "Where the method was published."),
    Column("seed", "integer", "seed", "Seed of the run."),
    Column("hyperparameters", "text", "hyperparameters", "Where the settings come from: the default, a suite's, a task's, a recipe's."),
    Column("config", "JSON", "config", "The resolved configuration, which `run_id` is the hash of."),
    Column("code_version", "text", "code.version", "Version of petlbench."),
    Column("code_commit", "text", "code.commit", "Its commit, when it ran from a checkout."),
    Column("code_is_dirty", "yes or no", "code.is_dirty", "Whether that checkout had been modified."),
    Column("python", "text", "environment.python", "Version of Python."),
    Column("platform", "text", "environment.platform", "Operating system."),
    Column("device", "text", "environment.device", "Processor or GPU."),
    Column("threads", "integer", "environment.threads", "Threads of torch."),
    Column("precision", "text", "environment.precision", "Number format that was used."),
    Column("packages", "JSON", "environment.packages", "Versions of libraries."),
    Column("params_trainable", "integer", "parameters.trainable", "Trained parameters without the head."),
    Column("params_head", "integer", "parameters.head", "Parameters of the head."),
    Column("stored_bytes", "integer", "parameters.stored_bytes", "Size of what is stored for the task, head included."),
    Column("params_backbone", "integer", "parameters.backbone", "Parameters of the backbone, as `backbone_parameters`."),
    Column("allocation", "JSON", "parameters.allocation", "Where the trained parameters are: place -> count."),
    Column("accuracy", "number", "metrics.accuracy", "Percent of the test split."),
    Column("standard_error", "number", "metrics.standard_error", "Of the accuracy, percent, binomial."),
    Column("samples", "integer", "metrics.samples", "Images of the test split."),
    Column("val_accuracy", "number", "metrics.val_accuracy", "Percent of the validation split, under `best_val`."),
    Column("parts", "JSON", "metrics.parts", "Accuracies of the tasks that were joined to one, by name."),
    Column("train_seconds", "number", "cost.train_seconds", "Time of training."),
    Column("eval_seconds", "number", "cost.eval_seconds", "Time of predicting the test split."),
    Column("total_seconds", "number", "cost.total_seconds", "Time of the run."),
    Column(
        "run_memory_mb", "number", "cost.run_memory_mb", "Memory that the run added to the loaded backbone, at its peak; from version 4 on."
    ),
    Column(
        "peak_memory_mb",
        "number",
        "cost.peak_memory_mb",
        "Peak of the whole process: of device memory on a GPU, its resident set on a CPU.",
    ),
    Column("images_decoded", "integer", "cost.images_decoded", "Image files decoded."),
    Column("images_forwarded", "integer", "cost.images_forwarded", "Images through the backbone, all phases, without looks for the curve."),
    Column("images_encoded", "integer", "cost.images_encoded", "Images through models that the method has beside the backbone."),
    Column("flops_per_image", "number", "cost.flops_per_image", "Of a prediction."),
    *(
        Column(f"{phase}_{what}", "integer", f"cost.queries.{phase}.{what}", _COUNTS[what].format(_DOING[phase]))
        for phase in PHASES
        for what in COUNTED
    ),
    Column("history", "JSON", "history", "Loss, learning rate and accuracies by epoch."),
    Column("curve", "JSON", "curve", "Test accuracy after so many images and contexts."),
    Column("token_usage", "text", "token_usage", "File of how much each class uses of a library of tokens, beside the record."),
    Column("predictions_file", "text", "predictions.file", "File of the predictions, beside the record."),
    Column("predictions_sha256", "text", "predictions.sha256", "Its hash."),
    Column("checkpoint", "text", "checkpoint", "File of what was learned, relative to the results folder."),
)


def flat_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record, ``COLUMNS`` with the same types whatever the records hold; empty where a record has no such value."""
    rows = [[_value(record.model_dump(mode="json"), column) for column in COLUMNS] for record in records]
    frame = pd.DataFrame(rows, columns=[column.name for column in COLUMNS], dtype=object)
    return frame.astype({column.name: _TYPES[column.kind] for column in COLUMNS})


def write_flat(results: Path) -> list[Path]:
    """Write RESULTS/runs.csv and RESULTS/runs.parquet. RecordError, after the CSV, when there is no pyarrow to write Parquet with."""
    if not RecordStore(results).paths():
        raise RecordError(f"no records below {results / 'records'}; run petlbench bench first, or name another folder with out=DIR")
    frame = flat_frame(RecordStore(results).read())
    csv, parquet = results / "runs.csv", results / "runs.parquet"
    write_atomically(csv, frame.to_csv(index=False, lineterminator="\n").encode())
    if importlib.util.find_spec("pyarrow") is None:
        raise RecordError(f"{parquet} needs pyarrow: pip install 'petlbench[parquet]'; {csv} is written")
    content = io.BytesIO()
    frame.to_parquet(content, engine="pyarrow", index=False)
    write_atomically(parquet, content.getvalue())
    return [csv, parquet]


def _value(record: dict[str, Any], column: Column) -> Any:
    value: Any = record
    for key in column.field.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if column.kind == "JSON" and value is not None:
        return json.dumps(value, sort_keys=True)
    return None if value == "" else value
