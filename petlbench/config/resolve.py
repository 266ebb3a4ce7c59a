"""From defaults, YAML and the command line to one strict, typed run configuration.

Later layers win: the dataclasses' defaults, the suite's YAML, the method's YAML, a recipe's YAML when one is asked for, the command line. What the
YAML of a method or recipe has for a suite and for a task comes right behind the rest of that file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from petlbench.config.files import load_recipe, load_suite, load_yaml, names, suite_of, task_name
from petlbench.config.settings import Answers, BackboneChoice, Budget, Execution, Protocol, Train
from petlbench.errors import ConfigError, did_you_mean
from petlbench.records.store import protocol_id

if TYPE_CHECKING:
    from petlbench.method import Method

S = TypeVar("S")
_SECTIONS = {"backbone": BackboneChoice, "protocol": Protocol, "train": Train, "access": Answers, "budget": Budget}
_SCALARS = {"seed": 0, "precision": "auto"}
_PRECISIONS = ("auto", "fp32", "bf16")
_SHORT = {"method": "method.name", "backbone": "backbone.name"}
_EXECUTION = {field.name for field in dataclasses.fields(Execution)}


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
    access: Answers
    budget: Budget
    seed: int
    precision: str
    recipe: str | None  # the name of the recipe that was asked for
    hyperparameters: str  # where they come from: of the method's YAML the default, suite NAME or task NAME; or recipe NAME
    execution: Execution = field(compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain JSON values; its hash is the run id."""
        identity = {
            "task": self.task,
            "method": {"name": self.method, "plugin": self.plugin, **dataclasses.asdict(self.method_config)},
            "backbone": dataclasses.asdict(self.backbone),
            "protocol": self.protocol.described,
            "train": dataclasses.asdict(self.train),
            "access": dataclasses.asdict(self.access),
            "budget": dataclasses.asdict(self.budget),
            "seed": self.seed,
            "precision": self.precision,
            "recipe": self.recipe,
        }
        return dict(json.loads(json.dumps(identity)))  # a tuple becomes the list that a record is read back with

    @property
    def protocol_id(self) -> str:
        return protocol_id(self.protocol.described)


def method_names() -> list[str]:
    """Every name that ``method=`` takes: the registered plugins and the presets of configs/methods."""
    from petlbench.method import METHODS

    return sorted({*METHODS.names(), *names("methods")})


def load_method(name: str) -> tuple[type[Method], dict[str, Any]]:
    """The plugin class behind a method's name, and its YAML (empty for a plugin without one)."""
    from petlbench.method import METHODS

    if name in names("methods"):
        values = load_yaml("methods", name)
        return METHODS.get(values.pop("plugin", name)), values
    if name not in METHODS:
        raise ConfigError(f"no method '{name}'.{did_you_mean(name, method_names())} (petlbench methods lists all)")
    return METHODS.get(name), {}


def parse_overrides(arguments: Sequence[str], short: Mapping[str, str] = _SHORT) -> dict[str, Any]:
    """``key=value`` words as nested plain values. ``method=NAME`` and ``backbone=NAME`` are short for their ``.name``."""
    words = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise ConfigError(f"'{argument}' is not of the form key=value, such as method=lora or train.epochs=20")
        words.append(f"{short[key]}={value}" if key in short else argument)
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist(words), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"command line: {' '.join(str(error).split())}") from None
    assert isinstance(parsed, dict)
    return {str(key): value for key, value in parsed.items()}


def resolve(arguments: Sequence[str]) -> RunConfig:
    """The run that a list of ``key=value`` words describes. ConfigError names the key or value that is wrong and where it was set."""
    overrides = parse_overrides(arguments)
    name, task = overrides.get("method", {}).pop("name", None), overrides.pop("task", None)
    if isinstance(task, list):
        task = "+".join(map(str, task))
    for required, given in (("method", name), ("task", task)):
        if given is None or isinstance(given, (dict, list)):
            raise ConfigError(f"{required}=NAME is missing (petlbench {required}s lists all)")
    name, task = str(name), task_name(str(task))
    plugin, settings = load_method(name)
    layers = _suite_layers(task)
    of_method = _layers(f"configs/methods/{name}.yaml", settings, task)
    layers += of_method
    hyperparameters = of_method[-1][0].partition(", ")[2] or "default"
    recipe = overrides.pop("recipe", None)
    if recipe is not None:
        recipe = str(recipe)
        layers += _layers(f"configs/recipes/{recipe}.yaml", load_recipe(recipe)[1], task)
        hyperparameters = f"recipe {recipe}"
    execution = {key: overrides.pop(key) for key in list(overrides) if key in _EXECUTION}
    layers.append(("command line", overrides))

    schema = OmegaConf.create({**{key: OmegaConf.structured(kind) for key, kind in _SECTIONS.items()}, **_SCALARS})
    schema.method = OmegaConf.structured(plugin.Config)
    OmegaConf.set_struct(schema, True)
    for where, layer in layers:
        _merge(schema, layer, where, others=("task", "recipe", *_EXECUTION))
    placed = OmegaConf.create({"execution": OmegaConf.structured(Execution)})
    _merge(placed, {"execution": execution}, "command line")
    return RunConfig(
        task=task,
        method=name,
        plugin=plugin.name,
        method_config=_build(schema, "method"),
        **{key: _build(schema, key) for key in _SECTIONS},
        seed=_checked_seed(schema.seed),
        precision=_checked_precision(schema.precision),
        recipe=recipe,
        hyperparameters=hyperparameters,
        execution=_build(placed, "execution"),
    )


