"""Check a run before anything is computed or recorded."""

from __future__ import annotations

import os
from pathlib import Path

from petlbench.backbones.backbone import traits_without_loading
from petlbench.backbones.traits import Traits, reason_against
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.acquire.presence import data_folder
from petlbench.data.load import class_count, require
from petlbench.errors import AccessError, ConfigError, PetlbenchError
from petlbench.registry import BACKBONES
from petlbench.remote.client import ANY_REMOTE, RemoteBackbone


def check(config: RunConfig) -> None:
    """Refuse a run whose task is unknown or not there, whose backbone is unknown or does not give what the method needs, whose folder cannot be written.

    Of a remote model what holds for every server is checked here, and what it says of itself once it is asked.
    """
    require(config.task, data_folder(config.execution.data_root))
    check_setting(config)
    check_method(config, ANY_REMOTE if config.backbone.is_remote else traits_of(*backbone_of(config)))


def check_setting(config: RunConfig) -> None:
    """Check the backbone's name, ``url`` and the results folder, but neither task nor method."""
    if config.backbone.is_remote != (config.execution.url is not None):
        raise ConfigError("backbone=remote and url belong together, as in: backbone=remote url=http://127.0.0.1:8000")
    if not config.backbone.is_remote:
        BACKBONES.get(config.backbone.name.partition(":")[0])
    out = Path(config.execution.out)
    parent = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"cannot write to {out}: {parent} is not a writable folder; choose another with out=DIR")


def backbone_of(config: RunConfig) -> tuple[str, str | None, str | None]:
    """Return the arguments of ``traits_of`` for a run: a server is asked what it serves, whatever name the run has for it."""
    if config.backbone.is_remote:
        return "remote", None, config.execution.url
    return config.backbone.name, config.backbone.checkpoint, None


def traits_of(name: str, checkpoint: str | None, url: str | None) -> Traits | None:
    """Return the traits of a backbone without loading weights, or None if unknown; a server is asked for them."""
    if url is None:
        return traits_without_loading(name, checkpoint)
    with RemoteBackbone(url) as remote:
        return remote.traits


def check_method(config: RunConfig, traits: Traits | None) -> None:
    """AccessError when a method needs more than its backbone gives."""
    if reason := reason_to_skip(config, traits):
        raise AccessError(f"method {config.method} {reason}")


def reason_to_skip(config: RunConfig, traits: Traits | None) -> str | None:
    """Return why a run's method cannot run on its backbone, as a phrase that follows the method's name; None if it can, or if the traits are unknown."""
    if traits is None:
        return None
    try:
        method = load_method(config.method)[0](config.method_config, config.seed)
    except (PetlbenchError, KeyboardInterrupt):
        raise
    except BaseException:  # of the plugin, sys.exit as well; the run meets it again and records it
        return None
    count = class_count(config.task) if traits.own_classes is not None else None
    return reason_against(method, traits, config.access, count)
