"""The command that writes a plugin to start from: new-method."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click

from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo
from petlbench.cli.words import settings_of, split_words
from petlbench.errors import ConfigError


@dataclass
class NewMethodSettings:
    """Settings of ``new-method``."""

    root: str = "."  # the checkout that has methods/ and configs/


@click.command("new-method", cls=SettingsCommand, settings=NewMethodSettings)
@click.argument("name")
@click.argument("words", nargs=-1, metavar="[root=DIR]")
def new_method(name: str, words: tuple[str, ...]) -> None:
    """Write methods/NAME.py and configs/methods/NAME.yaml: a working method to change into yours."""
    root = Path(settings_of(NewMethodSettings, split_words(words)).root)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' cannot name a method: use lower-case letters, digits and underscores, such as my_method")
    targets = {root / "methods" / f"{name}.py": "method.py.txt", root / "configs" / "methods" / f"{name}.yaml": "method.yaml.txt"}
    for path in targets:
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is not a folder; run this in a petlbench checkout, or name one with root=DIR")
        if path.exists():
            raise ConfigError(f"{path} exists already; choose another name")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    for path, template in targets.items():
        text = (files("petlbench.testing.templates") / template).read_text(encoding="utf-8")
        path.write_text(text.replace("NAME", name).replace("CLASS", class_name), encoding="utf-8")
        echo(f"wrote {path}")
    echo("Next:")
    echo(f"  petlbench run method={name} task=mini/digits")
    echo(f"  python -m petlbench.testing {name}")
    echo(f"  make bench METHOD={name} DATASET=mini")
