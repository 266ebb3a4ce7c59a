"""Open the backbone of a run, in this process or over HTTP, and its task under a protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from petlbench.backbones.backbone import Backbone
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import data_folder
from petlbench.data.digests import state_of
from petlbench.data.load import Task, find_task, load_task
from petlbench.errors import ConfigError
from petlbench.remote.client import RemoteBackbone

EVAL_BATCH = 256  # images per forward pass when nothing is kept for a backward pass


@contextmanager
def with_served_name(config: RunConfig) -> Iterator[tuple[RunConfig, RemoteBackbone | None]]:
    """Yield the run, with the name of the served model for ``backbone=remote``, and its connection, if any."""
    if config.backbone.name != "remote":
        yield config, None
        return
    assert config.execution.url is not None, "a run is checked first"
    with RemoteBackbone(config.execution.url) as remote:
        yield config.on_served(remote.name), remote


@contextmanager
def open_backbone(
    config: RunConfig, device: torch.device, connected: RemoteBackbone | None = None
) -> Iterator[tuple[Backbone | RemoteBackbone, str]]:
    """Yield a run's backbone and its checksum. A backbone in this process is loaded once. A server is queried anew unless the run is ``connected``
    already, since its model may have changed; the connection is closed at the end."""
    choice, url = config.backbone, config.execution.url
    if not choice.is_remote:
        state = () if choice.checkpoint is None else (state_of(Path(choice.checkpoint)),)
        yield load_backbone_cached(choice.name, choice.checkpoint, device, *state)
        return
    if url is None:
        raise ConfigError(f"{choice.name} is a served model; add its address, url=http://HOST:PORT")
    with connected or RemoteBackbone(url) as remote:
        if choice.name not in ("remote", remote.name):
            raise ConfigError(f"{url} serves {remote.name}, but the run needs {choice.name}")
        yield remote, remote.checksum()


def open_task(config: RunConfig, backbone: Backbone | RemoteBackbone) -> Task:
    """Load a run's task under its protocol."""
    facts, execution = backbone.facts, config.execution
    spec = find_task(config.task, data_folder(execution.data_root))
    return load_task(spec, config.protocol, facts.input_size, facts.mean, facts.std, execution.store_mb, config.seed)
