"""What a run learned, loaded into a fresh backbone and evaluated."""

from __future__ import annotations

import json
from typing import Any

import torch

from petlbench.access import Meter
from petlbench.checkpoint import Checkpoint
from petlbench.config import load_method, resolve
from petlbench.data.batches import Batches
from petlbench.errors import CheckpointError
from petlbench.learners import open_learner
from petlbench.optim.precision import choose
from petlbench.run import EVAL_BATCH, accuracy, open_task, pick_device, shared_backbone


def evaluate_checkpoint(saved: Checkpoint, words: list[str]) -> dict[str, Any]:
    """Accuracy (percent) of a checkpoint on the test split of its task, or of ``task=NAME`` among the words."""
    config = resolve([*as_words(saved.config), *words])
    device = pick_device(config.execution.device)
    if config.execution.threads:
        torch.set_num_threads(config.execution.threads)
    backbone, checksum = shared_backbone(config.backbone.name, config.backbone.checkpoint, device)
    if checksum != saved.backbone_sha256:
        raise CheckpointError(f"it was learned on {config.backbone.name} weights {saved.backbone_sha256[:12]}…, these are {checksum[:12]}…")
    task = open_task(config, backbone)
    method = load_method(config.method)[0](config.method_config, config.seed)
    number_format = choose(config.precision, device, backbone.parameter_count)
    meter = Meter(phase="test")
    with open_learner(method, backbone, task.spec, device, number_format, meter) as learner:
        learner.load_state(saved.state)
        test = Batches(task.test, task.transform, EVAL_BATCH, device)
        percent = accuracy(learner.predict(test), test.labels)
    return {"accuracy": percent, "samples": test.image_count, "task": config.task, "method": config.method}


def as_words(identity: dict[str, Any], prefix: str = "") -> list[str]:
    """A resolved configuration as the words that lead to it again."""
    words = []
    for key, value in identity.items():
        if isinstance(value, dict):
            words += as_words(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" == "method.name":
            words.append(f"method={value}")
        elif f"{prefix}{key}" != "method.plugin":
            words.append(f"{prefix}{key}={_as_yaml(value)}")
    return words


def _as_yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML, and quotes the text 'null' or '[a]'