def _suite_layers(task: str) -> list[tuple[str, dict[str, Any]]]:
    """What the suite's YAML sets, for all of its tasks and for this one."""
    if suite_of(task) not in names("suites"):
        return []
    suite = load_suite(suite_of(task))
    of_task = suite.task_settings.get(task, {})
    origin = f"configs/suites/{suite.name}.yaml"
    return [(origin, dict(suite.settings)), (f"{origin}, task {task}", dict(of_task))]


def _layers(origin: str, values: dict[str, Any], task: str) -> list[tuple[str, dict[str, Any]]]:
    """A file's values without its parts for suites and tasks, then the parts that are for this task, each with where it stands.

    A part may say where its numbers come from, ``source: TEXT``, for readers of the file.
    """
    parts = [("suite", suite_of(task), values.pop("suites", {}) or {}), ("task", task, values.pop("tasks", {}) or {})]
    return [
        (origin, values),
        *((f"{origin}, {label} {key}", _without_source(of_all[key])) for label, key, of_all in parts if key in of_all),
    ]


def _without_source(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "source"}


def resolve_settings(kind: type[S], arguments: Sequence[str]) -> S:
    """A flat dataclass of settings from ``key=value`` words, as strict as a run's configuration."""
    schema = OmegaConf.create({"execution": OmegaConf.structured(kind)})  # the section that is not typed out
    OmegaConf.set_struct(schema, True)
    _merge(schema.execution, parse_overrides(arguments, short={}), "command line")
    return cast(S, _build(schema, "execution"))


def _merge(schema: DictConfig, layer: dict[str, Any], where: str, prefix: str = "", others: Sequence[str] = ()) -> None:
    """Merge one layer into the schema, strictly and key by key; errors name the key as a user types it, ``others`` are keys that exist beside."""
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in schema:
            known = [*(str(field) for field in schema), *others]
            listed = f" Known: {', '.join(known)}" if prefix else ""
            raise ConfigError(f"unknown key '{name}'.{did_you_mean(str(key), known)}{listed} ({where})")
        if not OmegaConf.is_missing(schema, key) and dataclasses.is_dataclass(OmegaConf.get_type(schema, key)):
            if not isinstance(value, dict):
                example = f"{name}.{next(iter(schema[key]), 'KEY')}"
                raise ConfigError(f"{name} is a section; set what is in it, such as {example}=…, got {value!r} ({where})")
            _merge(schema[key], value, where, f"{name}.")
        elif expected := _assign(schema, key, value):
            raise ConfigError(f"{_typed(name)} must be {expected}, got {value!r} ({where})")


def _assign(section: DictConfig, key: str, value: Any) -> str | None:
    """Set a field. What its value must be, when this one does not fit."""
    try:
        OmegaConf.update(section, key, value)
    except (OmegaConfBaseException, TypeError, ValueError):
        return _described(get_type_hints(OmegaConf.get_type(section))[key])
    return "a finite number" if isinstance(section[key], float) and not math.isfinite(section[key]) else None


def _described(hint: Any) -> str:
    """A field's type as an error message names it."""
    parts, origin = get_args(hint), get_origin(hint)
    if type(None) in parts:
        return " or ".join([*(_described(part) for part in parts if part is not type(None)), "null"])
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (tuple, list):
        return "a list such as [a,b]"
    return {int: "an int", float: "a number", bool: "true or false", str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))


def _typed(key: str) -> str:
    """The key as a user types it: execution settings stand at the top level."""
    return key.removeprefix("execution.")


def _build(schema: DictConfig, section: str) -> Any:
    """The dataclass instance of a section; its own checks become ConfigErrors."""
    try:
        return OmegaConf.to_object(schema[section])
    except (ValueError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        starts_with_field = re.split("[ .]", reason)[0] in schema[section]  # or with the path below one
        raise ConfigError(_typed(f"{section}.{reason}") if starts_with_field else f"{section}: {reason}") from None


def _checked_seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigError(f"seed must be an int in [0, 2**32), got {value!r}")
    return value


def _checked_precision(value: Any) -> str:
    if value not in _PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(_PRECISIONS)}, got {value!r}")
    return str(value)
