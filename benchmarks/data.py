"""Speed of the image store: ``python -m benchmarks.data --count 1000 --json FILE``.

Photographs are imitated: smooth noise as JPEG files in a temporary folder, up to ``DISTINCT`` different ones, the rest links to them. Measured are

* ``prepare``: decoding all of them once into a store, in seconds and MB on the disk;
* ``store``: epochs of batches from that store, on the training device, cut, augmented and normalised, as a run reads them;
* ``stream``: the same batches where nothing may be stored, and how much the process grows meanwhile;
* ``reference``: torch's DataLoader over the files with Pillow, torchvision's transforms and ``--workers`` processes, which stay alive.

The first epoch of each is a warm-up; speeds are medians over the others. Without chance in it, the first batches of all three are compared bit by bit.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.options import JSON, write_results
from petlbench.cli.printing import table_console
from petlbench.config.settings import Protocol
from petlbench.data.batches import Batches
from petlbench.data.listing import Files
from petlbench.data.load import Task, load_task
from petlbench.data.task import TaskSpec
from petlbench.errors import PetlbenchError
from petlbench.learners import cost as measure
from petlbench.optim.device import pick_device
from petlbench.torchvision_ops import define_missing_schemas

DISTINCT = 500  # images that differ; reading the same file again is no faster once its bytes are in memory
COMPARED = 4  # batches
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AUGMENTS = ("none", "crop + flip", "random_resized_crop + flip")
UNLIMITED_MB = 10**9

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    count: int
    width: int
    height: int
    size: int
    resize: int | None
    augment: str
    batch: int
    epochs: int
    workers: int
    reference_images: int
    device: str
    threads: int | None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--count", type=click.IntRange(2), default=1000, help="Training images.")
@click.option("--width", type=click.IntRange(1), default=500, help="Of the files.")
@click.option("--height", type=click.IntRange(1), default=375, help="Of the files.")
@click.option("--size", type=click.IntRange(1), default=224, help="Side of the images that a backbone reads.")
@click.option("--resize", type=click.IntRange(1), default=None, help="Of the shorter side, before the cut.  [default: --size]")
@click.option("--augment", type=click.Choice(AUGMENTS), default="none", help="Of training images.")
@click.option("--batch", type=click.IntRange(1), default=64, help="Images of a batch.")
@click.option("--epochs", type=click.IntRange(1), default=3, help="Counted epochs.")
@click.option("--workers", type=click.IntRange(0), default=2, help="Processes of the reference.")
@click.option(
    "--reference-images", type=click.IntRange(2), default=2000, help="Images of an epoch of the reference and of the stream, at most."
)
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Of the store.  [default: all cores]")
@JSON
def main(target: Path | None, **settings: Any) -> None:
    """Measure the image store against a DataLoader."""
    try:
        result = measured(Settings(**settings))
    except PetlbenchError as error:
        click.echo(f"petlbench: {error}", err=True)
        sys.exit(2)
    show(result)
    write_results(target, result)


def measured(settings: Settings) -> dict[str, Any]:
    """All figures. The stream comes first: what a store maps into memory counts as the process's own."""
    device = pick_device(settings.device)
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="petlbench-bench-") as name:
        folder = Path(name)
        os.environ["PETLBENCH_CACHE"] = str(folder / "cache")
        files = write_images(folder, settings)
        fewer = files[: settings.reference_images]
        streamed = training(loaded(folder, fewer, settings, store_mb=0), settings, device)
        before = measure.peak_memory_mb(device)
        rows = [timed("stream", streamed, len(fewer), settings)]
        rows[0]["grown_mb"] = measure.peak_memory_mb(device) - before
        started = time.perf_counter()
        task = loaded(folder, files, settings, UNLIMITED_MB)
        prepare = {"seconds": time.perf_counter() - started, "images": task.images_decoded}
        prepare["megabytes"] = sum(path.stat().st_size for path in folder.rglob("pixels.bin")) / 2**20
        stored = training(task, settings, device)
        rows.append(timed("store", stored, len(files), settings))
        reference = loader([folder / file for file in fewer], settings, device)
        rows.append(timed("reference", reference, len(fewer), settings))
        first = [torch.cat([images.cpu() for images, _ in itertools.islice(made, COMPARED)]) for made in (streamed.in_order(), reference)]
        first.append(stored.images(torch.arange(len(first[0]))).cpu())
        is_identical = torch.equal(first[0], first[1]) and torch.equal(first[0], first[2]) if settings.augment == "none" else None
    return {"settings": asdict(settings), "prepare": prepare, "rows": rows, "bit_identical": is_identical}


