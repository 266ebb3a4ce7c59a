"""What a study tunes and how: ``OUT/studies/NAME/study.json``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petlbench.config.search import Choice, Range, Space
from petlbench.errors import PetlbenchError, TuningError
from petlbench.records.fields import Count, Line, Name, Seed, Settings
from petlbench.records.file_names import slug
from petlbench.records.regular_file import read_regular
from petlbench.records.schema import first_problem

FOLDER = "studies"  # in a results folder
ABOUT = "study.json"
_LARGEST = 2**22  # bytes of it


class About(BaseModel):
    """What a study tunes and how. Equal for studies that may go on with each other's trials."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    method: Name
    task: Name
    backbone: Name
    config: Settings  # of every trial: the identity of its run, but for its seed and what is tuned
    space: Settings  # as YAML has it (petlbench.config.search.plain)
    trials: Count
    sampler: Literal["tpe", "random", "grid"]
    sampler_seed: Seed
    seeds: list[Seed] = Field(min_length=1)  # of the runs of a trial
    pruner: Literal["none", "halving"]
    limits: Settings  # of what all trials send to a model together; empty: none
    default: Settings  # the point of the first trial; empty: the defaults are not in the space
    code: Line  # version of petlbench and hash of the method's code

    @property
    def name(self) -> str:
        """The name of the study's folder: readable, and different for what is different but for the code."""
        identity = json.dumps(self.model_dump(exclude={"code"}), sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return "-".join(slug(part, 60) for part in (self.method, self.task, self.backbone)) + f"-{digest}"

    @property
    def label(self) -> str:
        """Name the study in a sentence."""
        return f"{self.method} on {self.task}"


def read_about(path: Path) -> About:
    """Read study.json. TuningError for one that is not whole, or belongs to another folder."""
    try:
        about = About.model_validate_json(read_regular(path, _LARGEST))
    except ValidationError as error:
        raise TuningError(f"{path}: {first_problem(error)}; {remedy(path.parent)}") from None
    except PetlbenchError as error:
        raise TuningError(f"{error}; {remedy(path.parent)}") from None
    if about.name != path.parent.name:
        raise TuningError(f"{path}: does not describe the study of its folder, but {about.name}; {remedy(path.parent)}")
    return about


def studies_in(results: Path) -> list[Path]:
    """Return the folders of the studies of a results folder, sorted."""
    return sorted(path.parent for path in (results / FOLDER).glob(f"*/{ABOUT}"))


def space_of(about: About) -> Space:
    """Return the space of a study. TuningError when study.json holds none."""
    return {key: _axis(key, values, about.name) for key, values in about.space.items()}


def _axis(key: str, values: Any, study: str) -> Range | Choice:
    if isinstance(values, list) and values and all(isinstance(value, float | int | str | bool | None) for value in values):
        return Choice(tuple(values))
    if isinstance(values, dict) and values.keys() <= {"low", "high", "log", "step"}:
        low, high, step = (values.get(name) for name in ("low", "high", "step"))
        kind = type(low)
        if kind in (int, float) and type(high) is kind and (step is None or type(step) is kind):
            return Range(cast(float, low), cast(float, high), values.get("log") is True, kind, step)
    raise TuningError(f"study {study}: {key} has no range and no list of values in {ABOUT}")


def remedy(folder: Path) -> str:
    """Say what to do about a study whose files are broken."""
    return f"move {folder} away and run petlbench tune again, which repeats no trial that is recorded"
