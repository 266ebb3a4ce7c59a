"""From a task's name to its splits under a protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from petlbench.data import fewshot
from petlbench.data.batches import Transform
from petlbench.data.store import Split, open_store
from petlbench.data.task import TASKS, TaskSpec
from petlbench.errors import ConfigError
from petlbench.settings import Protocol

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Task:
    """One dataset under one protocol."""

    spec: TaskSpec
    train: Split
    val: Split
    test: Split
    transform: Transform
    images_decoded: int  # by this process, for this call

    @property
    def split_hashes(self) -> dict[str, str]:
        return {"train": self.train.digest, "val": self.val.digest, "test": self.test.digest}


def find_task(name: str) -> TaskSpec:
    """The task of that name, such as ``mini/digits``, or of a family, such as ``folder:PATH``."""
    family, colon, rest = name.partition(":")
    target = TASKS.get(family)
    if isinstance(target, TaskSpec):
        if colon:
            raise ConfigError(f"task '{family}' takes nothing after a colon, got '{name}'")
        return target
    return target(rest)


def load_task(spec: TaskSpec, protocol: Protocol, input_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Task:
    """Open a task's store, building it when needed, and draw the few-shot subset. ``mean`` and ``std``: the backbone card's constants."""
    size = protocol.resize or input_size
    if size < input_size:
        raise ConfigError(f"protocol.resize={size} is smaller than the backbone's input of {input_size} pixels")
    splits, decoded = open_store(spec, size, protocol.resize_mode, protocol.interpolation)
    train, val = splits["train"], splits["val"]
    if protocol.shots is not None:
        chosen, chosen_val = fewshot.draw(train.labels, val.labels, protocol.shots, protocol.split_seed, spec.class_names)
        train, val = train.take(chosen), val.take(chosen_val)
    if protocol.train_on == "trainval":
        train = _joined(train, val)
    constants = {"backbone": (mean, std), "imagenet": IMAGENET, "half": HALF, "none": NONE}[protocol.normalise]
    return Task(spec, train, val, splits["test"], Transform(input_size, *constants, protocol.augment), decoded)


def _joined(train: Split, val: Split) -> Split:
    images, labels = np.concatenate([train.images, val.images]), np.concatenate([train.labels, val.labels])
    return Split(images, labels, f"{train.digest}+{val.digest}")
