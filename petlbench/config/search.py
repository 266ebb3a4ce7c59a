"""Search spaces: which settings of a method are tuned, and over which values.

The YAML of a method has them below ``search``; its sections for a suite and a task, a recipe and then the user change single settings of the space::

    search: {train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}, method.rank: [1, 8, 16, 32]}
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union, cast, get_args, get_origin

from petlbench.config.files import exists, load_recipe, load_yaml, origin
from petlbench.config.identity import to_identity
from petlbench.config.resolve import RunConfig, given_by, layers_of, load_method, nested, resolve
from petlbench.config.settings import Train
from petlbench.config.typed import Layer, Text, build, check_keys, hints, quoted, read_text
from petlbench.errors import ConfigError

Scalar = float | int | str | bool | None
Point = dict[str, Scalar]  # one value for every setting of a space, as ``resolve`` takes it
_RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, both included, in steps of ``step`` where there is one."""

    low: float
    high: float
    log: bool = False  # spread evenly by their logarithms
    kind: type[float] | type[int] = float
    step: float | None = None

    def spread(self, count: int) -> list[Scalar]:
        """Return at most ``count`` of its numbers, ascending and evenly spread: both ends and what lies between; of one, the middle."""
        shares = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
        return list(dict.fromkeys(map(self._at, shares)))

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        steps = (value - self.low) / self.step if self.step is not None else 0.0
        return self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def __str__(self) -> str:
        steps = "" if self.step is None else f" in steps of {self.step:g}"
        return f"{'log:' if self.log else ''}{self.low:g}..{self.high:g}{steps}"

    def _at(self, share: float) -> Scalar:
        if share in (0, 1) and self.step is None:  # exactly: a logarithm and its exponential need not give back the number
            return self.kind(self.high if share else self.low)
        value = self.low * (self.high / self.low) ** share if self.log else self.low + share * (self.high - self.low)
        if self.step is not None:
            value = self.low + math.floor((value - self.low) / self.step + 1e-9) * self.step
        return round(value) if self.kind is int else value


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Scalar, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    def spread(self, count: int) -> list[Scalar]:
        """Return at most ``count`` of its values, in their order and evenly spread over it."""
        return [self.values[int(at)] for at in Range(0, self.size - 1, kind=int).spread(count)]  # type: ignore[arg-type]

    def __contains__(self, value: object) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.values)

    def __str__(self) -> str:
        return f"[{','.join('null' if value is None else str(value) for value in self.values)}]"


Space = dict[str, Range | Choice]  # by setting, such as train.learning_rate, in the order of its file


def load_space(method: str, task: str, given: Mapping[str, Any] | None = None) -> Space:
    """Load what is searched for a method on a task: what its YAML says, for this suite and task, and what ``given`` says.

    ``given``: the user's settings, with dots or nested. A setting that they fix is not searched. Those below ``search`` change the space: a text such as
    ``log:1e-4..1e-1`` or ``[4,8]``, a list, or a mapping with ``low``, ``high``, ``log`` and ``step``; null takes a setting out.

    The space is empty for a method that learns nothing. ConfigError names the file and the key when a setting is unknown or the method refuses one of
    its values, and says how to declare a space where there is none.
    """
    fixed = nested(given or {})
    asked = fixed.pop("search", {})
    values_of_method = fixed.get("method", {})
    config = resolve(
        {**fixed, "method": {**(values_of_method if isinstance(values_of_method, Mapping) else {}), "name": method}, "task": task}
    )
    plugin, _ = load_method(method)
    kinds: dict[str, Any] = {"method": plugin.Config, "train": Train}
    found: dict[str, tuple[Any, Any, str]] = {}  # setting -> its values as they were written, its type and where that was
    for layer in _declared(method, plugin, task):
        _update(found, _entries(kinds, layer.values, layer.origin))
    for layer in _of_recipe(config):
        _update(found, [entry for entry in _entries(kinds, layer.values, layer.origin) if entry[0] in found])
    of_user = list(_entries(kinds, asked, given_by({"search": asked})))
    for key in (is_fixed := _fixed(fixed)):
        found.pop(key, None)
    for key, value, _, where in of_user:
        if key in is_fixed and not _is_null(value):
            raise ConfigError(f"{key} is set and searched; leave out {key}=… or search.{key}=… ({where})")
    _update(found, of_user)
    return {key: _checked(key, _axis(key, *entry), entry[2], config) for key, entry in found.items()}


