"""``python -m petlbench.methods.spt CHECKPOINT FILE``: the selection of a run as a selection file of the released code."""

from __future__ import annotations

from pathlib import Path

import click

from petlbench.backbones.backbone import load_backbone
from petlbench.checkpoints.file import read_checkpoint
from petlbench.data.content import located
from petlbench.errors import CheckpointError, PetlbenchError

from . import SPT, release_file


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def main(checkpoint: Path, target: Path) -> None:
    """Write the selection that ``petlbench run method=spt … save=true`` trained as param_req_*.pth, for other runs and for the released code."""
    try:
        saved = read_checkpoint(checkpoint)
        config = located(saved.config)
        if config.plugin != SPT.name:
            raise CheckpointError(f"{checkpoint}: learned by {config.method}, which selects nothing; give a checkpoint of spt")
        method = SPT(config.method_config, config.seed)
        method.plan = {name.removeprefix("plan."): tensor for name, tensor in saved.state.items() if name.startswith("plan.")}
        backbone = load_backbone(config.backbone.name, config.backbone.checkpoint)
        release_file.write(target, method.selection(backbone.vit))
    except PetlbenchError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"selection: {target}")


if __name__ == "__main__":
    main()
