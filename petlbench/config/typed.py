"""Build strictly typed sections from layers of plain values: later layers win, and an error names the key, the value and its layer."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from petlbench.errors import ConfigError, did_you_mean, is_unicode

S = TypeVar("S")
COMMAND_LINE = "command line"
_LONGEST = 200  # characters of a value that a message shows


class Text(str):
    """A value as a user typed it. The type of its field says how to read it, so that ``out=2024_01`` stays a name."""


@dataclass(frozen=True)
class Layer:
    """Values and the file that they come from, such as configs/methods/lora.yaml."""

    origin: str
    values: Mapping[str, Any]


def build(kind: type[S], layers: Sequence[Layer], prefix: str = "") -> S:
    """Build the dataclass of one section. ``prefix`` ("train.") is what its keys begin with where a user types them.

    ConfigError for a key that the dataclass does not have, a value of another type and a value that its own checks refuse.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _merge(kind, values, layer.values, layer.origin, prefix, origins)
    try:
        return cast(S, _adapter(cast(Any, kind)).validate_json(json.dumps(values), strict=True))
    except ValidationError as error:
        raise ConfigError(_message(kind, values, error, prefix, origins)) from None
    except RecursionError:
        raise ConfigError(f"{prefix.rstrip('.') or 'a setting'} is nested too deeply ({layers[-1].origin})") from None


def check_keys(keys: Iterable[str], known: Sequence[str], origin: str, prefix: str = "", is_listed: bool = False) -> None:
    """Raise ConfigError, with the nearest name, for a key that is not known. In a section, and where ``is_listed``, it lists those that are."""
    for key in keys:
        if key not in known:
            listed = f" Known: {', '.join(known)}" if prefix or is_listed else ""
            raise ConfigError(f"unknown key '{prefix}{key}'.{did_you_mean(str(key), known)}{listed} ({origin})")


def _merge(kind: type, target: dict[str, Any], values: Any, origin: str, prefix: str, origins: dict[str, str]) -> None:
    of_kind = hints(kind)
    if not isinstance(values, Mapping):
        example = f"{prefix}{next(iter(of_kind), 'KEY')}"
        raise ConfigError(
            f"{prefix.rstrip('.')} is a section; set what is in it, such as {example}=…, got {quoted(_shown(values))} ({origin})"
        )
    check_keys(values, list(of_kind), origin, prefix)
    for key, value in values.items():
        name, hint = f"{prefix}{key}", of_kind[key]
        if dataclasses.is_dataclass(hint):
            if key not in target:
                target[key] = _default(kind, key)
            _merge(cast(type, hint), target[key], value, origin, f"{name}.", origins)
            continue
        read = read_text(value, hint) if isinstance(value, Text) else value
        if isinstance(read, float) and not math.isfinite(read):
            raise ConfigError(f"{name} must be a finite number, got {str(value)!r} ({origin})")
        if isinstance(read, str) and not is_unicode(read):
            raise ConfigError(f"{name} must be text in UTF-8, got {ascii(str(read))[:_LONGEST]} ({origin})")
        target[key], origins[name] = read, origin


def _default(kind: Any, key: str) -> dict[str, Any]:
    """The values of a nested section that a field of ``kind`` starts from: its own default, which need not be that of the nested class."""
    (field,) = (field for field in dataclasses.fields(kind) if field.name == key)
    return {} if field.default_factory is dataclasses.MISSING else dataclasses.asdict(cast(Any, field.default_factory()))


def read_text(text: str, hint: Any) -> Any:
    """Read a typed text as a value of a field's type. A text that is no such value is returned as an error message shows it."""
    options, origin = get_args(hint), get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(option for option in options if option is not type(None))
        return None if text in ("null", "~", "") else read_text(text, inner)
    read: Any = None
    if origin is Literal:
        read = next((option for option in options if str(option) == text), None)
    elif origin in (tuple, list) and (items := _as_list(text)) is not None:
        read = [read_text(item, options[0]) for item in items]
    elif hint in _READERS:
        read = _READERS[hint](text)
    return _shown(Text(text)) if read is None else read


def _as_float(text: str) -> float | None:
    try:
        return float(text) if re.fullmatch(r"[\w.+-]+", text, re.ASCII) and "_" not in text else None
    except ValueError:
        return None


_READERS: dict[type, Callable[[str], Any]] = {  # None: the text is no such value
    str: str,
    Path: str,
    int: lambda text: int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) else None,
    float: _as_float,
    bool: lambda text: {"true": True, "false": False}.get(text.lower()),
}


def _as_list(text: str) -> list[str] | None:
    """Split ``[a,b]`` into its items as they were typed, without blanks and quotes around them; None for any other text."""
    if not (text.startswith("[") and text.endswith("]") and len(text) > 1):
        return None
    items = [item.strip() for item in text[1:-1].split(",")]
    if not items[-1]:  # an empty list, or a comma behind the last item
        items.pop()
    items = [item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "'\"" else item for item in items]
    return items if all(item and not set(item) & set("[]{}'\"") for item in items) else None


def _shown(value: Any) -> Any:
    """Convert a refused value for an error message: ``4.7``, ``true`` and ``null`` get no quotes, ``'eight'`` does."""
    if not isinstance(value, Text):
        return value
    numbers = (_READERS[kind](value) for kind in (int, float, bool))
    return None if value == "null" else next((one for one in numbers if one is not None and math.isfinite(one)), str(value))


def quoted(value: Any) -> str:
    """Write a value for an error message, of a long one the beginning."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def hints(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    found = get_type_hints(kind)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def _message(kind: type, values: dict[str, Any], error: ValidationError, prefix: str, origins: Mapping[str, str]) -> str:
    """Describe the first problem."""
    first = error.errors(include_url=False)[0]
    fields = [step for step in first["loc"] if isinstance(step, str)]
    if first["type"] == "value_error":  # of a dataclass's own checks
        reason = str(first["ctx"]["error"]).splitlines()[0]
        section = prefix + "".join(f"{field}." for field in fields)
        starts_with_field = not fields and re.split("[ .]", reason)[0] in hints(kind)
        return f"{prefix}{reason}" if starts_with_field or not section else f"{section.rstrip('.')}: {reason}"
    hint: Any = kind
    for depth, field in enumerate(fields):
        if not dataclasses.is_dataclass(hint):
            fields = fields[:depth]
            break
        values, hint = values.get(field), hints(cast(type, hint))[field]  # type: ignore[assignment]
    name = (prefix + ".".join(fields)).rstrip(".")
    if first["type"] == "missing":
        return f"{name} is missing; it must be {describe(hint)}"
    return f"{name} must be {describe(hint)}, got {quoted(values)} ({origins.get(name, 'default')})"


def describe(hint: Any) -> str:
    """Name a field's type as error messages do."""
    options, origin = get_args(hint), get_origin(hint)
    if type(None) in options:
        return " or ".join([*(describe(option) for option in options if option is not type(None)), "null"])
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin in (tuple, list):
        return "a list such as [a,b]"
    return {int: "an int", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )
