"""A run's configuration and a plan from words, as the command line reads them."""

from __future__ import annotations

from collections.abc import Sequence

from petlbench import api
from petlbench.cli.bench import grid_settings
from petlbench.cli.words import parse_words
from petlbench.config import resolve as module
from petlbench.config.resolve import RunConfig
from petlbench.runs.plan import Plan


def resolve(words: Sequence[str]) -> RunConfig:
    return module.resolve(parse_words(words))


def plan(words: Sequence[str], available: bool = False) -> Plan:
    """Make the plan of ``petlbench plan``."""
    return api.plan(available=available, **grid_settings(tuple(words)))
