"""Write lines and JSON. Everything that commands print goes through here or through ``printing``, so that no text from outside steers a terminal."""

from __future__ import annotations

import json
from typing import Any

import click

from petlbench.errors import UNPRINTABLE, printable


def echo(text: str, err: bool = False) -> None:
    """Print text on stdout or stderr."""
    click.echo(printable(text), err=err)


def echo_json(value: Any) -> None:
    """Print a value as JSON on stdout. Numbers must be finite, as JSON has no others."""
    click.echo(printable_json(json.dumps(value, allow_nan=False)))


def printable_json(document: str) -> str:
    """Return a JSON document that says the same without characters that a terminal would obey."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
