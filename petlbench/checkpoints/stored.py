"""What whoever opens a checkpoint may set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petlbench.config.resolve import restore
from petlbench.errors import CheckpointError, ConfigError

SETTINGS = ("backbone", "data_root", "device", "task", "threads", "url")  # with the places of the run's files


def check_settings(settings: Mapping[str, Any], path: Path, config: Mapping[str, Any], command: str) -> None:
    """ConfigError for a setting that a checkpoint decides; both are nested. CheckpointError when the configuration in the file is none.

    ``path``: of the checkpoint; ``config``: the configuration in it.
    """
    try:
        files = restore(config).files
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    of_method = settings.get("method")
    are_places = isinstance(of_method, Mapping) and {f"method.{key}" for key in of_method} <= set(files)
    if unknown := sorted(set(settings) - {*SETTINGS, *(["method"] if are_places else [])}):
        raise ConfigError(f"{command} takes {', '.join(SETTINGS)}, got {', '.join(unknown)}; the rest is in the checkpoint")
