"""Choose who carries out the runs of a bench. No part of a run: a run is the same whoever carries it out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from petlbench.config.typed import COMMAND_LINE, Layer, Text, build

MOST_JOBS = 256  # that may be asked for on one machine; each is a process of some 500 MB
_OF_RAY = ("address", "gpus_per_run", "cpus_per_run")


@dataclass
class ExecutorChoice:
    """Sets who carries out the runs of a bench, and with what. No part of a run's identity."""

    executor: Literal["local", "ray"] = "local"  # local: this machine; ray: a Ray cluster, which needs petlbench[ray]
    # runs at a time; null: of local one per core for a small backbone on a CPU, else one; of ray as many as the cluster has room for
    jobs: int | None = None
    address: str | None = None  # of the Ray cluster: auto, or that of its head; null: start one on this machine for this bench
    gpus_per_run: float | None = None  # GPUs that Ray sets aside for a run, such as 0.25; null: one where device is a GPU, else none
    cpus_per_run: float | None = None  # CPUs that Ray sets aside for a run; null: 1
    # memory in MB beyond which a worker process is replaced before its next run; null: twice what it had after its first run, and 2048 more
    worker_memory_mb: int | None = None

    def __post_init__(self) -> None:
        for name in _OF_RAY:
            if getattr(self, name) is not None and self.executor != "ray":
                raise ValueError(f"{name} belongs to executor=ray, got executor={self.executor}; add executor=ray")
        for name in ("jobs", "worker_memory_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be an int >= 1 or null, got {value}")
        if self.executor == "local" and self.jobs is not None and self.jobs > MOST_JOBS:
            raise ValueError(
                f"jobs must be an int <= {MOST_JOBS}, as each is a process with torch and a backbone in memory, got {self.jobs:,}"
            )
        for name in ("gpus_per_run", "cpus_per_run"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number >= 0 or null, got {value}")
        if self.address is not None and not self.address:
            raise ValueError("address must be auto or HOST:PORT, got ''")


def split_choice(settings: Mapping[str, Any]) -> tuple[ExecutorChoice, dict[str, Any]]:
    """Separate the executor's settings from those of the runs. ConfigError for a value of the executor's that is none."""
    names = [field.name for field in dataclasses.fields(ExecutorChoice)]
    own = {key: value for key, value in settings.items() if key in names}
    origin = COMMAND_LINE if any(isinstance(value, Text) for value in own.values()) else "settings"
    return build(ExecutorChoice, [Layer(origin, own)]), {key: value for key, value in settings.items() if key not in names}