def default_point(space: Space, config: RunConfig) -> Point:
    """Return the values that a run has for the settings of a space."""
    return {key: _value(config, key) for key in space}


def grid(space: Space, most: int) -> list[Point]:
    """Return a regular grid of at most ``most`` points, the first setting varying slowest.

    Settings get values in turn, the first one first, as long as the grid does not become larger than ``most``.
    """
    if most < 1:
        raise ValueError(f"a grid has at least one point, got {most}")
    spread = {key: axis.spread(1) for key, axis in space.items()}
    grows = True
    while grows:
        grows = False
        for key, axis in space.items():
            wider = axis.spread(len(spread[key]) + 1)
            others = math.prod(len(values) for other, values in spread.items() if other != key)
            if len(wider) > len(spread[key]) and others * len(wider) <= most:
                spread[key], grows = wider, True
    points: list[Point] = [{}]
    for key, values in spread.items():
        points = [{**point, key: value} for point in points for value in values]
    return points


def plain(space: Space) -> dict[str, Any]:
    """Return a space as a YAML file has it: plain values, for records."""
    return {key: list(axis.values) if isinstance(axis, Choice) else _plain_range(axis) for key, axis in space.items()}


def _plain_range(axis: Range) -> dict[str, Any]:
    found: dict[str, Any] = {"low": axis.low, "high": axis.high}
    return found | ({"log": True} if axis.log else {}) | ({} if axis.step is None else {"step": axis.step})


def _declared(method: str, plugin: Any, task: str) -> list[Layer]:
    """Return the ``search`` sections of the plugin's YAML and then of the preset's; without any, what its class says."""
    found = [
        layer for name in dict.fromkeys((plugin.name, method)) if exists("methods", name) for layer in _sections("methods", name, task)
    ]
    if found:
        return found
    if plugin.default_search is not None:
        return [Layer(f"{plugin.__name__}.default_search", plugin.default_search)]
    if not plugin.learns:
        return []
    raise ConfigError(
        f"method={method} declares no search space. Add one to configs/methods/{method}.yaml, such as "
        "search: {method.rank: [4, 8]} (docs/plugin.md), or give one: search.method.rank=[4,8]"
    )


def _of_recipe(config: RunConfig) -> list[Layer]:
    """Return the ``search`` sections of a run's recipe: of settings that a method does not have in its space they say nothing."""
    return [] if config.recipe is None else _sections("recipes", config.recipe, config.task)


def _sections(folder: str, name: str, task: str) -> list[Layer]:
    values = load_recipe(name)[1] if folder == "recipes" else load_yaml(folder, name)
    layers = layers_of(origin(folder, name), values, task)
    return [Layer(layer.origin, _without_source(layer.values["search"])) for layer in layers if "search" in layer.values]


def _without_source(search: Any) -> Any:
    """Leave out ``source``, which says for readers of the file where the values come from."""
    return {key: value for key, value in search.items() if key != "source"} if isinstance(search, Mapping) else search


