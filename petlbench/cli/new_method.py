"""The command that writes a plugin to start from: new-method."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path

import click

from petlbench.errors import ConfigError


@click.command("new-method")
@click.argument("name")
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path(), help="The checkout that has methods/ and configs/. Default: this folder."
)
def new_method(name: str, root: Path) -> None:
    """Write methods/NAME.py and configs/methods/NAME.yaml: a working method to change into yours."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' cannot name a method: use lower-case letters, digits and underscores, such as my_method")
    targets = {root / "methods" / f"{name}.py": "method.py.txt", root / "configs" / "methods" / f"{name}.yaml": "method.yaml.txt"}
    for path in targets:
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is not a folder; run this in a petlbench checkout, or name one with --root")
        if path.exists():
            raise ConfigError(f"{path} exists already; choose another name")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    for path, template in targets.items():
        text = (files("petlbench.testing.templates") / template).read_text(encoding="utf-8")
        path.write_text(text.replace("NAME", name).replace("CLASS", class_name), encoding="utf-8")
        click.echo(f"wrote {path}")
    click.echo("Next:")
    click.echo(f"  petlbench run method={name} task=mini/digits")
    click.echo(f"  python -m petlbench.testing {name}")
    click.echo(f"  make bench METHOD={name} DATASET=mini")
