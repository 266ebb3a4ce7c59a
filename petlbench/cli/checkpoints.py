"""The commands about what a run learned: evaluate, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from petlbench.access.handle import Access
from petlbench.checkpoints.file import Checkpoint, read_checkpoint
from petlbench.cli.runs import AS_JSON, WORDS
from petlbench.cli.words import parse_words
from petlbench.config.resolve import load_method, restore
from petlbench.errors import CheckpointError, ConfigError


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@WORDS
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


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Results folder of the table.")
def export(checkpoint: Path | None, target: Path | None, out: Path) -> None:
    """Write all runs as one flat table, runs.csv and runs.parquet in the results folder: petlbench export

    With two words, write what run … save=true learned as the weights of a plain timm model: petlbench export CHECKPOINT model.safetensors

    LoRA and single entries are folded into the weights, so that the model costs what the frozen one does; the head is head.weight, head.bias.
    Tokens that a method puts beside images, as pgn does, are turned into patches of pixels: petlbench export CHECKPOINT FOLDER
    """
    if checkpoint is None:
        from petlbench.analysis.export import write_flat

        click.echo("\n".join(str(path) for path in write_flat(out)))
        return
    if target is None:
        raise click.UsageError(f"export {checkpoint} needs the file to write as well; without both it writes the table of all runs")
    from petlbench.checkpoints.evaluate import export_merged
    from petlbench.checkpoints.pixels import export_artifact

    saved = read_checkpoint(checkpoint)
    try:
        if load_method(restore(saved.config).method)[0].access is Access.WEIGHTS:
            export_merged(saved, target)
            click.echo(f"weights: {target}")
        else:
            about = export_artifact(saved, target)
            click.echo(
                f"artifact: {target} ({about.library_size} patches of {about.patch_size} pixels, which {_exactness(about.is_exact)})"
            )
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None


def _exactness(is_exact: bool) -> str:
    return "stand for their tokens exactly" if is_exact else "stand for the nearest tokens that there are patches for"


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
    lines.append(f"patches {_exactness(result['is_exact'])}; {result['raw_values_outside']:.1%} of their raw values lie outside [0, 1]")
    if "difference" in result:
        errors = result["relative_token_error"]
        change = f"patches change accuracy by {result['difference']:+.2f} points; largest error of a token's entry {result['largest_token_error']:.1e}"
        lines.append(
            f"{change}; tokens lose {errors['clipped']:.1%} when patches are clipped, {errors['rounded']:.1%} when rounded as well"
        )
    return "\n".join(lines)
