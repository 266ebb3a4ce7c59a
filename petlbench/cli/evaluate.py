"""The command ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from petlbench import api
from petlbench.cli.export import exactness
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON, parse_words


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
@AS_JSON
def evaluate(checkpoint: Path, words: tuple[str, ...], as_json: bool) -> None:
    """Evaluate a checkpoint that run … save=true wrote, or a folder that was exported from one: petlbench evaluate CHECKPOINT task=mini/digits"""
    result = api.evaluate(checkpoint, parse_words(words))
    if as_json:
        echo_json(result)
    elif checkpoint.is_dir():
        echo(_artifact_lines(result))
    else:
        echo(f"accuracy {result['accuracy']:.2f} % of {result['samples']} test images of {result['task']}")


def _artifact_lines(result: dict[str, Any]) -> str:
    """Describe the result of an exported folder."""
    names = {
        "latent": "tokens",
        "pixels": "patches of pixels in their place",
        "clipped": "… clipped to what a picture holds",
        "rounded": "… and rounded to 8 bits",
    }
    lines = [f"accuracy on {result['samples']} test images of {result['task']}, {result['backbone']}:"]
    lines += [f"  {result['accuracy'][form]:6.2f} %  {name}" for form, name in names.items() if form in result["accuracy"]]
    lines.append(f"patches {exactness(result['is_exact'])}; {result['raw_values_outside']:.1%} of their raw values lie outside [0, 1]")
    if "difference" in result:
        errors = result["relative_token_error"]
        change = f"patches change accuracy by {result['difference']:+.2f} points; largest error of a token's entry {result['largest_token_error']:.1e}"
        lines.append(
            f"{change}; tokens lose {errors['clipped']:.1%} when patches are clipped, {errors['rounded']:.1%} when rounded as well"
        )
    return "\n".join(lines)