def write_images(folder: Path, settings: Settings) -> list[str]:
    """The names of ``count`` JPEG files of smooth noise."""
    names = [f"{index:06d}.jpg" for index in range(settings.count)]
    for index, name in enumerate(names):
        if index < DISTINCT:
            coarse = np.random.default_rng(index).integers(0, 256, (settings.height // 8 + 1, settings.width // 8 + 1, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((settings.width, settings.height), Image.Resampling.BICUBIC).save(folder / name, quality=90)
        else:
            (folder / name).hardlink_to(folder / names[index % DISTINCT])
    return names


def loaded(folder: Path, files: list[str], settings: Settings, store_mb: int) -> Task:
    """The files as training images, and two of them in the other splits."""
    splits = {"train": files, "val": files[:1], "test": files[1:2]}
    spec = TaskSpec(
        name="benchmark/noise",
        class_names=("noise",),
        templates=("{}",),
        revision="1",
        source=lambda split: Files(folder, splits[split], [0] * len(splits[split])),
    )
    protocol = Protocol(resize=settings.resize, resize_mode="short", augment=settings.augment)
    return load_task(spec, protocol, settings.size, *IMAGENET, store_mb)


def training(task: Task, settings: Settings, device: torch.device) -> Batches:
    """The training images in batches, shuffled."""
    return Batches(task.train, task.transform, settings.batch, device, torch.Generator().manual_seed(0))


class _Files(Dataset[tuple[Tensor, int]]):
    """The reference's images, decoded by Pillow."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self._paths[index]) as image:
            return self._transform(image.convert("RGB")), 0


def loader(paths: list[Path], settings: Settings, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """torch's DataLoader with the same transform from torchvision."""
    define_missing_schemas()
    from torchvision import transforms as tv

    bicubic = tv.InterpolationMode.BICUBIC
    short = tv.Resize(settings.resize or settings.size, bicubic)
    steps = {
        "none": [short, tv.CenterCrop(settings.size)],
        "crop + flip": [short, tv.RandomCrop(settings.size), tv.RandomHorizontalFlip()],
        "random_resized_crop + flip": [tv.RandomResizedCrop(settings.size, interpolation=bicubic), tv.RandomHorizontalFlip()],
    }[settings.augment]
    dataset = _Files(paths, tv.Compose([*steps, tv.ToTensor(), tv.Normalize(*IMAGENET)]))
    workers: dict[str, Any] = {"num_workers": settings.workers, "persistent_workers": settings.workers > 0}
    return DataLoader(dataset, settings.batch, pin_memory=device.type == "cuda", **workers)


def timed(name: str, made: Iterable[tuple[Tensor, Tensor]], count: int, settings: Settings) -> Row:
    """Images per second, of which the last are on the device."""
    device = pick_device(settings.device)
    rates = []
    for _ in range(1 + settings.epochs):
        started = time.perf_counter()
        for images, _ in made:
            images.to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(count / (time.perf_counter() - started))
    rate = statistics.median(rates[1:])
    return {
        "name": name,
        "images_per_second": rate,
        "batch_ms": 1000 * settings.batch / rate,
        "first_epoch": rates[0],
        "samples": rates[1:],
    }


def show(result: dict[str, Any]) -> None:
    """The figures as a table."""
    settings, prepare = result["settings"], result["prepare"]
    rates = {row["name"]: row["images_per_second"] for row in result["rows"]}
    title = f"{settings['count']:,} JPEG files of {settings['width']} x {settings['height']} to {settings['size']}, augment: {settings['augment']}"
    made = f"prepare: {prepare['images']:,} images in {prepare['seconds']:.1f} s, {prepare['megabytes']:,.0f} MB"
    bits = {None: "not compared", True: "bit-identical", False: "NOT bit-identical"}[result["bit_identical"]]
    table = Table(title=title, caption=f"{made}; results {bits}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "images/s", "first epoch", "ms per batch", "x reference", "grown MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in result["rows"]:
        figures = (row["images_per_second"], row["first_epoch"], row["batch_ms"], row["images_per_second"] / rates["reference"])
        grown = f"{row['grown_mb']:,.0f}" if "grown_mb" in row else "–"
        table.add_row(row["name"], *(format(figure, "#,.4g") for figure in figures), grown)
    table_console().print(table)


if __name__ == "__main__":
    main()
