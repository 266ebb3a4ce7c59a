"""Export all runs as one flat table: a row per record, finished or not, a column per field."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pandas as pd

from petlbench.access.meter import COUNTED, PHASES
from petlbench.analysis.escape import csv_of
from petlbench.errors import RecordError
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, atomic_file

_AT_ONCE = 50  # records, each of which may be a MB of history
_TYPES = {"text": "string", "JSON": "string", "integer": "Int64", "number": "Float64", "yes or no": "boolean"}


@dataclass(frozen=True)
class FlatColumn:
    """A column of the flat table."""

    name: str
    type: Literal["text", "JSON", "integer", "number", "yes or no"]
    field: str  # of a record, with dots
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
    FlatColumn("run_id", "text", "run_id", "Hash of the resolved configuration."),
    FlatColumn("schema_version", "integer", "schema_version", "Of the record."),
    FlatColumn(
        "status",
        "text",
        "status",
        "`ok`, `budget` (ended when its budget was spent, with a result), `failed`, `diverged`, `cancelled` or `pruned`.",
    ),
    FlatColumn("error", "text", "error", "Why there is no result, or which budget was spent."),
    FlatColumn("created", "text", "created", "When the record was written; ISO 8601, UTC."),
    FlatColumn("suite", "text", "suite", "Suite or family of the task."),
    FlatColumn("task", "text", "task", "SUITE/TASK."),
    FlatColumn("task_revision", "text", "task_revision", "Revision of the data."),
    FlatColumn("class_count", "integer", "class_count", "Classes of the task."),
    FlatColumn("layout", "text", "layout", "How the images lay on the disk; empty where the task makes them."),
    FlatColumn("split", "text", "split", "Whose splits they are: published ones, or how they were made."),
    FlatColumn("split_train", "text", "split_hashes.train", "Hash of the training split."),
    FlatColumn("split_val", "text", "split_hashes.val", "Hash of the validation split."),
    FlatColumn("split_test", "text", "split_hashes.test", "Hash of the test split."),
    FlatColumn("protocol", "text", "protocol.id", "Name and hash of the protocol."),
    FlatColumn("protocol_settings", "JSON", "protocol.settings", "The protocol's settings."),
    FlatColumn("selection", "text", "selection", "Rule that chose the epoch: `last`, `best_val` or `oracle_test`."),
    FlatColumn("backbone", "text", "backbone.name", "Name of the backbone."),
    FlatColumn("backbone_sha256", "text", "backbone.sha256", "Hash of its weights."),
    FlatColumn("backbone_parameters", "integer", "backbone.parameters", "Parameters of its vision tower."),
    FlatColumn("transport", "text", "backbone.transport", "`in_process`, or `http` for a remote backbone."),
    FlatColumn("activation", "text", "backbone.activation", "Activation of its vision tower; empty if not recorded."),
    FlatColumn("image_mean", "JSON", "backbone.mean", "Mean of the images' normalisation, by channel; [] if not recorded."),
    FlatColumn("image_std", "JSON", "backbone.std", "Standard deviation of it."),
    FlatColumn("self_check", "JSON", "backbone.self_check", "Its answers to a fixed picture; [] if not recorded."),
    FlatColumn("method", "text", "method.name", "Method as typed: a plugin or one of its presets."),
    FlatColumn("plugin", "text", "method.plugin", "The plugin behind it."),
    FlatColumn("access", "text", "method.access", "Rung of the access ladder that was granted."),
    FlatColumn("access_seen", "text", "method.access_seen", "Highest rung that was used."),
    FlatColumn("method_config", "JSON", "method.config", "The method's settings."),
    FlatColumn("cite", "text", "method.cite", "Where the method was published."),
    FlatColumn("seed", "integer", "seed", "Seed of the run."),
    FlatColumn(
        "hyperparameters", "text", "hyperparameters", "Where the settings come from: the default, a suite's, a task's, a recipe's, tuned."
    ),
    FlatColumn("tuning_study", "text", "tuning.study", "Study that tuned them."),
    FlatColumn("tuning_trials", "integer", "tuning.trials", "Its trials."),
    FlatColumn("tuning_asked", "integer", "tuning.asked", "Trials that it was to have."),
    FlatColumn("tuning_failed", "integer", "tuning.failed", "Trials of it without a result."),
    FlatColumn("tuning_pruned", "integer", "tuning.pruned", "Trials of it that were ended early."),
    FlatColumn("tuning_sampler", "text", "tuning.sampler", "Its sampler."),
    FlatColumn("tuning_seed", "integer", "tuning.sampler_seed", "The sampler's seed."),
    FlatColumn("tuning_seeds", "JSON", "tuning.seeds", "Seeds of each of its trials."),
    FlatColumn(
        "tuning_default_val_accuracy", "number", "tuning.default_val_accuracy", "Of its first trial, which has the default settings."
    ),
    FlatColumn("tuning_val_accuracy", "number", "tuning.val_accuracy", "Of its winner, percent of the validation split."),
    FlatColumn("tuning_seconds", "number", "tuning.seconds", "Time of all its trials."),
    FlatColumn("tuning_queries", "JSON", "tuning.queries", "What all its trials sent, by phase."),
    FlatColumn("config", "JSON", "config", "The resolved configuration, which `run_id` is the hash of."),
    FlatColumn("code_version", "text", "code.version", "Version of petlbench."),
    FlatColumn("code_commit", "text", "code.commit", "Its commit, when it ran from a checkout."),
    FlatColumn("code_is_dirty", "yes or no", "code.is_dirty", "Whether that checkout had been modified."),
    FlatColumn("python", "text", "environment.python", "Version of Python."),
    FlatColumn("platform", "text", "environment.platform", "Operating system."),
    FlatColumn("device", "text", "environment.device", "Processor or GPU."),
    FlatColumn("threads", "integer", "environment.threads", "Threads of torch."),
    FlatColumn("precision", "text", "environment.precision", "Number format that was used."),
    FlatColumn("packages", "JSON", "environment.packages", "Versions of libraries."),
    FlatColumn("params_trainable", "integer", "parameters.trainable", "Trained parameters without the head."),
    FlatColumn("params_head", "integer", "parameters.head", "Parameters of the head."),
    FlatColumn("stored_bytes", "integer", "parameters.stored_bytes", "Size of what is stored for the task, head included."),
    FlatColumn("params_backbone", "integer", "parameters.backbone", "Parameters of the backbone, as `backbone_parameters`."),
    FlatColumn("allocation", "JSON", "parameters.allocation", "Where the trained parameters are: place -> count."),
    FlatColumn("accuracy", "number", "metrics.accuracy", "Percent of the test split; of val under `protocol.score_on=val`, in a trial."),
    FlatColumn("standard_error", "number", "metrics.standard_error", "Of the accuracy, percent, binomial."),
    FlatColumn("samples", "integer", "metrics.samples", "Images of the split that `accuracy` is of."),
    FlatColumn("val_accuracy", "number", "metrics.val_accuracy", "Percent of the validation split, under `best_val`."),
    FlatColumn("parts", "JSON", "metrics.parts", "Accuracies of the tasks that were joined to one, by name."),
    FlatColumn("train_seconds", "number", "cost.train_seconds", "Time of training."),
    FlatColumn("eval_seconds", "number", "cost.eval_seconds", "Time of predicting the test split."),
    FlatColumn("total_seconds", "number", "cost.total_seconds", "Time of the run."),
    FlatColumn(
        "run_memory_mb", "number", "cost.run_memory_mb", "Memory that the run added to the loaded backbone, at its peak; from version 4 on."
    ),
    FlatColumn(
        "peak_memory_mb",
        "number",
        "cost.peak_memory_mb",
        "Peak of the whole process: of device memory on a GPU, its resident set on a CPU.",
    ),
    FlatColumn("resumed", "integer", "cost.resumed", "Times that the run went on after an interruption; seconds are the sum."),
    FlatColumn("images_decoded", "integer", "cost.images_decoded", "Image files decoded."),
    FlatColumn(
        "images_forwarded", "integer", "cost.images_forwarded", "Images through the backbone, all phases, without looks for the curve."
    ),
    FlatColumn("images_encoded", "integer", "cost.images_encoded", "Images through models that the method has beside the backbone."),
    FlatColumn("flops_per_image", "number", "cost.flops_per_image", "Of a prediction."),
    *(
        FlatColumn(f"{phase}_{what}", "integer", f"cost.queries.{phase}.{what}", _COUNTS[what].format(_DOING[phase]))
        for phase in PHASES
        for what in COUNTED
    ),
    FlatColumn("history", "JSON", "history", "Loss, learning rate and accuracies by epoch."),
    FlatColumn("curve", "JSON", "curve", "Test accuracy after so many images and contexts."),
    FlatColumn("token_usage", "text", "token_usage", "File of how much each class uses of a library of tokens, beside the record."),
    FlatColumn("predictions_file", "text", "predictions.file", "File of the predictions, beside the record."),
    FlatColumn("predictions_sha256", "text", "predictions.sha256", "Its hash."),
    FlatColumn("checkpoint", "text", "checkpoint", "File of what was learned, relative to the results folder."),
)


def flat_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per record with ``COLUMNS``, of the same types for all records; empty where a record has no value."""
    rows = [[_value(record, column) for column in COLUMNS] for record in records]
    frame = pd.DataFrame(rows, columns=[column.name for column in COLUMNS], dtype=object)
    return frame.astype({column.name: _TYPES[column.type] for column in COLUMNS})


