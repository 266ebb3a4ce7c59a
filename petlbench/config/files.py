"""YAML files by name: presets of methods, suites, recipes, backbone cards and tables, of petlbench and of installed packages."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from petlbench.errors import ConfigError, unknown
from petlbench.registry import TASKS, NameTaken, normalise_name

MOST_JOINED = 100  # tasks; each is looked up among all plugins
GROUP = "petlbench.configs"  # entry points of packages that ship YAML: NAME = "package"


@dataclass(frozen=True)
class ConfigPackage:
    """A package with YAML files in the folders methods, suites, recipes, backbones, tables and facts, as far as it has them."""

    root: Traversable
    prefix: str  # of its files' paths in messages: "configs/", or "PACKAGE:"

    def names(self, folder: str) -> set[str]:
        """Return the names of the YAML files in a folder, without the suffix."""
        if not (self.root / folder).is_dir():
            return set()
        return {path.name[:-5] for path in (self.root / folder).iterdir() if path.name.endswith(".yaml")}


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
    data: dict[str, Any]  # how its datasets are split and where they lie, which the data plugins check
    settings: dict[str, Any]  # the sections of a run's settings that it sets
    task_settings: dict[str, dict[str, Any]]  # those that it sets for one task


@cache
def packages() -> tuple[ConfigPackage, ...]:
    """Return petlbench's own configs/ and those of installed packages. Warn of a package that cannot be imported."""
    found = {"petlbench.configs": ConfigPackage(files("petlbench.configs"), "configs/")}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.value):
        try:
            found.setdefault(entry.value, ConfigPackage(files(entry.value), f"{entry.value}:"))
        except Exception as error:  # importing a package can raise anything
            warnings.warn(f"the configs of {entry.value} cannot be read: {type(error).__name__}: {error}", stacklevel=2)
    return tuple(found.values())


def suite_of(task: str) -> str:
    """Return the suite or family that a task's name starts with."""
    return task.partition(":" if ":" in task else "/")[0]


def names(folder: str) -> list[str]:
    """Return the names of all YAML files in a folder, sorted. Warn of those of installed packages that cannot be loaded, and leave them out."""
    own, *others = packages()
    found = own.names(folder)
    for package in others:
        for name in package.names(folder):
            try:
                _ = load_suite(name) if folder == "suites" else load_yaml(folder, name)
            except NameTaken:  # reported to those who use the name
                pass
            except ConfigError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            found.add(name)
    return sorted(found)


def exists(folder: str, name: str) -> bool:
    """Return True when there is a YAML file of that name, valid or not."""
    return any(name in package.names(folder) for package in packages())


def origin(folder: str, name: str) -> str:
    """Return the path of a YAML file for messages, such as configs/methods/lora.yaml or PACKAGE:methods/mine.yaml."""
    return _find(folder, name)[1]


def load_yaml(folder: str, name: str) -> dict[str, Any]:
    """Return one YAML file as plain values, which the caller may change. ConfigError when it is not valid; NameTaken when two packages have it."""
    path, where = _find(folder, name)
    return copy.deepcopy(_parsed(path.read_text(encoding="utf-8"), where))


def _find(folder: str, name: str) -> tuple[Traversable, str]:
    found = [package for package in packages() if name in package.names(folder)]
    origins = [f"{package.prefix}{folder}/{name}.yaml" for package in found]
    if len(found) > 1:
        raise NameTaken(f"'{name}' is defined by {' and by '.join(origins)}; rename one of them or uninstall its package")
    if not found:
        raise ConfigError(f"configs/{folder}/{name}.yaml: no such file")
    return found[0].root / folder / f"{name}.yaml", origins[0]


@cache
def _parsed(text: str, where: str) -> dict[str, Any]:
    """Parsed once per content: a bench reads the same files for each of its runs. What looks like a variable stays text."""
    try:
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected keys and values at the top level")
    return values


def load_suite(name: str) -> Suite:
    """Load a suite. ConfigError with the nearest name when it is unknown, and when its groups do not match its tasks."""
    if not exists("suites", name):
        raise ConfigError(unknown("suite", name, names("suites")))
    values, where = load_yaml("suites", name), origin("suites", name)
    if not isinstance(values.get("tasks"), list):
        raise ConfigError(f"{where}: expected a list of tasks")
    suite = Suite(
        name=name,
        title=values.pop("title", name),
        aliases=tuple(values.pop("aliases", ())),
        tasks=tuple(values.pop("tasks")),
        seeds=tuple(values.pop("seeds", (0,))),
        groups={group: tuple(tasks) for group, tasks in values.pop("groups", {}).items()},
        ranked_by=values.pop("ranked_by", None),
        data=values.pop("data", {}),
        task_settings=values.pop("task_settings", {}),
        settings=values,
    )
    grouped = [task for tasks in suite.groups.values() for task in tasks]
    strangers = {*grouped, *suite.task_settings} - set(suite.tasks)
    if strangers:
        raise ConfigError(f"{where}: '{min(strangers)}' is none of its tasks")
    if suite.ranked_by is not None and suite.ranked_by not in suite.groups:
        raise ConfigError(f"{where}: unknown group ranked_by={suite.ranked_by}")
    if suite.groups and suite.ranked_by is None and sorted(grouped) != sorted(suite.tasks):
        raise ConfigError(f"{where}: groups must hold every task once, or ranked_by name the one that counts")
    return suite


def suite_tasks(chosen: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return suite -> its tasks in order, for the chosen suites or all."""
    return {name: load_suite(name).tasks for name in (names("suites") if chosen is None else chosen)}


def suite_name(text: str) -> str:
    """Return the suite that a name or an alias means, in any case and punctuation; the text itself when there is none."""
    if exists("suites", text):
        return text
    return next((name for name in names("suites") if normalise_name(text) in map(normalise_name, (name, *load_suite(name).aliases))), text)


def task_name(text: str) -> str:
    """Return the task that a name or an alias means, such as vtab/cifar100 for VTAB-1k/CIFAR-100; the text itself when there is none."""
    if "+" in text and ":" not in text:
        if text.count("+") >= MOST_JOINED:
            raise ConfigError(f"at most {MOST_JOINED} tasks can be joined with +, got {text.count('+') + 1}")
        return "+".join(task_name(part) for part in text.split("+"))
    if ":" in text or text in TASKS:
        return text
    suite, slash, rest = text.partition("/")
    if not slash:
        return text
    return TASKS.canonical(f"{suite_name(suite)}/{rest}")


def load_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """Return a recipe's title and its YAML. ConfigError with the nearest name when it is unknown."""
    if not exists("recipes", name):
        raise ConfigError(unknown("recipe", name, names("recipes")))
    values = load_yaml("recipes", name)
    return values.pop("title", name), values
