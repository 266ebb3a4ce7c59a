"""Choose how hyper-parameters are tuned. No part of a run: of its study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from petlbench.config.resolve import given_by, merged
from petlbench.config.settings import Limits
from petlbench.config.typed import Layer, build
from petlbench.errors import ConfigError

MOST_TRIALS = 100_000


@dataclass
class TuneChoice:
    """Sets how many trials every method gets, and who chooses their settings."""

    trials: int = 20  # trials of every method on every task; the first has the default settings
    # who chooses the settings of a trial: tpe learns from earlier ones, random does not, grid takes evenly spread points
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    sampler_seed: int = 0  # seed of the sampler
    # end trials early that are worse than others after as many epochs: halving looks at val after 1/9 and 1/3 of the epochs; none: never
    pruner: Literal["none", "halving"] = "none"

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= MOST_TRIALS:
            raise ValueError(f"trials must be an int from 1 to {MOST_TRIALS:,}, got {self.trials:,}")
        if not 0 <= self.sampler_seed < 2**32:
            raise ValueError(f"sampler_seed must be an int in [0, 2**32), got {self.sampler_seed}")


@dataclass(frozen=True)
class Tuning:
    """What tuning was asked for, apart from the settings that all trials have."""

    choice: TuneChoice = field(default_factory=TuneChoice)
    limits: Limits = field(default_factory=Limits)  # ``budget.trials``: of what all trials of a study send to a model together
    search: Mapping[str, Any] = field(default_factory=dict)  # the user's changes of the search space
    chosen: frozenset[str] = frozenset()  # the fields of ``choice`` that the user set


def split_tuning(settings: Mapping[str, Any]) -> tuple[Tuning, dict[str, Any]]:
    """Separate what concerns tuning from the nested settings of runs: ``trials``, ``sampler``, …, ``budget.trials`` and ``search``.

    ConfigError for a value that is none.
    """
    where, left = given_by(settings), dict(settings)
    own = {name: left.pop(name) for name in [f.name for f in dataclasses.fields(TuneChoice)] if name in left}
    search = left.pop("search", {})
    budget = dict(left.get("budget", {})) if isinstance(left.get("budget"), Mapping) else {}
    limits = budget.pop("trials", {})
    if "budget" in left and budget != left["budget"]:
        left = {key: value for key, value in left.items() if key != "budget"} | ({"budget": budget} if budget else {})
    if not isinstance(search, Mapping):
        raise ConfigError(f"search is a section; set what is in it, such as search.train.learning_rate=log:1e-4..1e-1 ({where})")
    found = Tuning(
        choice=build(TuneChoice, [Layer(where, own)]),
        limits=build(Limits, [Layer(where, limits)], "budget.trials."),
        search=search,
        chosen=frozenset(own),
    )
    return found, left


def with_search(settings: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    """Put the user's changes of the search space back below ``search``, as ``petlbench.config.search.load_space`` takes them."""
    return merged(settings, {"search": search}) if search else dict(settings)
