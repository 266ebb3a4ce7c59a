"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from petlbench.access.rungs import Access
from petlbench.checkpoints.file import read_checkpoint
from petlbench.checkpoints.stored import check_settings
from petlbench.cli.broken import end, name_left_out, reading
from petlbench.cli.leaderboard import ResultsFolder
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo
from petlbench.cli.words import names_and_words, settings_of
from petlbench.config.resolve import load_method, nested, restore
from petlbench.errors import CheckpointError
from petlbench.records.store import RecordStore


@click.command(cls=SettingsCommand, settings=ResultsFolder)
@click.argument("words", nargs=-1, metavar="[CHECKPOINT TARGET [KEY=VALUE...]] [out=DIR]")
def export(words: tuple[str, ...]) -> None:
    """Write all runs as one flat table, runs.csv and runs.parquet in the results folder: petlbench export out=results

    With two names, write what run … save=true learned as the weights of a plain timm model: petlbench export CHECKPOINT model.safetensors

    LoRA and single entries are folded into the weights, so that the model costs what the frozen one does; the head is head.weight, head.bias.
    Tokens that a method puts beside images, as pgn does, are turned into patches of pixels: petlbench export CHECKPOINT FOLDER

    Further words say where files of the run lie on this machine: data_root=DIR task=folder:PATH backbone.checkpoint=PATH
    """
    names, given = names_and_words(words)
    if not names:
        from petlbench.analysis.export import write_flat

        out = Path(settings_of(ResultsFolder, given).out)
        broken: list[str] = []
        with reading("exporting records") as progress:
            written = write_flat(out, RecordStore(out).each(broken.append, progress))
        name_left_out(broken)
        echo("\n".join(map(str, written)))
        end(broken)
    elif len(names) != 2:
        raise click.UsageError(f"export takes CHECKPOINT and TARGET, or no names for the table of all runs, got {' '.join(names)}")
    else:
        _export_checkpoint(Path(names[0]), Path(names[1]), nested(given))


def _export_checkpoint(checkpoint: Path, target: Path, settings: dict[str, Any]) -> None:
    from petlbench.checkpoints.evaluate import export_merged
    from petlbench.checkpoints.pixels import export_artifact

    saved = read_checkpoint(checkpoint)
    check_settings(settings, checkpoint, saved.config, "export CHECKPOINT TARGET")
    try:
        if load_method(restore(saved.config).method)[0].access is Access.WEIGHTS:
            export_merged(saved, target, settings)
            echo(f"weights: {target}")
        else:
            about = export_artifact(saved, target, settings)
            echo(f"artifact: {target} ({about.library_size} patches of {about.patch_size} pixels, which {exactness(about.is_exact)})")
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None


def exactness(is_exact: bool) -> str:
    """Say how patches compare with the tokens that they were made from."""
    return "give their tokens exactly" if is_exact else "give the nearest tokens that patches can"
