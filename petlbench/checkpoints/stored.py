"""What a file may say: which run it holds, and never what is read on the machine that opens it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petlbench.config.resolve import RunConfig, restore
from petlbench.errors import CheckpointError, ConfigError

SETTINGS = (
    "backbone",
    "data_root",
    "device",
    "task",
    "threads",
    "url",
)  # what whoever opens a checkpoint may set, with the places of its files
FILES = ("checkpoint", "encoder_checkpoint", "selection")  # settings of a backbone or method that name a file
_BY_CONTENT = re.compile(r".+@[0-9a-f]{16}", re.DOTALL)  # a name with a digest, which is looked for among what this user has read before


def check_settings(settings: Mapping[str, Any], command: str) -> None:
    """ConfigError for a setting that a checkpoint decides; both are nested."""
    of_method = settings.get("method")
    are_places = isinstance(of_method, Mapping) and set(of_method) <= set(FILES)
    if unknown := sorted(set(settings) - {*SETTINGS, *(["method"] if are_places else [])}):
        raise ConfigError(f"{command} takes {', '.join(SETTINGS)}, got {', '.join(unknown)}; the rest is in the checkpoint")


def check_stored(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """CheckpointError when the configuration in a file is none, or names a place on a disk that the user has not named, too.

    Otherwise whoever made the file would choose what is read here: a pipe that never ends, a share on the network, another's images.
    """
    try:
        stored = restore(config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for key, place, example in _places(stored):
        section, _, name = key.rpartition(".")
        given = settings.get(section, {}) if section else settings
        if not (isinstance(given, Mapping) and name in given):
            raise CheckpointError(
                f"{path}: it names {key}={place}, and files of this machine are read only where you name them; add {key}={example}"
            )


def _places(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Yield the settings that name places, with these and what to give in their stead."""
    parts = [part for part in config.task.split("+") if ":" in part and not _BY_CONTENT.fullmatch(part)]
    if parts:
        yield "task", config.task, f"{parts[0].partition(':')[0]}:PATH"
    for section, holder in (("backbone", config.backbone), ("method", config.method_config)):
        for name in FILES:
            value = getattr(holder, name, None)
            if isinstance(value, str) and not _BY_CONTENT.fullmatch(value):
                yield f"{section}.{name}", value, "PATH"