def _entries(kinds: Mapping[str, Any], values: Any, where: str, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Yield setting, values, type and origin of all that a ``search`` section names, with dots or nested."""
    if not isinstance(values, Mapping):
        example = f"search.{prefix}{next(iter(kinds))}" if prefix else "search.train.learning_rate"
        raise ConfigError(f"search{'.' * bool(prefix)}{prefix.rstrip('.')} is a section; set what is in it, such as {example}=… ({where})")
    for name, value in values.items():
        first, _, rest = str(name).partition(".")
        check_keys([first], list(kinds), where, f"search.{prefix}")
        kind, inner = kinds[first], {rest: value} if rest else value
        if dataclasses.is_dataclass(kind):
            yield from _entries(hints(cast(Any, kind)), inner, where, f"{prefix}{first}.")
        elif rest:
            raise ConfigError(f"unknown key 'search.{prefix}{name}': {prefix}{first} is a setting and no section ({where})")
        else:
            yield f"{prefix}{first}", value, kind, where


def _update(found: dict[str, tuple[Any, Any, str]], entries: Any) -> None:
    """Lay entries over those found so far. A range over a range keeps what it does not say, such as ``log``; null takes a setting out."""
    for key, value, kind, where in entries:
        read = _read(key, value, kind, where)
        before = found.get(key, (None,))[0]
        if read is None:
            found.pop(key, None)
        else:
            is_narrowed = isinstance(before, Mapping) and isinstance(read, Mapping)
            found[key] = ({**cast(Any, before), **read} if is_narrowed else read, kind, where)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Text) and value == "null")


def _read(key: str, text: Any, kind: Any, where: str) -> Any:
    """Read what a user typed: ``[4,8]``, ``1..16``, ``log:1e-4..1e-1``, ``null``, or one end of a range. What was not typed stays as it is."""
    if isinstance(text, Mapping):
        return {
            name: read_text(value, bool if name == "log" else kind) if isinstance(value, Text) else value for name, value in text.items()
        }
    if not isinstance(text, Text):
        return text
    if _is_null(text):
        return None
    if text.startswith("[") and isinstance(values := read_text(text, tuple[kind, ...]), list):
        return values
    scale, colon, span = text.rpartition(":")
    low, dots, high = span.partition("..")
    if not dots or scale not in ("", "log", "linear"):
        raise ConfigError(
            f"search.{key} must be a range such as 1..16 or log:1e-4..1e-1, a list such as [4,8], or null, got {quoted(str(text))} ({where})"
        )
    return {"low": read_text(low, kind), "high": read_text(high, kind)} | ({"log": scale == "log"} if colon else {})


def _axis(key: str, values: Any, kind: Any, where: str) -> Range | Choice:
    if isinstance(values, Mapping):
        return _range(key, values, kind, where)
    if not isinstance(values, list | tuple) or not values or not all(isinstance(value, Scalar) for value in values):
        raise ConfigError(
            f"search.{key} must be {{low: …, high: …}} or a list of numbers, texts, true, false or null, got {quoted(values)} ({where})"
        )
    is_number = _number(kind) is float
    return Choice(tuple(dict.fromkeys(float(value) if is_number and type(value) is int else value for value in values)))


def _range(key: str, values: Mapping[str, Any], kind: Any, where: str) -> Range:
    check_keys(values, _RANGE_KEYS, where, f"search.{key}.")
    number, log = _number(kind), values.get("log", False)
    low, high, step = (values.get(name) for name in ("low", "high", "step"))
    if number is None:
        raise ConfigError(f"search.{key}: only a number has a range; give a list of values ({where})")
    allowed = int if number is int else (int, float)
    for name, value in (("low", low), ("high", high), ("step", step)):
        is_right = isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
        if not is_right and not (name == "step" and value is None):
            raise ConfigError(f"search.{key}.{name} must be {'an int' if number is int else 'a number'}, got {quoted(value)} ({where})")
    assert low is not None and high is not None
    if not low < high:
        raise ConfigError(f"search.{key}: low must be < high, got {low:g} and {high:g} ({where})")
    if not isinstance(log, bool) or (log and not (low > 0 and step is None)):
        raise ConfigError(
            f"search.{key}.log must be true or false; true needs low > 0 and no step, got log={log}, low={low:g}, step={step} ({where})"
        )
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"search.{key}.step must be > 0 and at most high - low, got {step:g} ({where})")
    return Range(number(low), number(high), log, number, None if step is None else number(step))


def _number(kind: Any) -> type[float] | type[int] | None:
    """Return int or float for the type of a setting, with or without null; None: it is no number."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((option for option in options if option in (int, float)), None)


def _checked(key: str, axis: Range | Choice, where: str, config: RunConfig) -> Range | Choice:
    """Build the section of a run with every value, of a range with both ends: each must be one that the setting takes."""
    section, _, rest = key.partition(".")
    now = config.method_config if section == "method" else config.train
    for value in axis.values if isinstance(axis, Choice) else axis.spread(2):
        changed: Any = value
        for part in reversed(rest.split(".")):
            changed = {part: changed}
        try:
            build(type(now), [Layer("as it is", to_identity(now)), Layer("search space", changed)], f"{section}.")
        except ConfigError as error:
            raise ConfigError(f"search.{key}: {error} ({where})") from None
    return axis


def _fixed(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Return the settings of nested ones, with dots."""
    found: set[str] = set()
    for key, value in settings.items():
        found |= _fixed(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return found


def _value(config: RunConfig, key: str) -> Any:
    section, *path = key.split(".")
    return functools.reduce(getattr, path, config.method_config if section == "method" else config.train)
