"""Resolve defaults, YAML and a user's settings to one strictly typed run configuration.

Later layers win: the dataclasses' defaults, the suite's YAML, the method's YAML, a recipe's YAML when one is asked for, the user. In the YAML of
a method or recipe, settings for a suite and then those for a task win over the rest of that file.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import operator
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from petlbench.config.files import exists, load_recipe, load_suite, load_yaml, names, origin, suite_of, task_name
from petlbench.config.identity import added, files_of, fill_added, protocol_id, run_id, to_identity
from petlbench.config.pruning import Pruning
from petlbench.config.settings import BackboneChoice, Budget, Execution, Numerics, Protocol, QueryConfig, Train
from petlbench.config.typed import COMMAND_LINE, Layer, Text, build, check_keys
from petlbench.errors import ConfigError, unknown
from petlbench.registry import METHODS

_SECTIONS = {"backbone": BackboneChoice, "protocol": Protocol, "train": Train, "access": QueryConfig, "budget": Budget}
_NUMERICS = [field.name for field in dataclasses.fields(Numerics)]
_EXECUTION = [field.name for field in dataclasses.fields(Execution)]
_SHORT = {"method": "method.name", "backbone": "backbone.name"}


@dataclass(frozen=True)
class RunConfig:
    """One run, resolved. ``identity`` is everything that its result may depend on."""

    task: str
    method: str  # the name as typed: a plugin or a preset
    plugin: str
    method_config: Any  # an instance of the plugin's Config
    backbone: BackboneChoice
    protocol: Protocol
    train: Train
    access: QueryConfig
    budget: Budget
    seed: int
    precision: str
    recipe: str | None  # the name of the recipe that was asked for
    hyperparameters: str  # where they come from: of the method's YAML the default, suite NAME or task NAME; or recipe NAME
    execution: Execution = field(compare=False)
    # setting -> what ids and records say in place of the user's own files that it names (data.content.with_content)
    content: Mapping[str, Any] = field(default_factory=dict)
    study: str | None = added(None)  # the study whose winner's settings these are (petlbench.tuning): what they cost is part of the result
    tuning: Mapping[str, Any] | None = field(default=None, compare=False)  # what the record says of that study, records.schema.Tuning
    pruning: Pruning | None = field(default=None, compare=False)  # of a trial that its study may end early

    @property
    def identity(self) -> dict[str, Any]:
        """Plain JSON values; its hash is the run id. A new field of this class is declared with ``added`` as well."""
        return copy.deepcopy(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        found = to_identity(self)
        found["method"] = {"name": found["method"], "plugin": found.pop("plugin"), **found.pop("method_config")}
        for beside in ("hyperparameters", "execution", "content", "tuning", "pruning"):
            del found[beside]
        for key, name in self.content.items():
            *path, last = key.split(".")
            functools.reduce(operator.getitem, path, found)[last] = name
        return dict(json.loads(json.dumps(found)))  # refuses what a record could not be read back with

    @property
    def files(self) -> dict[str, Any]:
        """The settings that name files of the user's, such as ``backbone.checkpoint``, with their paths."""
        return files_of(self.backbone, "backbone.") | files_of(self.method_config, "method.")

    @property
    def published_task(self) -> str:
        """The task as records name it."""
        return str(self.content.get("task", self.task))

    @property
    def label(self) -> str:
        """Name the run in a sentence."""
        return f"{self.method} on {self.task}, seed {self.seed}"

    def on_served(self, model: str) -> RunConfig:
        """Return this run with the name of the served model in place of ``remote``. Its address is no part of a run: the same model may be served
        elsewhere tomorrow."""
        return dataclasses.replace(self, backbone=dataclasses.replace(self.backbone, name=model))

    def seeded(self, seed: int) -> RunConfig:
        """Return this run with another seed. The two share all other settings, which are not checked and hashed again."""
        numerics = build(Numerics, [Layer("settings", {"seed": seed, "precision": self.precision})])
        other = dataclasses.replace(self, seed=numerics.seed)
        vars(other)["_identity"] = {**self._identity, "seed": numerics.seed}
        return other

    @functools.cached_property
    def run_id(self) -> str:
        return run_id(self._identity)

    @property
    def protocol_id(self) -> str:
        return protocol_id(to_identity(self.protocol))


