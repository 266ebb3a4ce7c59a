"""Make a results folder of many runs without running one: ``python -m benchmarks.many_records FOLDER --count 10000``.

Every method on every task of some suites with several seeds, under the settings that ``petlbench plan`` would resolve, so that run ids are those of
real runs; records have what real ones have: predictions beside them, histories by epoch, curves of queries, allocations. Some runs failed, diverged,
ended with their budget or ran on older data, some settings were varied, some files are broken. The same arguments give the same folder.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from petlbench.checkpoints.file import packed_predictions
from petlbench.config.files import load_suite
from petlbench.config.identity import protocol_id, run_id
from petlbench.config.resolve import method_names, resolve
from petlbench.records import schema
from petlbench.records.provenance import code, environment
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore, side_file
from petlbench.registry import METHODS, TASKS

SUITES = {  # -> backbone, its blocks, its width, images of a test split
    "mini": ("mini_clip", 6, 128, 500),
    "vtab": ("vit_base_patch16_224.augreg_in21k", 12, 768, 2000),
    "fgvc": ("vit_base_patch16_224.augreg_in21k", 12, 768, 2000),
    "blackvip16": ("clip_vit_b16", 12, 768, 1000),
    "craft15": ("clip_rn50", 12, 768, 1000),
    "pgn12": ("clip_vit_b32", 12, 768, 1000),
}
SEEDS = 5
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_ERRORS = {"failed": "CUDA out of memory. Tried to allocate 2.40 GiB", "diverged": "the loss is no longer finite (epoch 3, step 17)"}
_ONE_IN = {"failed": 60, "diverged": 90, "budget": 200, "old data": 150, "varied": 40, "wrong": 400, "broken": 500}


@dataclass(frozen=True)
class Run:
    """One run of the grid: its number in it, and what its record starts from."""

    number: int
    suite: str
    task: str
    method: str
    seed: int

    @property
    def noise(self) -> random.Random:
        """Random numbers of this run alone."""
        return random.Random(f"{self.task} {self.method} {self.seed}")


def write_records(results: Path, count: int, suites: Sequence[str] = tuple(SUITES), seeds: int = SEEDS) -> list[Path]:
    """Write the records of the first ``count`` runs of a grid, all methods and tasks of one seed before the next; return their paths."""
    store, paths = RecordStore(results), []
    for run in islice(_grid(suites, seeds), count):
        record, files = _record(run, store)
        path = store.path(record.task, record.method.name, record.backbone.name, record.seed, record.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            file.write_bytes(content)
        document = record.model_dump_json(indent=1).encode() + b"\n"
        path.write_bytes(document[: len(document) // 2] if _is(run, "broken") else document)
        paths.append(path)
    return paths


def _grid(suites: Sequence[str], seeds: int) -> Iterator[Run]:
    tasks = [(suite, task) for suite in suites for task in load_suite(suite).tasks]
    grid = ((suite, task, method, seed) for seed in range(seeds) for suite, task in tasks for method in method_names())
    return (Run(number, *one) for number, one in enumerate(grid))


def _is(run: Run, what: str) -> bool:
    """Return True for one in so many runs, spread over tasks, methods and seeds."""
    return int(hashlib.sha256(f"{what} {run.task} {run.method} {run.seed}".encode()).hexdigest(), 16) % _ONE_IN[what] == 0


def _record(run: Run, store: RecordStore) -> tuple[Record, dict[Path, bytes]]:
    """Return the record of a run, and its files."""
    backbone, blocks, width, samples = SUITES[run.suite]
    config, hyperparameters = _config(run, backbone)
    method = {key: value for key, value in config["method"].items() if key not in ("name", "plugin")}
    access = METHODS.get(config["method"]["plugin"]).access.name
    status: schema.Status = next((name for name in ("failed", "diverged", "budget") if _is(run, name)), "ok")
    if status == "budget":
        config["budget"] = {**config["budget"], "images": 100_000}
    trained = _allocation(run.method, blocks, width)
    identity = run_id(config)
    path = store.path(run.task, run.method, backbone, run.seed, identity)
    result, files = _result(run, config, access, path, samples) if status in schema.RESULTS else ({}, {})
    created = (_FIRST + timedelta(minutes=run.number)).isoformat(timespec="seconds")
    record = Record(
        run_id=identity,
        status=status,
        error=_ERRORS.get(status, "budget.images is spent" if status == "budget" else None),
        created=created,
        suite=run.suite,
        task=run.task,
        task_revision=_revision(run),
        class_count=_classes(run.task),
        split_hashes={split: _digest(run.task, split, run.seed) for split in ("train", "val", "test")},
        protocol=schema.ProtocolId(id=protocol_id(config["protocol"]), settings=config["protocol"]),
        selection=config["protocol"]["selection"],
        backbone=schema.BackboneId(
            name=backbone,
            sha256=_digest(backbone),
            parameters=_parameters(blocks, width),
            activation="GELU",
            mean=[0.5, 0.5, 0.5],
            std=[0.5, 0.5, 0.5],
            self_check=[round(random.Random(f"{backbone} {i}").gauss(0, 0.2), 6) for i in range(8)],
        ),
        method=schema.Method(
            name=run.method, plugin=config["method"]["plugin"], access=access, access_seen=access, config=method, cite="arXiv:2106.09685"
        ),
        seed=run.seed,
        hyperparameters=hyperparameters,
        config=config,
        code=code(),
        environment=_environment(),
        parameters=schema.Parameters(
            trainable=sum(trained.values()),
            head=_classes(run.task) * (width + 1),
            stored_bytes=4 * (sum(trained.values()) + _classes(run.task) * (width + 1)),
            backbone=_parameters(blocks, width),
            allocation=trained,
        ),
        **result,
    )
    return record, files


def _result(run: Run, config: dict[str, Any], access: str, path: Path, samples: int) -> tuple[dict[str, Any], dict[Path, bytes]]:
    """Return metrics, costs, history and curve, which agree with each other and with the predictions, and the file of these."""
    noise, labels = run.noise, _labels(run.task, samples)
    predicted = _predicted(run, labels)
    accuracy = 100 * (predicted == labels).float().mean().item()
    content = packed_predictions(predicted, labels)
    file = side_file(path, "predictions", content)
    epochs = int(config["train"]["epochs"])
    seconds = noise.uniform(0.5, 2.0) * (10 + epochs)
    is_queried = access != "WEIGHTS"
    limit = config["budget"].get("images") or 200_000
    sent = min(limit, noise.randrange(1_000, 100_000)) if is_queried else 0
    queries = {
        "train": schema.QueryCount(calls=sent // 100, images=sent, contexts=40 * (sent // 100) if access == "CONTEXT" else 0),
        "val": schema.QueryCount(),
        "test": schema.QueryCount(calls=samples // 100, images=samples) if is_queried else schema.QueryCount(),
        "curve": schema.QueryCount(),
    }
    stated = accuracy + 1.0 if _is(run, "wrong") else accuracy
    fields = {
        "metrics": schema.Metrics(
            accuracy=min(100.0, stated), samples=samples, standard_error=math.sqrt(accuracy * (100 - accuracy) / samples)
        ),
        "cost": schema.Cost(
            train_seconds=seconds,
            eval_seconds=0.1 * seconds,
            total_seconds=1.2 * seconds,
            run_memory_mb=noise.uniform(50, 500),
            peak_memory_mb=noise.uniform(600, 1200),
            images_decoded=1000,
            images_forwarded=sent + samples if is_queried else 1000 * epochs,
            flops_per_image=38_008_320.0,
            queries=queries,
        ),
        "history": [
            schema.Epoch(epoch=epoch, loss=2 * 0.95**epoch + 0.1 * noise.random(), learning_rate=1e-3 * (1 - epoch / epochs))
            for epoch in range(epochs)
        ],
        "curve": [
            schema.CurvePoint(
                images=queries["train"].images * i // 10,
                contexts=queries["train"].contexts * i // 10,
                accuracy=min(100.0, stated) * (0.5 + 0.05 * i),
            )
            for i in range(11)
        ]
        if is_queried and sent
        else [],
        "predictions": schema.Predictions(file=file.name, sha256=hashlib.sha256(content).hexdigest()),
    }
    return fields, {file: content}


def _config(run: Run, backbone: str) -> tuple[dict[str, Any], str]:
    """Return the configuration that a run records, and where its settings come from."""
    common, hyperparameters = _resolved(run.method, run.task, backbone)
    config = {**common, "seed": run.seed}
    if _is(run, "varied"):
        config["train"] = {**config["train"], "learning_rate": 2 * config["train"]["learning_rate"]}
    return config, hyperparameters


@cache
def _resolved(method: str, task: str, backbone: str) -> tuple[dict[str, Any], str]:
    config = resolve({"method": method, "task": task, "backbone": backbone, "seed": 0})
    return config.identity, config.hyperparameters


@cache
def _environment() -> schema.Environment:
    return environment(torch.device("cpu"), "fp32")


@cache
def _classes(task: str) -> int:
    return 10 if task.startswith("mini/") else random.Random(task).choice([4, 10, 37, 47, 100, 102, 196])


def _revision(run: Run) -> str:
    now = str(getattr(TASKS.get(run.task), "revision", "")) if run.suite == "mini" else _digest(run.task)[:12]
    return f"{now}-before" if _is(run, "old data") else now


@cache
def _digest(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


@cache
def _labels(task: str, samples: int) -> Tensor:
    return torch.randint(_classes(task), (samples,), generator=_generator(task))


def _predicted(run: Run, labels: Tensor) -> Tensor:
    """Return classes that are right as often as the method is good and the task is easy."""
    skill, ease = random.Random(run.method).uniform(45, 80), random.Random(run.task).uniform(-15, 12)
    wanted = min(98.0, max(5.0, skill + ease + random.Random(f"{run.method} {run.task}").gauss(0, 4) + run.noise.gauss(0, 1.2)))
    generator = _generator(f"{run.task} {run.method} {run.seed}")
    is_right = torch.rand(len(labels), generator=generator) < wanted / 100
    return torch.where(is_right, labels, (labels + 1) % _classes(run.task))


def _generator(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(_digest(text)[:8], 16))


@cache
def _allocation(method: str, blocks: int, width: int) -> dict[str, int]:
    """Return trained parameters by place: the same matrices of every block, drawn once per method."""
    drawn = random.Random(method)
    chosen = {place for place in ("q", "k", "v", "proj", "fc1", "fc2") if drawn.random() < 0.4}
    places = ("norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2")
    return {f"{block}.{place}": 16 * width if place in chosen else 0 for block in range(blocks) for place in places}


def _parameters(blocks: int, width: int) -> int:
    return 12 * blocks * width * width


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=10_000, show_default=True, help="Records.")
@click.option("--suites", default=",".join(SUITES), show_default=True, help="Suites, with commas.")
@click.option("--seeds", type=click.IntRange(min=1), default=SEEDS, show_default=True, help="Seeds of every task.")
def main(folder: Path, count: int, suites: str, seeds: int) -> None:
    """Write a results folder of COUNT runs into FOLDER."""
    written = write_records(folder, count, suites.split(","), seeds)
    click.echo(f"{folder}: {len(written):,} records")


if __name__ == "__main__":
    main()