def write_flat(results: Path, records: Iterable[Record]) -> list[Path]:
    """Write the records of a results folder as RESULTS/runs.csv and RESULTS/runs.parquet. RecordError, after the CSV is written, if pyarrow is missing.

    ``records`` may be read meanwhile: no more than ``_AT_ONCE`` of them are in memory.
    """
    if not RecordStore(results).paths():
        raise RecordError(f"no records below {results / 'records'}; run petlbench bench first, or choose another folder with out=DIR")
    csv, parquet = results / "runs.csv", results / "runs.parquet"
    has_pyarrow = importlib.util.find_spec("pyarrow") is not None
    with ExitStack() as stack:
        as_csv = _csv_writer(stack.enter_context(atomic_file(csv)))
        as_parquet = _parquet_writer(stack.enter_context(atomic_file(parquet)), stack) if has_pyarrow else lambda frame: None
        for frame in _frames(records):
            as_csv(frame)
            as_parquet(frame)
    if not has_pyarrow:
        raise RecordError(f"{parquet} needs pyarrow: pip install 'petlbench[parquet]'; {csv} is written")
    return [csv, parquet]


def _frames(records: Iterable[Record]) -> Iterator[pd.DataFrame]:
    """Return ``flat_frame`` in pieces, at least one."""
    rest = iter(records)
    yield flat_frame(islice(rest, _AT_ONCE))
    while len(frame := flat_frame(islice(rest, _AT_ONCE))):
        yield frame


def _csv_writer(file: BinaryIO) -> Callable[[pd.DataFrame], None]:
    def write(frame: pd.DataFrame) -> None:
        content = csv_of(frame)
        file.write(content if not file.tell() else content.partition(b"\n")[2])  # headings once

    return write


def _parquet_writer(file: BinaryIO, stack: ExitStack) -> Callable[[pd.DataFrame], None]:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]

    writers: list[ParquetWriter] = []

    def write(frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if not writers:
            writers.append(stack.enter_context(ParquetWriter(file, table.schema)))
        writers[0].write_table(table.cast(writers[0].schema))

    return write


def _value(record: Record, column: FlatColumn) -> Any:
    value: Any = record
    for key in column.field.split("."):
        value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
    if column.type == "JSON" and value is not None:
        return json.dumps(value, sort_keys=True, default=vars)  # of models, such as epochs
    return None if value == "" else value
