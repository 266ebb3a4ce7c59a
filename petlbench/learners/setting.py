"""What a run stands on: its backbone, opened once per process or asked over HTTP, and its task under a protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from petlbench.backbones.backbone import Backbone, load_backbone_cached
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import data_folder
from petlbench.data.load import Task, find_task, load_task
from petlbench.errors import ConfigError
from petlbench.remote.client import RemoteBackbone

EVAL_BATCH = 256  # images per forward pass when nothing is kept for a backward pass


@contextmanager
def with_served_name(config: RunConfig) -> Iterator[tuple[RunConfig, RemoteBackbone | None]]:
    """The same run; ``backbone=remote`` with the name and the weights of the model that is served there, which decide the run's id, and the connection
    that told them. The address does not decide: the same model may be found elsewhere tomorrow."""
    if config.backbone.name != "remote":
        yield config, None
        return
    assert config.execution.url is not None, "a run is checked first"
    with RemoteBackbone(config.execution.url) as remote:
        yield dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, name=remote.name)), remote


@contextmanager
def open_backbone(
    config: RunConfig, device: torch.device, connected: RemoteBackbone | None = None
) -> Iterator[tuple[Backbone | RemoteBackbone, str]]:
    """A run's backbone and its checksum. One in this process is loaded once; a server is asked anew unless the run is ``connected`` already, since it may
    be another one now, and the connection is closed at the end."""
    choice, url = config.backbone, config.execution.url
    if not choice.is_remote:
        yield load_backbone_cached(choice.name, choice.checkpoint, device)
        return
    if url is None:
        raise ConfigError(f"{choice.name} is a model behind HTTP; say where with url=http://HOST:PORT")
    with connected or RemoteBackbone(url) as remote:
        if choice.name not in ("remote", remote.name):
            raise ConfigError(f"{url} serves {remote.name}, the run is about {choice.name}")
        yield remote, remote.checksum()


def open_task(config: RunConfig, backbone: Backbone | RemoteBackbone) -> Task:
    """A run's task under its protocol."""
    facts, execution = backbone.facts, config.execution
    spec = find_task(config.task, data_folder(execution.data_root))
    return load_task(spec, config.protocol, facts.input_size, facts.mean, facts.std, execution.store_mb, config.seed)
