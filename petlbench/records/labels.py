"""What records and published pages call the files and folders of a user: a label and a hash, ``birds@1a2b3c4d5e6f7a8b``, never where they lie.

Nothing here reads a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petlbench.records.file_names import slug
from petlbench.records.schema import Record

_DIGITS = 16  # of a SHA-256 that a name shows
_NAMED = re.compile(r"([^@/\\]+)@([0-9a-f]{16})")
_WINDOWS = re.compile(r"[A-Za-z]:[/\\]|\\\\")  # how an absolute path begins there
_HOME = re.compile(r"(?<![\w.~-])(?:(?:[A-Za-z]:)?[/\\]+(?:home|Users)[/\\]+[^/\\\s:'\",;()<>]+|/root(?=/))")
_JOINED = re.compile(r"\+(?=[a-z_]\w*[:/])")


def name_of(place: str, digest: str) -> str:
    """Return the name of a file or folder whose content has this hash."""
    return f"{label_of(place)}@{digest[:_DIGITS]}"


def label_of(place: str) -> str:
    """Return the last part of a path, as far as it may stand in a name. A person's home folder, or one of its name, is ``home``."""
    plain = place.replace("\\", "/") if _WINDOWS.match(place) else place
    path = Path(os.path.abspath(os.path.expanduser(plain)))  # noqa: PTH100, PTH111 (keep links; an unknown ~NAME is a name)
    return "home" if path.name == Path.home().name or _HOME.fullmatch(str(path)) else slug(path.name.replace("@", "_"))


def split_name(name: str) -> tuple[str, str | None]:
    """Split a name into label and hash. A path, as older records have it, gives its label and None."""
    found = _NAMED.fullmatch(name)
    return (found[1], found[2]) if found else (label_of(name), None)


def split_task(name: str) -> list[tuple[str, str | None]]:
    """Split a task's name into ``FAMILY:LABEL`` and hash, for each task that is joined in it; a registered task has no hash."""
    parts = []
    for part in _JOINED.split(name):
        family, colon, place = part.partition(":")
        label, digest = split_name(place) if colon else ("", None)
        parts.append((f"{family}:{label}", digest) if colon else (part, None))
    return parts


def without_places(text: str, places: Mapping[str, str]) -> str:
    """Return a text with names in place of paths: ``places`` maps paths to names. Whatever home folder is left is written ``~``."""
    for place in sorted((place for place in places if len(place) > 1), key=len, reverse=True):
        text = re.sub(rf"{re.escape(place)}(?![\w.-])", lambda _, name=places[place]: name, text)  # type: ignore[misc]
    return _HOME.sub("~", text)


def published(record: Record) -> Record:
    """Return a record as it may be shown to others: labels stand for the places that older records name."""
    task, places = _published_task(record.task, record.task_revision), {}
    if task != record.task:
        places = {
            part.partition(":")[2]: label.partition(":")[2]
            for part, (label, _) in zip(_JOINED.split(record.task), split_task(task), strict=False)
        }
    config = _published_config(record.config) | {"task": task}
    method = record.method.model_copy(update={"config": _published_config(record.method.config)})
    error = None if record.error is None else without_places(record.error, places | {str(Path.home()): "~"})
    return record.model_copy(update={"task": task, "config": config, "method": method, "error": error})


def _published_task(name: str, revision: str) -> str:
    parts = split_task(name)
    if len(parts) == 1 and ":" in name and parts[0][1] is None and revision:
        return f"{parts[0][0]}@{revision[:_DIGITS]}"
    return "+".join(label if digest is None else f"{label}@{digest}" for label, digest in parts)


def _published_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace absolute paths, and whatever ``checkpoint`` says, by labels."""
    found = {}
    for key, value in settings.items():
        is_place = isinstance(value, str) and (
            value.startswith("/") or value.startswith("~") or _WINDOWS.match(value) or key == "checkpoint"
        )
        found[key] = _published_config(value) if isinstance(value, Mapping) else label_of(value) if is_place else value
    return found
