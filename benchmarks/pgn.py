"""Measure the cost of prompts: ``python -m benchmarks.pgn --batch 32 --json FILE``.

The same model is asked in three ways, in inference and in a training step (forward, backward, one step of SGD on what is learned):

* ``backbone alone``: no tokens beside those of the image. In training the gradient goes through the model as far as the pixels, into a border of VP;
* ``fixed prompts``: the same K tokens for every image, which is the cost of carrying them through the tower;
* ``generated prompts``: PGN, its generator included.

The model is an open_clip CLIP of ViT-B/32's size with random weights, or mini_clip. The ways take turns, round by round; the first round of each is a
warm-up and does not count. Figures are medians of the others, ratios quotients of those medians.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.blackbox import Way, build_backbone, timed
from benchmarks.options import JSON, place_of, write_results
from petlbench import QueryMethod, QueryModel
from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone, load_backbone
from petlbench.cli.printing import table_console
from petlbench.config.settings import QueryConfig
from petlbench.methods.pgn import PGN, PGNConfig
from petlbench.methods.vp import VP, VPConfig
from petlbench.optim.precision import choose

BACKBONES: dict[str, Callable[[], Backbone]] = {"vit_b32": build_backbone, "mini_clip": partial(load_backbone, "mini_clip")}
ALONE = "backbone alone"


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    backbone: str
    device: torch.device
    precision: str  # of the model: fp32 or bf16; what is learned computes in fp32
    batch: int
    prompts: int
    classes: int
    rounds: int


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--backbone", type=click.Choice(list(BACKBONES)), default="vit_b32")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "auto"]), default="auto", help="Number format of the model.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--batch", type=click.IntRange(2), default=8, help="Images of a round.")
@click.option("--prompts", type=click.IntRange(1), default=16, help="Tokens beside those of an image.")
@click.option("--classes", type=click.IntRange(2), default=10)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Counted rounds.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Of torch on a CPU.  [default: all cores]")
@JSON
def main(backbone: str, precision: str, device: str, threads: int | None, target: Path | None, **sizes: int) -> None:
    """Measure a training step and inference with generated prompts against the model alone."""
    place = place_of(device, threads)
    model = BACKBONES[backbone]().to(place)
    settings = Settings(backbone, place, choose(precision, place, model.parameter_count), **sizes)
    results = measure(model, settings)
    for part, rows in results.items():
        table_console().print(table(part, rows, settings))
    shown = dataclasses.asdict(settings) | {"device": str(place)}
    write_results(target, {"settings": shown, "results": results}, place, settings.precision)


def measure(backbone: Backbone, settings: Settings) -> dict[str, dict[str, Any]]:
    """Part -> way -> ``seconds`` of every counted round and ``parameters`` that are learned."""
    side, device = backbone.card.input_size, settings.device
    images = torch.randn(settings.batch, 3, side, side, device=device)
    labels = torch.randint(settings.classes, (settings.batch,), device=device)
    methods: dict[str, QueryMethod] = {
        ALONE: VP(VPConfig()),
        "fixed prompts": PGN(PGNConfig(prompt_mode="iip", prompts=settings.prompts)),
        "generated prompts": PGN(PGNConfig(prompts=settings.prompts)),
    }
    names = tuple(f"class {number}" for number in range(settings.classes))
    texts = ClassTexts(tuple((f"This is a photo of a {name}",) for name in names))
    endpoint = backbone.endpoint(device, settings.precision)
    inference: dict[str, Way] = {}
    training: dict[str, Way] = {}
    with ExitStack() as stack:
        for name, method in methods.items():
            answers = QueryConfig(batch=settings.batch)
            model = stack.enter_context(grant(Access.GRADIENTS, endpoint, names, texts, Meter(), answers))
            method.build(model)
            method.to(device)
            asked = model.scores if name == ALONE else partial(method.predict, model)
            inference[name] = partial(_infer, method, asked, images)
            training[name] = partial(_step, method, model, torch.optim.SGD(method.parameters(), lr=1e-3), images, labels)
        seconds = {part: timed(ways, settings.rounds, device) for part, ways in (("inference", inference), ("training step", training))}
    counts = {name: sum(parameter.numel() for parameter in method.parameters()) for name, method in methods.items()}
    return {
        part: {name: {"seconds": samples, "parameters": counts[name]} for name, samples in ways.items()} for part, ways in seconds.items()
    }


@torch.no_grad()
def _infer(method: QueryMethod, asked: Callable[[Tensor], Tensor], images: Tensor) -> None:
    method.eval()
    asked(images)


def _step(method: QueryMethod, model: QueryModel, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    method.train()
    F.cross_entropy(method.predict(model, images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def table(part: str, rows: dict[str, Any], settings: Settings) -> Table:
    """Medians and their ratios to the backbone alone."""
    title = f"{part}: {settings.backbone}, {settings.batch} images, {settings.prompts} prompts, {settings.precision} on {settings.device}"
    shown = Table(title=title, box=None, padding=(0, 2, 0, 0))
    for heading in ("", "s per round", "images/s", "times as long", "parameters"):
        shown.add_column(heading, justify="right" if heading else "left")
    alone = statistics.median(rows[ALONE]["seconds"])
    for name, row in rows.items():
        median = statistics.median(row["seconds"])
        learned = "" if name == ALONE else f"{row['parameters']:,}"
        shown.add_row(name, f"{median:.4f}", f"{settings.batch / median:,.1f}", f"{median / alone:.2f}", learned)
    return shown


if __name__ == "__main__":
    main()
