"""Speed of the black-box methods: ``python -m benchmarks.blackbox --parts blackvip,craft --json FILE``.

Two ways through the same step, with the same model, the same perturbations and the same queries:

* ``released``: as the released code goes. BlackVIP asks for one perturbation after the other and runs the frozen encoder and the decoder layer by
  layer in each; CraFT's contexts go through the text tower one by one, at all of its positions.
* ``petlbench``: the plugins' own steps. ``fresh views``: the encoder runs once per step, as augmented images need it; ``known views``: its features
  are known from an earlier epoch.

Models are of ViT-B/32's size with random weights: an open_clip CLIP as the model that is asked, a timm ViT as the encoder. The released way is in
fp32 on a CPU and in autocast on a GPU, where the released code uses it (fp16 there, bf16 here); petlbench in ``--precision``. The ways take turns,
round by round; the first round of each is a warm-up and does not count. Figures are medians of the others, ratios quotients of those medians.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import open_clip
import torch
from rich.table import Table
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.options import JSON, place_of, write_results
from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones import text
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.families.open_clip import convert
from petlbench.cli.printing import table_console
from petlbench.config.settings import QueryConfig
from petlbench.methods.blackvip import BlackVIP, BlackVIPConfig
from petlbench.methods.blackvip.coordinator import compose
from petlbench.methods.blackvip.encoder import ClassToken, Encoder
from petlbench.optim.precision import choose
from petlbench.optim.spsa import SPSA, SPSAConfig

CLIP, VIT = "ViT-B-32", {"patch_size": 32, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_classes": 0}
Way = Callable[[], object]


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement. Letters: B images of a batch, K repeats of SPSA, C classes, P contexts of a population."""

    device: torch.device
    precision: str  # of petlbench: fp32 or bf16
    released_precision: str
    batch: int  # B
    repeats: int  # K
    classes: int  # C
    contexts: int  # P
    rounds: int


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--parts", default="blackvip,craft", help="What to measure, separated by commas.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "auto"]), default="auto", help="Number format of petlbench.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--batch", type=click.IntRange(1), default=8, help="Images of a step.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Two-sided estimates per step of SPSA.")
@click.option("--classes", type=click.IntRange(2), default=10)
@click.option("--contexts", type=click.IntRange(1), default=40, help="Candidates of a population.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Counted rounds.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Of torch on a CPU.  [default: all cores]")
@JSON
def main(parts: str, precision: str, device: str, threads: int | None, target: Path | None, **sizes: Any) -> None:
    """Measure a step of BlackVIP and a population of CraFT, as released and as in petlbench."""
    known: dict[str, Callable[[Backbone, Settings], dict[str, Any]]] = {"blackvip": measure_blackvip, "craft": measure_craft}
    if unknown := [part for part in parts.split(",") if part not in known]:
        raise click.UsageError(f"--parts takes {', '.join(known)}, got {unknown[0]}")
    place = place_of(device, threads)
    backbone = build_backbone().to(place)
    released_precision = "bf16" if place.type == "cuda" else "fp32"
    settings = Settings(place, choose(precision, place, backbone.parameter_count), released_precision, **sizes)
    results = {part: known[part](backbone, settings) for part in parts.split(",")}
    for part, result in results.items():
        table_console().print(table(part, result, settings))
    sizes |= {"precision": settings.precision, "released_precision": released_precision}
    write_results(target, {"settings": sizes, "results": results}, place, settings.precision)


def build_backbone() -> Backbone:
    """The model that is asked: an open_clip CLIP with random weights."""
    torch.manual_seed(0)
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are meant
    return convert(open_clip.create_model(CLIP, pretrained=None), f"random {CLIP}", CLIP, source="random")


class CountingEncoder(Encoder):  # type: ignore[misc]
    """Counts the images that one of several methods sends through the tower that they share."""

    images = 0

    def __call__(self, images: Tensor, number_format: str = "fp32") -> Tensor:
        self.images += len(images)
        return super().__call__(images, number_format)


def measure_blackvip(backbone: Backbone, settings: Settings) -> dict[str, Any]:
    """A step of SPSA on the coordinator, three ways, each with a decoder and an optimiser of its own that start alike."""
    device, side = settings.device, backbone.card.input_size
    tower = ClassToken(VisionTransformer(img_size=side, **VIT), norm=False)
    images = torch.randn(settings.batch, 3, side, side, device=device)
    labels = torch.randint(settings.classes, (settings.batch,), device=device)
    counters = {name: Meter() for name in ("released", "petlbench, fresh views", "petlbench, known views")}
    ways: dict[str, Way] = {}
    methods: dict[str, BlackVIP] = {}
    with _opened(backbone, settings, counters, Access.SCORES) as models:
        for name, model in models.items():
            spsa = SPSAConfig(repeats=settings.repeats, sequential_exact=name == "released")
            method = methods[name] = BlackVIP(BlackVIPConfig(spsa=spsa))
            method.encoder = CountingEncoder(tower, side, VIT["embed_dim"])
            method.build_coordinator(model, method.encoder.feature_width)
            method.to(device).train()
            method.number_format = settings.released_precision if name == "released" else settings.precision
            method.load_state_dict(methods["released"].state_dict())  # all start alike
            optimizer = SPSA(nn.utils.parameters_to_vector(method.decoder.parameters()), spsa)
            ways[name] = _way(name, method, model, optimizer, images, labels)
            method.encoder.images = 0  # what the way knows beforehand is no part of its steps
        seconds = timed(ways, settings.rounds, settings.device)
    return {
        name: {
            "seconds": seconds[name],
            "images": counters[name].counts["train"]["images"],
            "calls": counters[name].counts["train"]["calls"],
            "encoded": methods[name].encoder.images,
        }
        for name in ways
    }


