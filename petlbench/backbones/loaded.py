"""The backbones that this process has loaded. Nothing that a method can reach imports this module: it leads to their weights."""

from __future__ import annotations

from functools import lru_cache

import torch

from petlbench.backbones.backbone import Backbone, load_backbone


@lru_cache(maxsize=2)
def load_backbone_cached(name: str, checkpoint: str | None, device: torch.device, state: str = "") -> tuple[Backbone, str]:
    """A backbone on a device and its checksum, loaded once per process and ``state`` of its file (``digests.state_of``).

    Methods work on copies of its module tree, never on itself.
    """
    backbone = load_backbone(name, checkpoint)
    checksum = backbone.checksum()
    return backbone.to(device), checksum
