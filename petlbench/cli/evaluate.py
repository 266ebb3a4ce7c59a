"""The command that evaluates what a run learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from petlbench.checkpoints.file import Checkpoint, read_checkpoint
from petlbench.cli.export import exactness
from petlbench.cli.words import AS_JSON, parse_words
from petlbench.errors import CheckpointError, ConfigError


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
@AS_JSON
def evaluate(checkpoint: Path, words: tuple[str, ...], as_json: bool) -> None:
    """Evaluate a checkpoint that run … save=true wrote, or the folder that was exported of one: petlbench evaluate CHECKPOINT task=mini/digits"""
    from petlbench.checkpoints.evaluate import evaluate_checkpoint
    from petlbench.checkpoints.pixels import evaluate_artifact
    from petlbench.checkpoints.pixels_file import read_artifact

    saved = read_artifact(checkpoint) if checkpoint.is_dir() else read_checkpoint(checkpoint)
    settings = parse_words(words)
    allowed = {"task", "device", "threads", "data_root", "backbone", "url"}
    if not_allowed := set(settings) - allowed:
        raise ConfigError(
            f"evaluate takes {', '.join(sorted(allowed))}, got {', '.join(sorted(not_allowed))}; the rest is in the checkpoint"
        )
    try:
        result = evaluate_checkpoint(saved, settings) if isinstance(saved, Checkpoint) else evaluate_artifact(saved, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    if as_json:
        click.echo(json.dumps(result))
    elif isinstance(saved, Checkpoint):
        click.echo(f"accuracy {result['accuracy']:.2f} % of {result['samples']} test images of {result['task']}")
    else:
        click.echo(_both_ways(result))


def _both_ways(result: dict[str, Any]) -> str:
    """The lines about an artifact."""
    names = {
        "latent": "tokens",
        "pixels": "patches of pixels in their place",
        "clipped": "… clipped to what a picture holds",
        "rounded": "… and rounded to 8 bits",
    }
    lines = [f"accuracy on {result['samples']} test images of {result['task']}, {result['backbone']}:"]
    lines += [f"  {result['accuracy'][way]:6.2f} %  {name}" for way, name in names.items() if way in result["accuracy"]]
    lines.append(f"patches {exactness(result['is_exact'])}; {result['raw_values_outside']:.1%} of their raw values lie outside [0, 1]")
    if "difference" in result:
        errors = result["relative_token_error"]
        change = f"patches change accuracy by {result['difference']:+.2f} points; largest error of a token's entry {result['largest_token_error']:.1e}"
        lines.append(
            f"{change}; tokens lose {errors['clipped']:.1%} when patches are clipped, {errors['rounded']:.1%} when rounded as well"
        )
    return "\n".join(lines)