def _way(name: str, method: BlackVIP, model: QueryModel, optimizer: SPSA, images: Tensor, labels: Tensor) -> Way:
    known = method.encoder(images)

    def released(candidates: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(candidates[0], method.decoder.parameters())
        prompts = method.decoder.plain(method._encoded(images))
        prompted = compose(images, prompts, method.config.p_eps, method.low, method.high)
        return F.cross_entropy(model.scores(prompted), labels)[None]

    def fresh() -> Tensor:
        return method.step(model, optimizer, images, method._encoded(images), labels)

    return {
        "released": lambda: optimizer.step(released),
        "petlbench, fresh views": torch.no_grad()(fresh),
        "petlbench, known views": torch.no_grad()(lambda: method.step(model, optimizer, images, known, labels)),
    }[name]


def measure_craft(backbone: Backbone, settings: Settings) -> dict[str, Any]:
    """The scores of a batch under a population of prompt contexts."""
    side = backbone.card.input_size
    images = torch.randn(settings.batch, 3, side, side, device=settings.device)
    counters = {name: Meter(phase="val") for name in ("released", "petlbench")}
    with _opened(backbone, settings, counters, Access.CONTEXT) as models:
        stored = {name: model.upload(images) for name, model in models.items()}
        for meter in counters.values():
            meter.phase = "train"
        first = models["petlbench"].context
        population = first + 0.1 * torch.randn(settings.contexts, *first.shape, device=settings.device)
        answers: dict[str, Tensor] = {}

        def released() -> None:
            answers["released"] = torch.cat([models["released"].context_scores(stored["released"], one[None]) for one in population])

        def ours() -> None:
            answers["petlbench"] = models["petlbench"].context_scores(stored["petlbench"], population)

        seconds = timed({"released": released, "petlbench": ours}, settings.rounds, settings.device)
    return {
        name: {
            "seconds": seconds[name],
            "contexts": meter.counts["train"]["contexts"],
            "calls": meter.counts["train"]["calls"],
            "largest_difference": (answers[name] - answers["released"]).abs().max().item(),
        }
        for name, meter in counters.items()
    }


@contextmanager
def _all_positions() -> Iterator[None]:
    """Text towers that compute every position, behind the end token as well."""
    trim = text.trim
    text.trim = lambda tower, tokens: tokens
    try:
        yield
    finally:
        text.trim = trim


@contextmanager
def _opened(backbone: Backbone, settings: Settings, meters: dict[str, Meter], access: Access) -> Iterator[dict[str, QueryModel]]:
    """A handle for each way, with a meter of its own."""
    names = tuple(f"class {number}" for number in range(settings.classes))
    is_context = access is Access.CONTEXT
    texts = ClassTexts(tuple((f"a photo of a {name}.",) for name in names), "a photo of a" if is_context else None)
    answers = QueryConfig(batch=2**20 if settings.device.type == "cuda" else 256)
    with ExitStack() as stack:
        models = {}
        for name, meter in meters.items():
            is_released = name == "released"
            endpoint = backbone.endpoint(settings.device, settings.released_precision if is_released else settings.precision)
            with _all_positions() if is_released else nullcontext():  # class texts are cut when they are described
                models[name] = stack.enter_context(grant(access, endpoint, names, texts, meter, answers))
        yield models


def timed(ways: dict[str, Way], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every counted round of each way; the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(part: str, result: dict[str, Any], settings: Settings) -> Table:
    """Medians, their ratios to the released way, and what was sent per round."""
    formats = f"released {settings.released_precision}, petlbench {settings.precision}"
    shown = Table(title=f"{part}: {settings.batch} images, {formats}", box=None, padding=(0, 2, 0, 0))
    first = next(iter(result.values()))
    counted = [key for key in first if isinstance(first[key], int)]
    compared = [key for key in first if isinstance(first[key], float)]
    for heading in (
        "",
        "s per round",
        "times faster",
        *(f"{key} per round" for key in counted),
        *(key.replace("_", " ") for key in compared),
    ):
        shown.add_column(heading, justify="right" if heading else "left")
    released = statistics.median(result["released"]["seconds"])
    for name, row in result.items():
        median = statistics.median(row["seconds"])
        counts = [f"{row[key] / (settings.rounds + 1):,.4g}" for key in counted]
        shown.add_row(name, f"{median:.3f}", f"{released / median:.2f}", *counts, *(f"{row[key]:.3g}" for key in compared))
    return shown


if __name__ == "__main__":
    main()
