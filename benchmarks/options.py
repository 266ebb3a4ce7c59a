"""Options that the scripts share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch

from petlbench.errors import ConfigError
from petlbench.optim.device import pick_device
from petlbench.records import provenance


def _in_a_folder(context: click.Context, parameter: click.Parameter, target: Path | None) -> Path | None:
    """Refused before anything is measured."""
    if target is not None and not target.absolute().parent.is_dir():
        raise click.UsageError(f"cannot write {target}: there is no folder {target.parent}; create it or choose another with --json PATH")
    return target


JSON = click.option(
    "--json",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    callback=_in_a_folder,
    help="Where to write all samples.",
)


def place_of(device: str, threads: int | None) -> torch.device:
    """The device, with so many threads of torch where there is a choice. UsageError when a named device is not there."""
    if threads:
        torch.set_num_threads(threads)
    try:
        return pick_device(device)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def write_results(target: Path | None, results: dict[str, Any], place: torch.device | None = None, precision: str = "fp32") -> None:
    """All samples with what they were measured on."""
    if target is None:
        return
    facts: dict[str, Any] = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "code": provenance.code().model_dump()}
    if place is not None:
        facts["environment"] = provenance.environment(place, precision).model_dump()
    target.write_text(json.dumps(facts | results, indent=1) + "\n", encoding="utf-8")