def completed_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a run's identity the fields that are left out at their default, so that no later YAML can set them."""
    method = identity["method"]
    whole = fill_added(RunConfig, identity)
    return {**whole, "method": fill_added(load_method(method["name"])[0].Config, method)}


def plugins_of_methods(plugins: Collection[str] | None = None) -> dict[str, str]:
    """Map every name that ``method=`` takes to its plugin: the plugins (by default the registered ones) and the presets of configs/methods, except those
    of broken plugins."""
    known = METHODS.names() if plugins is None else plugins
    presets = {name: str(load_yaml("methods", name).get("plugin", name)) for name in names("methods")}
    found = {name: name for name in known} | {name: plugin for name, plugin in presets.items() if plugin in known}
    return dict(sorted(found.items()))


def method_names() -> list[str]:
    """List every name that ``method=`` takes."""
    return list(plugins_of_methods())


def load_method(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the plugin class of a method's name, and its YAML (empty for a plugin without one)."""
    if exists("methods", name):
        values = load_yaml("methods", name)
        return METHODS.get(values.pop("plugin", name)), values
    if name not in METHODS:
        raise ConfigError(unknown("method", name, {*METHODS.known(), *names("methods")}) + METHODS.reasons(name))
    return METHODS.get(name), {}


def resolve(settings: Mapping[str, Any]) -> RunConfig:
    """Resolve settings to a run: ``{"method": "lora", "task": "mini/digits", "method.rank": 4}``, with dots or nested.

    ConfigError names the key or value that is wrong and where it was set.
    """
    return _resolved({}, nested(settings))


def _resolved(stored: dict[str, Any], given: dict[str, Any]) -> RunConfig:
    """Resolve a stored configuration, which may be empty, with the user's settings over it; both are nested."""
    where_given = given_by(given)
    values = merged(stored, given)
    name, task = _named(values, "method"), _named(values, "task")
    plugin, of_plugin = load_method(name)
    layers = [*_suite_layers(task), *(of_method := _set_by(layers_of(origin("methods", name) if of_plugin else name, of_plugin, task)))]
    hyperparameters = of_method[-1].origin.partition(", ")[2] or "default"
    recipe = values.get("recipe")
    if recipe == "null" and isinstance(recipe, Text):
        recipe = None
    if recipe is not None:
        recipe = str(recipe)
        _, of_recipe = load_recipe(recipe)
        layers += _set_by(layers_of(origin("recipes", recipe), of_recipe, task))
        hyperparameters = f"recipe {recipe}"
    execution = {key: values[key] for key in _EXECUTION if key in values}
    layers += [Layer(where, _without_names(of_layer)) for where, of_layer in (("stored configuration", stored), (where_given, given))]
    for layer in layers:
        known = [*_SECTIONS, "method", *_NUMERICS]
        check_keys([key for key in layer.values if key not in known], [*known, "task", "recipe", *_EXECUTION], layer.origin)
    return RunConfig(
        task=task,
        method=name,
        plugin=plugin.name,
        method_config=_section("method", plugin.Config, layers),
        **{key: _section(key, kind, layers) for key, kind in _SECTIONS.items()},
        **dataclasses.asdict(build(Numerics, [_only(layer, _NUMERICS) for layer in layers])),
        recipe=recipe,
        hyperparameters=hyperparameters,
        execution=build(Execution, [Layer(where_given, execution)]),
    )


def restore(identity: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> RunConfig:
    """Resolve the configuration of a file (``RunConfig.identity``) to a run, with the user's ``settings`` over it.

    The file says what was run; where and how to run it now (``out``, ``url``, ``data_root``, …) only the user can set.
    """
    method = identity.get("method") if isinstance(identity, Mapping) else None
    if not isinstance(method, Mapping) or not isinstance(method.get("name"), str):
        raise ConfigError("the stored configuration is not one of a petlbench run")
    known = ["task", "method", *_SECTIONS, *_NUMERICS, "recipe", "study"]
    check_keys(identity, known, "stored configuration")
    whole = completed_identity(identity)
    if not isinstance(study := whole.pop("study"), str | None):
        raise ConfigError("study must be text or null (stored configuration)")
    method = {key: value for key, value in whole["method"].items() if key != "plugin"}
    config = _resolved(nested({**whole, "method": method}), nested(settings or {}))
    return config if study is None else dataclasses.replace(config, study=study, hyperparameters="tuned")


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn settings with dots in their keys into nested ones; ``method`` and ``backbone`` are short for their ``.name``."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings are a mapping or keyword arguments, such as method='lora', got {settings!r}")
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found = merged(found, {key: nested(value) if key in (*_SECTIONS, "method") else dict(value)})
            continue
        *path, last = _SHORT.get(key, key).split(".")
        leaf: dict[str, Any] = {last: os.fspath(value) if isinstance(value, os.PathLike) else value}
        for part in reversed(path):
            leaf = {part: leaf}
        found = merged(found, leaf)
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of the second win."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def given_by(settings: Mapping[str, Any]) -> str:
    """Return where a user's settings come from, for messages."""
    return COMMAND_LINE if _holds_text(settings) else "settings"


def _holds_text(values: Mapping[str, Any]) -> bool:
    """True when a value was typed as a word of a command."""
    return any(_holds_text(value) if isinstance(value, Mapping) else isinstance(value, Text) for value in values.values())


def _without_names(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the names of method, task and recipe, and how a run is executed: none of them is in a section of YAML."""
    left = {key: value for key, value in values.items() if key not in ("task", "recipe", *_EXECUTION)}
    if isinstance(left.get("method"), Mapping):
        left["method"] = {key: value for key, value in left["method"].items() if key != "name"}
    return left


def _named(values: dict[str, Any], required: str) -> str:
    """Return the method's or the task's name."""
    given = values.get(required)
    if required == "method" and isinstance(given, Mapping):
        given = given.get("name")
    if required == "task":
        if isinstance(given, str) and given.startswith("[") and given.endswith("]"):
            given = [part.strip() for part in given[1:-1].split(",")]
        if isinstance(given, (list, tuple)):
            given = "+".join(map(str, given))
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{required}=NAME is missing (petlbench ls {required}s lists all)")
    return task_name(str(given)) if required == "task" else str(given)


def _section(name: str, kind: type, layers: list[Layer]) -> Any:
    return build(kind, [Layer(layer.origin, layer.values[name]) for layer in layers if name in layer.values], f"{name}.")


def _only(layer: Layer, keys: list[str]) -> Layer:
    return Layer(layer.origin, {key: value for key, value in layer.values.items() if key in keys})


def _suite_layers(task: str) -> list[Layer]:
    """Return what the suite's YAML sets for all of its tasks and for this one."""
    if not exists("suites", suite_of(task)):
        return []
    suite = load_suite(suite_of(task))
    where = origin("suites", suite.name)
    return [Layer(where, suite.settings), Layer(f"{where}, task {task}", suite.task_settings.get(task, {}))]


def layers_of(where: str, values: dict[str, Any], task: str) -> list[Layer]:
    """Split the values of a method's or recipe's file into layers: those for all tasks, then those for this task's suite and for the task itself.

    A section for a suite or task may name the source of its numbers, ``source: TEXT``, for readers of the file. ``search`` (petlbench.config.search) is
    part of a layer and no setting of a run.
    """
    sections = [("suite", suite_of(task), values.pop("suites", {}) or {}), ("task", task, values.pop("tasks", {}) or {})]
    return [
        Layer(where, values),
        *(Layer(f"{where}, {label} {key}", _without_source(of_all[key])) for label, key, of_all in sections if key in of_all),
    ]


def _set_by(layers: list[Layer]) -> list[Layer]:
    """Leave out ``search``, and sections for a suite or task that have nothing else: no setting of the run comes from them."""
    setting = [layers[0], *(layer for layer in layers[1:] if layer.values.keys() != {"search"})]
    return [Layer(layer.origin, {key: value for key, value in layer.values.items() if key != "search"}) for layer in setting]


def _without_source(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "source"}
