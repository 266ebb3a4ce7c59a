"""Find a task by name and load its splits under a protocol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from petlbench.config.augment import Crop, RandomResizedCrop
from petlbench.config.settings import Protocol
from petlbench.data import fewshot
from petlbench.data.acquire.presence import missing_error, presence
from petlbench.data.joined import join, names_joined
from petlbench.data.split import Split, joined
from petlbench.data.store import TaskStore
from petlbench.data.streaming import Tally
from petlbench.data.task import DiskTask, TaskFamily, TaskSpec
from petlbench.data.transforms import Form, Transform
from petlbench.errors import ConfigError
from petlbench.records.file_names import exists
from petlbench.records.labels import label_of, name_of
from petlbench.registry import TASKS

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
    decodes: Tally  # of images, by this process, for this call

    @property
    def images_decoded(self) -> int:
        """Count so far: images that are not stored are decoded whenever they are read."""
        return self.decodes.count

    @property
    def split_hashes(self) -> dict[str, str]:
        return {"train": self.train.digest, "val": self.val.digest, "test": self.test.digest}


def find_task(name: str, root: Path | None = None) -> TaskSpec:
    """Return the task of that name, such as ``mini/digits``, of a family, such as ``folder:PATH``, or several as one: ``mini/digits+mini/textures``.

    ``root``: the data root, for tasks whose images lie on a disk. DataError with the expected files when they do not.
    """
    parts = names_joined(name)
    if len(parts) > 1:
        return join([find_task(part, root) for part in parts])
    target = _target(name)
    if isinstance(target, TaskSpec):
        return target
    if isinstance(target, DiskTask):
        spec = None if root is None else target.open(root)
        if spec is None:
            raise missing_error([presence(name, root)], 1, root)
        return spec
    family, _, place = name.partition(":")
    return _named(target(place), family, place)


def _named(spec: TaskSpec, family: str, place: str) -> TaskSpec:
    """Name a task over a file or folder of the user's by its content: it is the same elsewhere, and says nothing about whose it is."""
    if not exists(Path(place).expanduser()):
        return spec
    return replace(spec, name=f"{family}:{name_of(place, spec.revision)}", description=f"images of {label_of(place)}")


def require(name: str, root: Path | None) -> None:
    """Raise the error of ``find_task`` for a task that cannot be run, without reading its images or lists."""
    for part in names_joined(name):
        target = _target(part)
        if isinstance(target, DiskTask):
            if root is None or target.locate(root) is None:
                raise missing_error([presence(part, root)], 1, root)
        elif not isinstance(target, TaskSpec):
            target(part.partition(":")[2])


def class_count(name: str) -> int:
    """Return the number of a task's classes, without reading a disk unless it is one of the user's own folders."""
    count = 0
    for part in names_joined(name):
        target = _target(part)
        if isinstance(target, DiskTask):
            count += target.classes
        else:
            spec = target if isinstance(target, TaskSpec) else target(part.partition(":")[2])
            count += len(spec.class_names)
    return count


def image_counts(name: str) -> dict[str, int]:
    """Return the numbers of images of a task's splits that are known without reading a disk: none of a user's own folder."""
    counts: Counter[str] = Counter()
    for part in names_joined(name):
        target = _target(part)
        if not isinstance(target, (TaskSpec, DiskTask)):
            return {}
        counts.update(target.sizes)
    return dict(counts)


def _target(name: str) -> TaskSpec | DiskTask | TaskFamily:
    family, colon, _ = name.partition(":")
    target = TASKS.get(family)
    if colon and isinstance(target, (TaskSpec, DiskTask)):
        raise ConfigError(f"task '{family}' takes nothing after a colon, got '{name}'")
    return target


def load_task(
    spec: TaskSpec,
    protocol: Protocol,
    input_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    store_mb: int = 2048,
    seed: int = 0,
) -> Task:
    """Open a task's stores, build them when needed, and draw the few-shot subset. ``mean`` and ``std``: the backbone card's constants.

    ``store_mb``: splits that would take more are not stored (see ``TaskStore.open``). ``seed``: the run's, for draws that follow it.
    """
    size = protocol.resize or input_size
    if size < input_size:
        raise ConfigError(f"protocol.resize={size} is smaller than the backbone's input of {input_size} pixels")
    evaluated = Form(protocol.resize_mode, size, protocol.interpolation, cut=input_size)
    transform = Transform(evaluated, *normalisation(protocol, mean, std), protocol.augment)
    trained = _training_form(transform)
    store = TaskStore(spec, store_mb)
    chosen, chosen_val = None, None
    if protocol.shots is not None:
        labels, val_labels = store.labels("train", trained), store.labels("val", evaluated)
        drawn = (protocol.shots, seed if protocol.split_seed is None else protocol.split_seed, spec.class_names, protocol.shortage)
        chosen, chosen_val = fewshot.draw(labels, val_labels, *drawn, spec.val_in_train)
    elif spec.val_in_train is not None:
        chosen = np.delete(np.arange(len(store.labels("train", trained))), spec.val_in_train)
    train, val = store.open("train", trained, chosen), store.open("val", evaluated, chosen_val)
    if protocol.train_on == "trainval":
        train = joined(train, store.open("val", trained, chosen_val))
    return Task(spec, train, val, store.open("test", evaluated), transform, store.tally)


def normalisation(protocol: Protocol, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation under a protocol; ``mean`` and ``std``: the backbone card's."""
    return {"backbone": (mean, std), "imagenet": IMAGENET, "half": HALF, "none": NONE}[protocol.normalise]


def _training_form(transform: Transform) -> Form:
    """Return the form in which training images are stored: large enough for the windows that augmentation cuts."""
    form = transform.form
    if isinstance(transform.window, RandomResizedCrop):
        return Form("native")
    has_room = form.mode == "short" or form.size > transform.size
    return replace(form, cut=None) if isinstance(transform.window, Crop) and has_room else form
