"""What a run is refused for before anything is computed or recorded."""

from __future__ import annotations

import os
from pathlib import Path

from petlbench.access.endpoint import Output
from petlbench.access.handle import Access, check_output
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.acquire.presence import data_folder
from petlbench.data.load import require
from petlbench.errors import AccessError, ConfigError, PetlbenchError
from petlbench.learners import check_remote
from petlbench.method import QueryMethod
from petlbench.registry import BACKBONES


def check(config: RunConfig) -> None:
    """A PetlbenchError for an unknown task or one whose images are not there, for an unknown backbone, for a method that this backbone or its answers
    are not enough for, for a folder that could not be written to."""
    require(config.task, data_folder(config.execution.data_root))
    check_setting(config)


def check_setting(config: RunConfig) -> None:
    """The same, but for the task."""
    if config.backbone.is_remote != (config.execution.url is not None):
        raise ConfigError("backbone=remote and url belong together, as in: backbone=remote url=http://127.0.0.1:8000")
    if not config.backbone.is_remote:
        BACKBONES.get(config.backbone.name.partition(":")[0])
    check_method(config)
    out = Path(config.execution.out)
    parent = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"cannot write to {out}: {parent} is not a writable folder; choose another with out=DIR")


def check_method(config: RunConfig) -> None:
    """A PetlbenchError when a method needs more than the run's kind of backbone gives."""
    kind = load_method(config.method)[0]
    if config.backbone.is_remote:
        check_remote(config.method, kind.access)
    if issubclass(kind, QueryMethod):
        method = kind(config.method_config, config.seed)
        if config.backbone.is_remote and (reason := method.in_process_only):
            raise AccessError(f"method {config.method}: {reason}; a remote model does not give that")
        if kind.access is not Access.FEATURES:
            check_output(config.method, kind.least_output(), Output[config.access.output.upper()], "access.output")


def is_possible(config: RunConfig) -> bool:
    """Whether ``check_method`` lets a run pass."""
    try:
        check_method(config)
    except PetlbenchError:
        return False
    return True
