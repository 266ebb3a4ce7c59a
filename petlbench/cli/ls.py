"""The command ``ls``: methods, suites, tasks, backbones or recipes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import click

from petlbench.cli.printing import print_rows
from petlbench.cli.remembered import Facts, remembered
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo_json
from petlbench.cli.words import AS_JSON, names_and_words, settings_of
from petlbench.config.files import load_recipe, load_suite, load_yaml, names, suite_name
from petlbench.config.resolve import plugins_of_methods
from petlbench.data.acquire.presence import Presence, State, data_folder, presence
from petlbench.data.task import DiskTask, TaskSpec
from petlbench.errors import ConfigError
from petlbench.registry import BACKBONES, METHODS, TASKS

Rows = list[dict[str, Any]]
_NO_CARD = {"input": "", "parameters": "", "sha256": ""}
_REMOTE = {"backbone": "remote", "summary": "The model of a `petlbench serve` elsewhere: backbone=remote url=http://HOST:PORT", **_NO_CARD}


@dataclass
class LsSettings:
    """Settings of ``ls suites``."""

    data_root: str | None = None  # folder of the datasets; null: the environment variable PETLBENCH_DATA


@click.command(cls=SettingsCommand, settings=LsSettings)
@click.argument("kind", type=click.Choice(["methods", "suites", "tasks", "backbones", "recipes"]))
@click.argument("words", nargs=-1, metavar="[SUITE...] [data_root=DIR]")
@AS_JSON
def ls(kind: str, words: tuple[str, ...], as_json: bool) -> None:
    """List methods, suites, tasks, backbones or recipes.

    ls suites vtab data_root=DIR says which tasks of a suite are present, downloadable, to be fetched by hand (manual) or broken.
    """
    named, given = names_and_words(words)
    settings = settings_of(LsSettings, given)
    if (named or given) and kind != "suites":
        raise ConfigError(f"ls {kind} takes no further words, got {words[0]}")
    rows = _suites(named, settings) if kind == "suites" else _LISTS[kind]()
    if as_json:
        echo_json(rows)
    else:
        print_rows(rows)


def _methods() -> Rows:
    """List methods and presets; a preset is a configuration of a plugin under a name of its own."""
    facts = remembered(METHODS, _facts_of_methods)
    rows = []
    for name, plugin in plugins_of_methods(facts).items():
        preset = {} if plugin == name else {"summary": f"preset of {plugin}"}
        rows.append({"method": name, **facts[plugin], **preset})
    return rows


def _facts_of_methods() -> Facts:
    plugins = {name: METHODS.get(name) for name in METHODS.names()}
    return {
        name: {"access": plugin.access.name, "box": plugin.access.colour, "cite": plugin.cite, "summary": _first_sentence(plugin)}
        for name, plugin in plugins.items()
    }


def _suites(words: Sequence[str], settings: LsSettings) -> Rows:
    named = [suite_name(word) for word in words]
    root = data_folder(settings.data_root)
    listed = {name: load_suite(name) for name in named or names("suites")}
    found = {name: [presence(task, root) for task in suite.tasks] for name, suite in listed.items()}
    if named:
        return [{"task": one.task, "state": one.state, "where": one.where} for tasks in found.values() for one in tasks]
    return [{"suite": name, **_states(found[name]), "title": suite.title} for name, suite in listed.items()]


def _states(tasks: Sequence[Presence]) -> dict[str, Any]:
    """Count the tasks of a suite by state."""
    return {"tasks": len(tasks)} | {state: sum(one.state == state for one in tasks) for state in get_args(State)}


def _recipes() -> Rows:
    """List recipes: how published work trains, prepares images and chooses the epoch. recipe=NAME sets all of it."""
    rows = []
    for name in names("recipes"):
        title, sections = load_recipe(name)
        rows.append({"recipe": name, "selection": sections.get("protocol", {}).get("selection", ""), "title": title})
    return rows


def _tasks() -> Rows:
    """folder:PATH makes a task of any image folder: PATH/{train,val,test}/CLASS/IMAGE."""
    rows = []
    for name in TASKS.names():
        spec = TASKS.get(name)
        if isinstance(spec, TaskSpec):
            rows.append(_task(name, len(spec.class_names), spec.sizes, spec.templates[0]))
        elif isinstance(spec, DiskTask):
            rows.append(_task(name, spec.classes, spec.sizes, spec.template or ""))
        else:
            rows.append({"task": f"{name}:…", "classes": "", "train / val / test": "", "prompt": ""})
    return rows


def _task(name: str, classes: int, sizes: Mapping[str, int], prompt: str) -> dict[str, Any]:
    """Describe a task in a row. Where only the number of train and val images together is known, that is shown for both."""
    shown = ("trainval", "test") if "trainval" in sizes else ("train", "val", "test")
    parts = [f"{sizes[split]:,}" if split in sizes else "–" for split in shown]
    return {"task": name, "classes": classes, "train / val / test": " / ".join(parts), "prompt": prompt}


def _backbones() -> Rows:
    """A name that ends in a colon is a family: timm:vit_base_patch16_224.augreg_in21k, open_clip:ViT-B-16/openai."""
    rows = []
    for name, facts in remembered(BACKBONES, _facts_of_backbones).items():
        is_family = name not in names("backbones")
        rows.append({"backbone": f"{name}:…" if is_family else name, **facts, **(_NO_CARD if is_family else _card_entries(name))})
    return [*rows, _REMOTE]


def _facts_of_backbones() -> Facts:
    return {name: {"summary": _first_sentence(BACKBONES.get(name).load)} for name in BACKBONES.names()}


def _first_sentence(documented: Any) -> str:
    """Return the first sentence of a docstring on one line."""
    paragraph = " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph)[0]


def _card_entries(name: str) -> dict[str, Any]:
    """Return the main entries of a backbone's card."""
    card = load_yaml("backbones", name)
    return {"input": card["input_size"], "parameters": card["parameters"], "sha256": card["sha256"][:12]}


_LISTS: dict[str, Callable[[], Rows]] = {"methods": _methods, "tasks": _tasks, "backbones": _backbones, "recipes": _recipes}
