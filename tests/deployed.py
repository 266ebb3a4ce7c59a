"""Make the checkpoint of a run with tokens without training it."""

from __future__ import annotations

import torch

from petlbench.access.meter import Meter
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.file import Checkpoint
from petlbench.config.resolve import load_method
from petlbench.data.load import find_task
from petlbench.learners import open_learner
from tests.words import resolve

CPU = torch.device("cpu")
SIZES = ("method.prompts=3", "method.library_size=5", "method.channels=4", "method.groups=2")


def learned(*words: str, method: str = "pgn", scale: float = 1.0) -> Checkpoint:
    """Return the checkpoint of an untrained method, enough to deploy. ``scale`` multiplies its tokens, which start small."""
    config = resolve([f"method={method}", "task=mini/digits", "threads=1", *words])
    backbone, checksum = load_backbone_cached(config.backbone.name, None, CPU)
    torch.manual_seed(0)
    made = load_method(method)[0](config.method_config, 0)
    with open_learner(made, backbone, find_task("mini/digits"), CPU, "fp32", Meter(), config.access) as learner:
        state = {name: tensor * scale if "tokens" in name else tensor for name, tensor in learner.state().items()}
        return Checkpoint(state, config.identity, checksum)
