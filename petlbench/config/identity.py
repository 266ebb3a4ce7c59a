"""The part of a configuration that a run's id is computed from: everything except fields declared with ``added`` that are at their default.

So a new field does not change the ids, and the tables, of earlier runs.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator

T = TypeVar("T")
_ADDED = "petlbench.added"
_FILE = "petlbench.file"
# The type of a setting that names a file of the user's: ``checkpoint: File | None = None``. Its content, and not its place, is part of a run's id.
File = Annotated[str, AfterValidator(os.path.expanduser), _FILE]


def run_id(config: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify a resolved configuration, whatever the order of its keys."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def protocol_id(settings: dict[str, Any]) -> str:
    """Return a protocol's name and 8 hexadecimal digits of its settings; equal for protocols whose results may share a column."""
    return f"{settings.get('name')}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"


def added(default: T) -> T:
    """Declare a field of a configuration dataclass that was added after runs had been recorded: ``rank_step: int = added(1)``.

    The default must be what the code did before there was the field, and must stay: records that lack the field were made with it.
    """
    field: T = dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata={_ADDED: True})
    return field


def to_identity(section: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance as plain values, without the ``added`` ones that are at their default."""
    found = {}
    for field in dataclasses.fields(section):
        value = _plain(getattr(section, field.name))
        if not _is_added(field) or value != _plain(_default(field)):
            found[field.name] = value
    return found


def fill_added(kind: type, description: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the result of ``to_identity`` for an instance of ``kind`` the ``added`` fields that it left out."""
    hints, found = get_type_hints(kind), dict(description)
    for field in dataclasses.fields(kind):
        hint, value = hints[field.name], description.get(field.name)
        if field.name not in description and _is_added(field):
            value = found[field.name] = _plain(_default(field))
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            found[field.name] = fill_added(hint, value)
    return found


def files_of(section: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings of a dataclass instance that name files, with their values: a path, or a list of paths. Declared as ``File`` or ``Path``."""
    hints = get_type_hints(type(section), include_extras=True)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            found |= files_of(value, f"{prefix}{field.name}.")
        elif value is not None and _names_files(hints[field.name]):
            found[f"{prefix}{field.name}"] = _plain(value)
    return found


def _names_files(hint: Any) -> bool:
    return hint is Path or _FILE in getattr(hint, "__metadata__", ()) or any(map(_names_files, get_args(hint)))


def _is_added(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get(_ADDED))


def _default(field: dataclasses.Field[Any]) -> Any:
    assert field.default_factory is not dataclasses.MISSING
    return field.default_factory()


def _plain(value: Any) -> Any:
    """Convert to plain JSON values; tuples become lists, paths texts."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return to_identity(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
