"""Name what a run depends on by its content: the same images or weights at two places are one run, others at the same place are another.

A setting that names files of the user's own stands in ids and records as ``LABEL@HASH``: ``task=folder:birds@1a2b3c4d5e6f7a8b``,
``backbone.checkpoint=best.pth@9f8e…``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from petlbench.config.cache_folder import cache_folder
from petlbench.config.resolve import RunConfig, merged, nested, restore
from petlbench.data.acquire.presence import VARIABLE, data_folder
from petlbench.data.digests import digests_of, places_of, remember_place
from petlbench.data.joined import names_joined
from petlbench.data.load import find_task
from petlbench.errors import CheckpointError, ConfigError, PetlbenchError
from petlbench.records.labels import label_of, name_of, split_name, split_task, without_places


def with_content(config: RunConfig, task_name: Callable[[str], str] | None = None) -> RunConfig:
    """Return a run whose id and record say what is in the user's files that it names. DataError for a task or file that cannot be read.

    ``task_name``: ``name_of_task``, perhaps cached.
    """
    task = (task_name or name_of_task)(config.task)
    content: dict[str, Any] = {} if task == config.task else {"task": task}
    for key, value in config.files.items():
        content[key] = [name_of_file(one) for one in value] if isinstance(value, list) else name_of_file(value)
    return dataclasses.replace(config, content=content)


def name_of_task(task: str) -> str:
    """Return what records call a task. A registered one keeps its name. ConfigError when tasks with the same images are joined."""
    names = []
    for part in names_joined(task):
        name = find_task(part).name if ":" in part else part
        if digest := split_task(name)[0][1]:
            remember_place(digest, Path(part.partition(":")[2]).expanduser())
        if name in names:
            raise ConfigError(f"task={task} joins {name} with itself: the same images lie at both places")
        names.append(name)
    return "+".join(names)


def name_of_file(place: str) -> str:
    """Return what records call a file, or a folder of files. One that is not there has no hash."""
    path = Path(place)
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            parts = [[file.relative_to(path).as_posix(), digest] for file, digest in zip(files, digests_of(files), strict=True)]
            digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        elif path.is_file():
            (digest,) = digests_of([path])
        else:
            return label_of(place)
    except (OSError, ValueError):  # a name that no file can have
        return label_of(place)
    name = name_of(place, digest)
    remember_place(name.rpartition("@")[2], path)
    return name


def located(identity: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> RunConfig:
    """Resolve a stored configuration (``RunConfig.identity``) with the user's settings over it, and find its files on this machine.

    A file that the user gives wins, and must hold what the run had; else it is where this machine last read that content. ``task`` may be another
    one. ConfigError that says what to give when a place is not known. CheckpointError when the configuration names a place and no content, as older
    ones do, and the user has not named that file: else whoever made the checkpoint would choose what is read here.
    """
    given = nested(settings or {})
    stored = restore(identity)
    places: dict[str, Any] = {}
    if "task" not in given and ":" in stored.task:
        places["task"] = "+".join(_place_of_task(part) for part in stored.task.split("+"))
    for key, name in stored.files.items():
        typed = _at(given, key)
        if typed is None:
            places[key] = [_place_of_file(key, one) for one in name] if isinstance(name, list) else _place_of_file(key, name)
    config = restore(identity, merged(nested(places), given))
    if "task" in given:
        name_of_task(config.task)  # which remembers where it lies
    for key, name in stored.files.items():
        now = config.files.get(key)
        if (
            isinstance(name, str)
            and isinstance(now, str)
            and split_name(name)[1]
            and split_name(name_of_file(now))[1] != split_name(name)[1]
        ):
            raise ConfigError(f"{key}={now} is {name_of_file(now)}, and this was made with {name}; give the file that has that content")
    return config


def _place_of_task(part: str) -> str:
    """Return a task of a stored configuration with its place on this machine."""
    ((label, digest),) = split_task(part)
    if digest is None and ":" in part:
        raise _unnamed("task", part, f"{part.partition(':')[0]}:PATH")
    if digest is None:
        return part
    family, places = label.partition(":")[0], places_of(digest)
    for place in places:
        with suppress(PetlbenchError):  # what lies there now is no such task
            if split_task(name_of_task(f"{family}:{place}"))[0][1] == digest:
                return f"{family}:{place}"
    raise ConfigError(f"the images of task {part} are not known on this machine{_where(places)}; say where they lie: task={family}:PATH")


def _place_of_file(key: str, name: str) -> str:
    """Return the place of a file of a stored configuration on this machine."""
    digest = split_name(name)[1]
    if digest is None:
        raise _unnamed(key, name, "PATH")
    places = places_of(digest)
    for place in places:
        with suppress(PetlbenchError):  # what lies there now cannot be read
            if split_name(name_of_file(str(place)))[1] == digest:
                return str(place)
    raise ConfigError(f"{key}: the file {name} is not known on this machine{_where(places)}; say where it lies: {key}=PATH")


def _unnamed(key: str, place: str, example: str) -> CheckpointError:
    return CheckpointError(f"it names {key}={place}, and files of this machine are read only where you name them; add {key}={example}")


def _where(places: list[Path]) -> str:
    return f" ({places[0]}, where it was, holds it no longer)" if places else ""


def _at(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def published_text(text: str, config: RunConfig) -> str:
    """Return a text, such as an error, with names in place of the paths of this run and of this user."""
    names: dict[str, str] = {str(Path.home()): "~", str(cache_folder()): "cache folder", config.execution.out: "results folder"}
    if config.execution.data_root or os.environ.get(VARIABLE):
        names[str(data_folder(config.execution.data_root))] = "data root"
    task = config.published_task
    for part, name in zip(names_joined(config.task), task.split("+"), strict=False):
        names[part.partition(":")[2]] = name.partition(":")[2]
    for key, value in config.files.items():
        published = config.content.get(key, value)
        names |= dict(zip(value, published, strict=False)) if isinstance(value, list) else {value: published}
    places = {spelling: name for place, name in names.items() if place for spelling in _spellings(place)}
    return without_places(text, places)


def _spellings(place: str) -> set[str]:
    """Return how messages may write a place: as typed, absolute, and with links resolved. A bare name is no path that says anything."""
    path = Path(place).expanduser()
    found = {place, str(path), os.path.abspath(path), str(path.resolve())}  # noqa: PTH100 (keeps links)
    return {one for one in found if os.sep in one and len(one) > 1}
