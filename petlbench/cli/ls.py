"""The commands that list what there is: methods, suites, recipes, tasks, backbones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import click
from rich.table import Table

from petlbench.cli.console import table_console
from petlbench.cli.words import split_words
from petlbench.config.files import load_recipe, load_suite, load_yaml, names, suite_name
from petlbench.config.resolve import load_method, method_names
from petlbench.data.presence import Presence, State, data_folder, presence
from petlbench.data.task import DiskTask, TaskSpec
from petlbench.errors import ConfigError
from petlbench.registry import TASKS

_NO_FACTS = {"input": "", "parameters": "", "sha256": ""}
_REMOTE = {"backbone": "remote", "summary": "What `petlbench serve` serves elsewhere: backbone=remote url=http://HOST:PORT", **_NO_FACTS}
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")


@click.command()
@AS_JSON
def methods(as_json: bool) -> None:
    """List the methods with their access rung and citation; a preset is a configuration of a plugin under a name of its own."""
    rows = []
    for name in method_names():
        plugin, _ = load_method(name)
        summary = (plugin.__doc__ or "").strip().splitlines()[0] if plugin.name == name else f"preset of {plugin.name}"
        access = plugin.access
        rows.append({"method": name, "access": access.name, "box": access.colour, "cite": plugin.cite, "summary": summary})
    _show(rows, as_json)


@click.command()
@click.argument("words", nargs=-1, metavar="[SUITE...] [data_root=DIR]")
@AS_JSON
def suites(words: tuple[str, ...], as_json: bool) -> None:
    """List the suites; with the name of one, where each of its tasks stands: present, downloadable, to be fetched by hand, broken."""
    named = [suite_name(word) for word in words if "=" not in word]
    overrides = split_words([word for word in words if "=" in word])
    if unknown := set(overrides) - {"data_root"}:
        raise ConfigError(f"suites takes names and data_root=DIR, got {min(unknown)}")
    root = data_folder(overrides.get("data_root"))
    listed = {name: load_suite(name) for name in named or names("suites")}
    found = {name: [presence(task, root) for task in suite.tasks] for name, suite in listed.items()}
    if named:
        rows = [{"task": one.task, "state": one.state, "where": one.where} for tasks in found.values() for one in tasks]
    else:
        rows = [{"suite": name, **_states(found[name]), "title": suite.title} for name, suite in listed.items()]
    _show(rows, as_json)


def _states(tasks: Sequence[Presence]) -> dict[str, Any]:
    """How many tasks of a suite stand where."""
    return {"tasks": len(tasks)} | {state: sum(one.state == state for one in tasks) for state in get_args(State)}


@click.command()
@AS_JSON
def recipes(as_json: bool) -> None:
    """List the recipes: how published work trains, prepares images and chooses the epoch. recipe=NAME sets all of it."""
    rows = []
    for name in names("recipes"):
        title, sections = load_recipe(name)
        rows.append({"recipe": name, "selection": sections.get("protocol", {}).get("selection", ""), "title": title})
    _show(rows, as_json)


@click.command()
@AS_JSON
def tasks(as_json: bool) -> None:
    """List the tasks. folder:PATH makes one of any image folder: PATH/{train,val,test}/CLASS/IMAGE."""
    rows = []
    for name in TASKS.names():
        spec = TASKS.get(name)
        if isinstance(spec, TaskSpec):
            rows.append(_row(name, len(spec.class_names), spec.sizes, spec.templates[0]))
        elif isinstance(spec, DiskTask):
            rows.append(_row(name, spec.classes, spec.sizes, spec.template or ""))
        else:
            rows.append({"task": f"{name}:…", "classes": "", "train / val / test": "", "prompt": ""})
    _show(rows, as_json)


def _row(name: str, classes: int, sizes: Mapping[str, int], prompt: str) -> dict[str, Any]:
    """A task's line. Where only the size of train and val together is known, it stands for both."""
    shown = ("trainval", "test") if "trainval" in sizes else ("train", "val", "test")
    parts = [f"{sizes[split]:,}" if split in sizes else "–" for split in shown]
    return {"task": name, "classes": classes, "train / val / test": " / ".join(parts), "prompt": prompt}


@click.command()
@AS_JSON
def backbones(as_json: bool) -> None:
    """List the backbones; a name that ends in a colon is a family: timm:vit_base_patch16_224.augreg_in21k, open_clip:ViT-B-16/openai."""
    from petlbench.registry import BACKBONES

    rows = []
    for name in BACKBONES.names():
        summary = (BACKBONES.get(name).__doc__ or "").strip().splitlines()[0]
        is_family = name not in names("backbones")
        rows.append({"backbone": f"{name}:…" if is_family else name, "summary": summary, **(_NO_FACTS if is_family else _facts(name))})
    _show([*rows, _REMOTE], as_json)


def _facts(name: str) -> dict[str, Any]:
    """The lines of a card that a person looks for first."""
    card = load_yaml("backbones", name)
    return {"input": card["input_size"], "parameters": card["parameters"], "sha256": card["sha256"][:12]}


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    table_console().print(table)
