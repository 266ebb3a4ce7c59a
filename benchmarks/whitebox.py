"""Speed and memory of the white-box methods: ``python -m benchmarks.whitebox --methods lora,vpt --json FILE``.

Every configuration is a warm process of its own: the methods on the harness's learner, exactly as a run trains them, and the references

* ``plain_full``: plain full fine-tuning of the timm model (AdamW, cross entropy, fp32), nothing of this project;
* ``plain_peft``: the peft library's LoRA (r = 8 on qkv, its defaults, fp32) in the same loop;
* ``gemm``: the bare matrix products of a block at the batch's number of tokens, in the run's number format. At their rate the products that
  a method cannot do without (`benchmarks/floor.py`) take the time that is its floor.

The processes work one at a time, in turn, a round of ``--steps`` batches each: first rounds of forward passes, then epochs of training. The
first round of each kind is a warm-up (it includes what a method prepares before its first step) and is not counted; figures are medians of
the others, ratios quotients of those medians. Weights of vit_b16 are random, images and labels random as well; shapes are those of real runs.

Memory on a CPU is the resident set, less what the process held when its imports were done ("model"); on a GPU what torch has allocated.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.subjects import BACKBONES, REFERENCES, Settings
from benchmarks.summary import summarise, table
from benchmarks.workers import measure
from petlbench.access.rungs import Access
from petlbench.cli.printing import table_console
from petlbench.config.resolve import load_method
from petlbench.errors import ConfigError, PetlbenchError
from petlbench.method import GradientMethod, Method
from petlbench.optim.device import pick_device
from petlbench.records import provenance
from petlbench.registry import METHODS


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--methods", help="Plugins and presets, separated by commas.  [default: every plugin that changes the network]", default=None)
@click.option("--backbone", type=click.Choice(list(BACKBONES)), default="vit_b16")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "auto"]), default="auto", help="Number format of the methods and of gemm.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--batch", type=click.IntRange(1), default=8, help="Images of a batch.")
@click.option("--steps", type=click.IntRange(1), default=1, help="Batches of a round.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Counted rounds.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Of torch on a CPU.  [default: all cores]")
@click.option(
    "--at-once", type=click.IntRange(len(REFERENCES) + 1), default=7, help="Processes alive at the same time, references included."
)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Where to write all samples.")
def main(methods: str | None, at_once: int, target: Path | None, **settings: Any) -> None:
    """Measure seconds and memory of the white-box methods against plain training loops and the floor of their matrix products."""
    try:
        failures = run(checked(methods), at_once, target, Settings(**settings))
    except PetlbenchError as error:
        click.echo(f"petlbench: {error}", err=True)
        sys.exit(2)
    sys.exit(1 if failures else 0)


def run(methods: Sequence[str], at_once: int, target: Path | None, settings: Settings) -> dict[str, str]:
    """Measure, print and write. Returns what failed and why."""
    pick_device(settings.device)  # refuses a device that is not there
    if target is not None and not target.absolute().parent.is_dir():
        raise ConfigError(f"cannot write {target}: there is no folder {target.parent}; create it or choose another with --json PATH")
    console = table_console()
    failures: dict[str, str] = {}
    groups: list[dict[str, Any]] = []
    machine: dict[str, Any] = {}
    parts = chunks(methods, at_once - len(REFERENCES))
    for number, part in enumerate(parts, start=1):
        title = f"group {number} of {len(parts)}"
        measured, failed = measure([*REFERENCES, *part], settings, title)
        for name, reason in failed.items():
            click.echo(f"petlbench: {name}: {reason}", err=True)
        failures |= failed
        machine = next((measurement.facts["machine"] for measurement in measured.values()), machine)
        groups.append(summarise(measured, settings))
        console.print(table(groups[-1], f"{settings.backbone}, batches of {settings.batch} images, {title}"))
    if target is not None:
        facts = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "code": provenance.code().model_dump(), "machine": machine}
        document = {**facts, "settings": dataclasses.asdict(settings), "groups": groups, "failures": failures}
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return failures


def checked(methods: str | None) -> list[str]:
    """The names to measure. ConfigError for one that is not known or does not train inside the network."""
    if methods is None:
        return [name for name in METHODS.names() if is_white_box(METHODS.get(name))]
    names = [name.strip() for name in methods.split(",")]
    for name in names:
        if not is_white_box(load_method(name)[0]):
            raise ConfigError(f"'{name}' does not change the network; --methods takes white-box methods only, such as lora")
    return list(dict.fromkeys(names))


def is_white_box(method: type[Method]) -> bool:
    return issubclass(method, GradientMethod) and method.access is Access.WEIGHTS


def chunks(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """Parts of at most ``size`` names."""
    return [names[start : start + size] for start in range(0, len(names), size)]


if __name__ == "__main__":
    main()
