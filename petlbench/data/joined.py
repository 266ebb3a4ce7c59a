"""Join several tasks to one with all their images and classes: ``task=[A,B]`` or ``task=A+B``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petlbench.data.source import Concatenation, starts
from petlbench.data.task import TaskSpec
from petlbench.errors import ConfigError
from petlbench.registry import TASKS


@dataclass(frozen=True)
class JoinedTask(TaskSpec):
    """A task with the classes of several, each described by the captions of its own task."""

    parts: tuple[TaskSpec, ...] = ()

    def prompts(self, templates: Sequence[str] | None = None) -> tuple[tuple[str, ...], ...]:
        chosen = None if templates is None or tuple(templates) == self.templates else templates
        return tuple(captions for part in self.parts for captions in part.prompts(chosen))


def names_joined(name: str) -> list[str]:
    """Split a name at its plus signs; return it alone unless all are known tasks. ConfigError for a task that is given twice."""
    parts = name.split("+")
    if not all(part.partition(":")[0] in TASKS for part in parts):
        return [name]
    if len(set(parts)) < len(parts):
        raise ConfigError(f"task={name} names a task twice")
    return parts


def join(parts: Sequence[TaskSpec]) -> JoinedTask:
    """Join tasks. ConfigError when only some of them have their validation images among the training images."""
    names = [part.name for part in parts]
    return JoinedTask(
        name="+".join(names),
        class_names=tuple(f"{part.name} {name}" for part in parts for name in part.class_names),
        templates=tuple(dict.fromkeys(template for part in parts for template in part.templates)),
        revision=hashlib.sha256(json.dumps([[part.name, part.revision] for part in parts]).encode()).hexdigest()[:16],
        source=lambda split: Concatenation([part.source(split) for part in parts], starts([len(part.class_names) for part in parts])),
        description=f"{', '.join(names[:-1])} and {names[-1]} as one task",
        val_in_train=_val_in_train(parts),
        scored=_scored(parts),
        parts=tuple(parts),
    )


def part_of_class(spec: TaskSpec) -> tuple[int, ...]:
    """Return for each class the position of its task among the joined ones; 0 for all classes of a single task."""
    parts = spec.parts if isinstance(spec, JoinedTask) else (spec,)
    return tuple(position for position, part in enumerate(parts) for _ in part.class_names)


def _scored(parts: Sequence[TaskSpec]) -> tuple[int, ...] | None:
    if all(part.scored is None for part in parts):
        return None
    offsets = starts([len(part.class_names) for part in parts])
    chosen = (range(len(part.class_names)) if part.scored is None else part.scored for part in parts)
    return tuple(offset + label for offset, labels in zip(offsets, chosen, strict=True) for label in labels)


def _val_in_train(parts: Sequence[TaskSpec]) -> NDArray[np.int64] | None:
    known = [part.val_in_train for part in parts if part.val_in_train is not None]
    if not known:
        return None
    if len(known) < len(parts):
        apart = next(part.name for part in parts if part.val_in_train is None)
        raise ConfigError(f"{apart} has validation images of its own and others do not; such tasks cannot be joined")
    offsets = starts([len(part.source("train").labels) for part in parts])
    return np.concatenate([positions + offset for positions, offset in zip(known, offsets, strict=True)])
