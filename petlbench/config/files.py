"""The YAML files below configs/ by name: suites of tasks, recipes, and what names and aliases stand for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from petlbench.errors import ConfigError, did_you_mean
from petlbench.registry import TASKS, normalise_name


@dataclass(frozen=True)
class Suite:
    """A named list of tasks with a protocol."""

    name: str
    title: str
    aliases: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    groups: dict[str, tuple[str, ...]]  # of tasks, each with a mean of its own
    ranked_by: str | None  # the group whose mean ranks methods; None: the mean of all tasks does, and groups cover them
    settings: dict[str, Any]  # the sections that it sets
    task_settings: dict[str, dict[str, Any]]  # and those that it sets for one task


def suite_of(task: str) -> str:
    """The suite or family that a task's name starts with."""
    return task.partition(":" if ":" in task else "/")[0]


def names(folder: str) -> list[str]:
    """The YAML files of a folder below configs/, without the suffix."""
    return sorted(path.name[:-5] for path in files(f"petlbench.configs.{folder}").iterdir() if path.name.endswith(".yaml"))


def load_yaml(folder: str, name: str) -> dict[str, Any]:
    """One YAML file below configs/ as plain values, which are the caller's own."""
    path = files(f"petlbench.configs.{folder}") / f"{name}.yaml"
    return copy.deepcopy(_parsed(path.read_text(encoding="utf-8"), f"configs/{folder}/{name}.yaml"))


@cache
def _parsed(text: str, origin: str) -> dict[str, Any]:
    """Parsed once per content: a bench reads the same files for each of its runs."""
    try:
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{origin}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected keys and values at the top level")
    return values


def load_suite(name: str) -> Suite:
    """A suite by name. ConfigError with the nearest name when there is none, and for groups that are not of its tasks."""
    known = names("suites")
    if name not in known:
        raise ConfigError(f"no suite '{name}'.{did_you_mean(name, known)} (petlbench suites lists all)")
    values = load_yaml("suites", name)
    suite = Suite(
        name=name,
        title=values.pop("title", name),
        aliases=tuple(values.pop("aliases", ())),
        tasks=tuple(values.pop("tasks")),
        seeds=tuple(values.pop("seeds", (0,))),
        groups={group: tuple(tasks) for group, tasks in values.pop("groups", {}).items()},
        ranked_by=values.pop("ranked_by", None),
        task_settings=values.pop("task_settings", {}),
        settings=values,
    )
    grouped = [task for tasks in suite.groups.values() for task in tasks]
    strangers = {*grouped, *suite.task_settings} - set(suite.tasks)
    if strangers or (suite.ranked_by is not None and suite.ranked_by not in suite.groups):
        wrong = f"'{min(strangers)}' is none of its tasks" if strangers else f"ranked_by: there is no group '{suite.ranked_by}'"
        raise ConfigError(f"configs/suites/{name}.yaml: {wrong}")
    if suite.groups and suite.ranked_by is None and sorted(grouped) != sorted(suite.tasks):
        raise ConfigError(f"configs/suites/{name}.yaml: groups must hold every task once, or ranked_by name the one that counts")
    return suite


def suite_tasks(chosen: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Suite -> its tasks in order, of these suites or of all."""
    return {name: load_suite(name).tasks for name in (names("suites") if chosen is None else chosen)}


def suite_name(text: str) -> str:
    """The suite that a name or an alias stands for, whatever its case, blanks, hyphens and underscores; the text itself when there is none."""
    known = names("suites")
    if text in known:
        return text
    return next((name for name in known if normalise_name(text) in map(normalise_name, (name, *load_suite(name).aliases))), text)


def task_name(text: str) -> str:
    """The task that a name or an alias stands for, such as vtab/cifar100 for VTAB-1k/CIFAR-100; the text itself when there is none."""
    if "+" in text and ":" not in text:
        return "+".join(task_name(part) for part in text.split("+"))
    if ":" in text or text in TASKS:
        return text
    suite, slash, rest = text.partition("/")
    if not slash:
        return text
    return TASKS.canonical(f"{suite_name(suite)}/{rest}")


def load_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """A recipe's title and its YAML. ConfigError with the nearest name when there is none."""
    known = names("recipes")
    if name not in known:
        raise ConfigError(f"no recipe '{name}'.{did_you_mean(name, known)} (petlbench recipes lists all)")
    values = load_yaml("recipes", name)
    return values.pop("title", name), values
