"""A model behind ``petlbench serve``: ``backbone=remote url=http://127.0.0.1:8000``."""

from __future__ import annotations

import torch

from petlbench.backbones.backbone import Card
from petlbench.endpoint import Endpoint


class RemoteBackbone:
    """What a run has to know of a model that it can only ask."""

    card: Card
    parameter_count: int
    feature_width: int

    def __init__(self, url: str) -> None:
        raise NotImplementedError(url)

    @property
    def name(self) -> str:
        return self.card.name

    def checksum(self) -> str:
        """Of the served weights, as the server states it."""
        raise NotImplementedError

    def endpoint(self, device: torch.device, number_format: str = "fp32") -> Endpoint:
        raise NotImplementedError
