"""Load a checkpoint into a fresh backbone, to evaluate it or to export it as plain weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from petlbench.access.meter import Meter
from petlbench.backbones.backbone import Backbone
from petlbench.checkpoints.file import Checkpoint
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.acquire.presence import data_folder
from petlbench.data.batches import Batches
from petlbench.data.content import located
from petlbench.data.load import find_task
from petlbench.errors import CheckpointError
from petlbench.learners import GradientLearner, Learner, open_learner
from petlbench.learners.scores import accuracy, mask_classes
from petlbench.learners.setting import EVAL_BATCH, open_backbone, open_task
from petlbench.nn import merge
from petlbench.optim.device import pick_device
from petlbench.optim.precision import choose
from petlbench.records.store import write_atomically
from petlbench.remote.client import RemoteBackbone


def evaluate_checkpoint(saved: Checkpoint, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the accuracy (percent) of a checkpoint on the test split of its task, or of ``task`` among the settings; of a trial on val."""
    config = located(saved.config, settings)
    device = pick_device(config.execution.device)
    if config.execution.threads:
        torch.set_num_threads(config.execution.threads)
    with reopened(saved, config, device) as (learner, backbone):
        task = open_task(config, backbone)
        test = Batches(task.scored, task.transform, EVAL_BATCH, device)
        percent = accuracy(mask_classes(learner.predict(test), task.scored_labels), test.labels)
    return {"accuracy": percent, "samples": test.image_count, "task": config.task, "method": config.method}


def export_merged(saved: Checkpoint, path: Path, places: Mapping[str, Any] | None = None) -> None:
    """Write the adapted tower with its head as the state dict of a plain timm model, updates folded into the weights.

    ``places``: settings that say where the task and the files of the run lie now.

    CheckpointError when the method leaves something beside the backbone's own weights, such as an adapter or a prompt.
    """
    config = located(saved.config, {**(places or {}), "precision": "fp32"})
    with reopened(saved, config, torch.device("cpu")) as (learner, backbone):
        if not (isinstance(learner, GradientLearner) and isinstance(backbone, Backbone)):
            raise CheckpointError(f"method {config.method} only queries the model, so it has no changed weights to export")
        vit, head = learner.model.vit, learner.model.head
        try:
            merge(vit)
        except ValueError as error:
            raise CheckpointError(f"method {config.method}: {error}") from None
        state = vit.state_dict()
        if added := [name for name in state if name not in backbone.vit.state_dict()]:
            raise CheckpointError(
                f"method {config.method} adds {added[0]}{' and others' if len(added) > 1 else ''}, which is not folded into the backbone's weights"
            )
        state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in state.items()}, {"backbone": config.backbone.name}))


@contextmanager
def reopened(saved: Checkpoint, config: RunConfig, device: torch.device) -> Iterator[tuple[Learner, Backbone | RemoteBackbone]]:
    """Yield the learner of a checkpoint with its state loaded, and the backbone it was trained on."""
    with open_backbone(config, device) as (backbone, checksum):
        check_weights(saved.backbone_sha256, checksum, config.backbone.name)
        method = load_method(config.method)[0](config.method_config, config.seed)
        number_format = choose(config.precision, device, backbone.parameter_count)
        spec = find_task(config.task, data_folder(config.execution.data_root))
        check_classes("checkpoint", saved.class_names, spec.class_names, config.task)
        with open_learner(method, backbone, spec, device, number_format, Meter(phase="test"), config.access) as learner:
            learner.load_state(saved.state)
            yield learner, backbone


def check_weights(trained_on: str, found: str, name: str) -> None:
    """CheckpointError when a backbone has other weights than the checkpoint was trained on."""
    if found != trained_on:
        raise CheckpointError(f"it was trained on {name} with weights {trained_on[:12]}…, the backbone now has {found[:12]}…")


def check_classes(what: str, trained_on: tuple[str, ...] | None, found: tuple[str, ...], task: str) -> None:
    """CheckpointError when a task has other classes than ``what`` was trained on, or in another order; None: that was not written down."""
    if trained_on is None or trained_on == found:
        return
    pairs = enumerate(zip_longest(trained_on, found), start=1)
    number, (then, now) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    raise CheckpointError(
        f"the {what} is for the classes {repr(', '.join(trained_on)[:60])[1:-1]}…, {task} has others: the first that differs is class {number}, "
        f"which was {then or 'none'!r} and is {now or 'none'!r}; name a task with the same classes in the same order"
    )
