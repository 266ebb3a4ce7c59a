"""Read ``key=value`` words into settings whose values are texts as they were typed; the type of its field says how each is read.

All commands share one grammar: values are words (``out=DIR``), names stand alone, switches are options (``--json``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import click

from petlbench.config.resolve import nested
from petlbench.config.typed import COMMAND_LINE, Layer, Text, build, check_keys, read_text
from petlbench.errors import ConfigError

S = TypeVar("S")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")
_KEY = re.compile(r"[A-Za-z_][\w.]*")


def split_words(words: Sequence[str]) -> dict[str, Text]:
    """Split words into keys and texts; of a repeated key the last counts. ConfigError for a word of another form."""
    texts: dict[str, Text] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"'{word[:200]}' is not of the form key=value, such as method=lora or train.epochs=20")
        texts[key] = Text(text)
    return texts


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """Read words as settings for ``petlbench.api``."""
    return nested(split_words(words))


def names_and_words(arguments: Sequence[str]) -> tuple[list[str], dict[str, Text]]:
    """Separate names, which stand alone, from words."""
    words = [argument for argument in arguments if "=" in argument and _KEY.fullmatch(argument.partition("=")[0])]
    return [argument for argument in arguments if argument not in words], split_words(words)


def settings_of(kind: type[S], words: dict[str, Text]) -> S:
    """Build a command's own settings: a dataclass, strictly typed."""
    check_keys(words, [field.name for field in dataclasses.fields(kind)], COMMAND_LINE, is_listed=True)  # type: ignore[arg-type]
    return build(kind, [Layer(COMMAND_LINE, words)])


def read_seeds(text: str) -> tuple[int, ...]:
    """Read ``0,1,2`` or ``[0,1,2]`` as numbers. ConfigError for anything else."""
    seeds = read_text(text if text.startswith("[") else f"[{text}]", tuple[int, ...])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"seeds must be whole numbers such as 0,1,2, got '{text[:100]}'")
    return tuple(dict.fromkeys(seeds))
