"""The command that puts a model behind HTTP: serve."""

from __future__ import annotations

import click

from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo
from petlbench.cli.words import split_words
from petlbench.config.typed import COMMAND_LINE, Layer, build
from petlbench.errors import ConfigError
from petlbench.optim.device import pick_device
from petlbench.remote.server.settings import ServeConfig


@click.command(cls=SettingsCommand, settings=ServeConfig)
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
def serve(words: tuple[str, ...]) -> None:
    """Serve a backbone to methods that ask: petlbench serve backbone=mini_clip port=8000 output=probabilities

    Others run against it with petlbench run … backbone=remote url=http://127.0.0.1:8000. A token is read from the environment variable
    PETLBENCH_TOKEN or from token_file=PATH.
    """
    config = build(ServeConfig, [Layer(COMMAND_LINE, split_words(words))])
    try:
        from petlbench.remote.server.server import serve as serve_until_interrupted
    except ModuleNotFoundError as error:
        raise ConfigError(f"petlbench serve needs {error.name}; install it with: pip install 'petlbench[serve]'") from None
    try:
        serve_until_interrupted(config, pick_device(config.device), echo, lambda line: echo(f"petlbench: {line}", err=True))
    except KeyboardInterrupt:
        echo("petlbench: stopped", err=True)
