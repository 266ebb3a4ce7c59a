"""How long a run takes, for the order in which runs begin: as measured in its results folder, else by a model of its cost.

The model: floating-point operations of the backbone per image, times images seen. Its assumptions: a transformer, whose operations are its weights times
its tokens; an image in training costs three forward passes (forward, and backward at twice that) where there are gradients, and as many forward
passes as a step has evaluations where the model is queried (SPSA two per repetition, RGF one per direction and one, a population one per candidate);
the test images are seen once. Methods that keep activations take less. Only the order of runs depends on it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.load import class_count, image_counts
from petlbench.errors import PetlbenchError
from petlbench.method import QueryMethod
from petlbench.optim.rgf import RGFConfig
from petlbench.optim.spsa import SPSAConfig
from petlbench.records.file_names import slug
from petlbench.records.regular_file import read_regular
from petlbench.records.schema import LARGEST, RESULTS
from petlbench.runs.log import record_path

VIT_B = 86_000_000  # parameters of a backbone whose card does not say
TOKENS = 197  # of an image, likewise
TRAINED, TESTED = 1000, 2000  # images of a task whose sizes are not known without opening it
FLOPS_PER_SECOND = 2e11  # where nothing was measured: some cores of a CPU
MOST_READ = 5  # records of one method, task and backbone
_Key = tuple[str, str, str]


class Durations:
    """Estimates the seconds of runs. Of records few are read, and of these only how long their runs took."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self._flops = cache(_flops_per_image)
        self._counts = cache(_image_counts)
        some = {_key(config): config for config in configs}
        self._seconds = {key: statistics.median(found) for key, config in some.items() if (found := list(_measured(config)))}
        rates = {key: seconds / self._modelled(some[key]) for key, seconds in self._seconds.items()}
        self._of_method = {name: statistics.median(rate for key, rate in rates.items() if key[0] == name) for name, *_ in rates}
        self._of_all = statistics.median(rates.values()) if rates else 1 / FLOPS_PER_SECOND

    def __call__(self, config: RunConfig) -> float:
        """Return the seconds of runs of its method, task and backbone; else what the model says at the rate that was measured for others."""
        measured = self._seconds.get(_key(config))
        return self._modelled(config) * self._of_method.get(config.method, self._of_all) if measured is None else measured

    def _modelled(self, config: RunConfig) -> float:
        trained, tested = self._counts(config.task, config.protocol.shots, config.protocol.train_on == "trainval")
        images = config.train.epochs * trained * _passes(config) + tested
        return images * self._flops(config.backbone.name)


def _key(config: RunConfig) -> _Key:
    return config.method, config.published_task, config.backbone.name


def _passes(config: RunConfig) -> int:
    """Return the forward passes that a training image costs each time it is seen."""
    if not issubclass(load_method(config.method)[0], QueryMethod):
        return 3
    fields = [getattr(config.method_config, field.name) for field in dataclasses.fields(config.method_config)]
    for section in fields:
        if isinstance(section, SPSAConfig):
            return 2 * section.repeats
        if isinstance(section, RGFConfig):
            return section.directions + 1
    population = getattr(config.method_config, "population", 1)
    return population if isinstance(population, int) else 1


def _flops_per_image(backbone: str) -> float:
    parameters = load_yaml("backbones", backbone).get("parameters", VIT_B) if backbone in names("backbones") else VIT_B
    return float(2 * parameters * TOKENS)


def _image_counts(task: str, shots: int | None, with_val: bool) -> tuple[int, int]:
    """Return how many images a run trains on in an epoch, and how many it is tested on."""
    counts = image_counts(task)
    trained = counts.get("train", TRAINED) + with_val * counts.get("val", 0)
    if shots is not None:
        trained = min(trained, shots * class_count(task)) if "train" in counts else shots * class_count(task)
    return max(1, trained), counts.get("test", TESTED)


def _measured(config: RunConfig) -> Iterator[float]:
    """Read the seconds of results of a run's method, task and backbone, of whatever seed and settings. Files that say something else are passed over."""
    folder = record_path(config).parent
    prefix = f"{slug(config.method)}-{slug(config.backbone.name)}-s"
    found = 0
    for name in _listed(folder):
        if name.startswith(prefix) and found < MOST_READ and (seconds := _seconds_of(folder / name, config)) is not None:
            found += 1
            yield seconds


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix == ".json")
    except OSError:
        return []


def _seconds_of(path: Path, config: RunConfig) -> float | None:
    try:
        record: Any = json.loads(read_regular(path, LARGEST))
        is_own = record["status"] in RESULTS and (record["method"]["name"], record["backbone"]["name"]) == (
            config.method,
            config.backbone.name,
        )
        seconds = float(record["cost"]["total_seconds"])
    except (PetlbenchError, ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return None
    return seconds if is_own and math.isfinite(seconds) and seconds > 0 else None
