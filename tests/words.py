"""A run's configuration from words, as the command line reads them."""

from __future__ import annotations

from collections.abc import Sequence

from petlbench.cli.words import parse_words
from petlbench.config import resolve as module
from petlbench.config.resolve import RunConfig


def resolve(words: Sequence[str]) -> RunConfig:
    return module.resolve(parse_words(words))
