"""What the runs of a process share: the device, backbones that are loaded once, tasks under a protocol."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from petlbench.backbones.backbone import Backbone, load_backbone
from petlbench.config.resolve import RunConfig
from petlbench.data.load import Task, find_task, load_task
from petlbench.data.presence import data_folder
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


def served_name(url: str) -> str:
    """What a served model is called, with the start of its checksum."""
    with RemoteBackbone(url) as remote:
        return remote.name


@contextmanager
def shared_backbone(
    config: RunConfig, device: torch.device, connected: RemoteBackbone | None = None
) -> Iterator[tuple[Backbone | RemoteBackbone, str]]:
    """A run's backbone and its checksum. One in this process is loaded once; a server is asked anew unless the run is ``connected`` already, since it may
    be another one now, and the connection is closed at the end."""
    choice, url = config.backbone, config.execution.url
    if not choice.is_remote:
        yield loaded(choice.name, choice.checkpoint, device)
        return
    if url is None:
        raise ConfigError(f"{choice.name} is a model behind HTTP; say where with url=http://HOST:PORT")
    with connected or RemoteBackbone(url) as remote:
        if choice.name not in ("remote", remote.name):
            raise ConfigError(f"{url} serves {remote.name}, the run is about {choice.name}")
        yield remote, remote.checksum()


@lru_cache(maxsize=2)
def loaded(name: str, checkpoint: str | None, device: torch.device) -> tuple[Backbone, str]:
    backbone = load_backbone(name, checkpoint)
    checksum = backbone.checksum()
    return backbone.to(device), checksum


def open_task(config: RunConfig, backbone: Backbone | RemoteBackbone) -> Task:
    """A run's task under its protocol."""
    card, execution = backbone.card, config.execution
    spec = find_task(config.task, data_folder(execution.data_root))
    return load_task(spec, config.protocol, card.input_size, card.mean, card.std, execution.store_mb, config.seed)


def among(scores: Tensor, labels: Sequence[int] | None) -> Tensor:
    """The scores (N, C), with -inf for all labels but these. None: all."""
    if labels is None:
        return scores
    others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    others[list(labels)] = False
    return scores.masked_fill(others, -math.inf)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percent of rows of (N, C) scores whose largest entry is the label."""
    correct = scores.argmax(dim=1).cpu() == labels.cpu()
    return 100.0 * int(correct.sum()) / len(correct)
