"""The access ladder: what a method may touch of a backbone, enforced and counted by the harness.

In one process the boundary is a discipline: a handle holds no reference to the model, only a ticket number, and the models lie in a table of
this module. ``petlbench serve`` is the wall.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from petlbench.errors import AccessError, BudgetExceeded
from petlbench.optim.precision import autocast
from petlbench.settings import Budget

if TYPE_CHECKING:
    from petlbench.backbones.backbone import Backbone

PHASES = ("train", "val", "test")


class Access(IntEnum):
    """The rungs, lowest first. A method declares the lowest that suffices and is handed that and nothing more."""

    SCORES = 1  # images in, class scores out
    CONTEXT = 2  # images and continuous prompt contexts in, class scores out
    FEATURES = 3  # images in, embeddings out
    GRADIENTS = 4  # pixels or tokens in, outputs that can be differentiated with respect to them
    WEIGHTS = 5  # everything

    @property
    def colour(self) -> str:
        """``black``, ``grey`` or ``white`` box, as tables call it."""
        return "white" if self is Access.WEIGHTS else "grey" if self is Access.GRADIENTS else "black"


@dataclass
class Meter:
    """Counts what was sent to a model, by phase. The harness sets the phase; a method never holds a meter."""

    budget: Budget = field(default_factory=Budget)
    phase: str = "train"
    counts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {phase: dict.fromkeys(("calls", "images", "contexts", "texts", "cached"), 0) for phase in PHASES}
    )

    def charge(self, **amounts: int) -> None:
        """Count a query that is about to be sent. BudgetExceeded, with nothing counted, when it would pass a limit of the training phase."""
        counts = self.counts[self.phase]
        if self.phase == "train":
            for name, amount in amounts.items():
                limit = getattr(self.budget, name, None)
                if limit is not None and counts[name] + amount > limit:
                    raise BudgetExceeded(f"budget reached after {counts[name]:,} of {limit:,} {name}")
        for name, amount in amounts.items():
            counts[name] += amount


@dataclass
class _Endpoint:
    """What stands behind a ticket. Never reachable from a handle."""

    backbone: Backbone
    access: Access
    meter: Meter
    text_features: Tensor | None  # (C, E), L2-normalised; None without class names or a text tower
    device: torch.device
    number_format: str


_endpoints: dict[int, _Endpoint] = {}
_tickets = itertools.count(1)


class QueryModel:
    """A model that can only be asked. Everything it returns is detached; nothing it holds leads to a parameter.

    Letters in shapes: B images, C classes, D feature width, S input size.
    """

    __slots__ = ("class_names", "feature_width", "input_size", "mean", "std", "ticket")

    def __init__(self, ticket: int, backbone: Backbone, class_names: tuple[str, ...]) -> None:
        self.ticket = ticket
        self.class_names = class_names
        self.input_size = backbone.card.input_size  # S
        self.feature_width = backbone.feature_width  # D
        self.mean, self.std = tuple(backbone.card.mean), tuple(backbone.card.std)  # of the normalisation that inputs must have

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (B, C) of normalised images (B, 3, S, S): cosine similarities with the class texts, times the model's logit scale."""
        endpoint = self._endpoint("scores", Access.SCORES, Access.CONTEXT)
        if endpoint.text_features is None:
            raise AccessError(f"{endpoint.backbone.name} has no text tower, so it cannot score classes; choose a vision-language backbone")
        endpoint.meter.charge(calls=1, images=len(images))
        with torch.inference_mode():
            with autocast(endpoint.number_format, endpoint.device):
                embeddings = endpoint.backbone.embed_images(images.to(endpoint.device))
            scores = endpoint.backbone.logit_scale * embeddings.float() @ endpoint.text_features.T
        return scores.clone()

    def features(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of normalised images (B, 3, S, S): the pooled output of the vision tower, before any joint-space projection."""
        endpoint = self._endpoint("features", Access.FEATURES)
        endpoint.meter.charge(calls=1, images=len(images))
        with torch.inference_mode(), autocast(endpoint.number_format, endpoint.device):
            features = endpoint.backbone.vit(images.to(endpoint.device)).float()
        return features.clone()

    def _endpoint(self, verb: str, *rungs: Access) -> _Endpoint:
        endpoint = _endpoints.get(self.ticket)
        if endpoint is None:
            raise AccessError(f"model.{verb} was called after the run that granted the model had ended")
        if endpoint.access not in rungs:
            names = " or ".join(rung.name for rung in rungs)
            raise AccessError(f"model.{verb} needs access {names}, the method declares {endpoint.access.name}")
        return endpoint


@contextmanager
def grant(
    access: Access,
    backbone: Backbone,
    class_names: tuple[str, ...],
    prompts: list[list[str]],
    meter: Meter,
    device: torch.device,
    number_format: str = "fp32",
) -> Iterator[QueryModel]:
    """Hand out a model for one run. Class texts are sent once, here; the handle is dead after the block."""
    if access > Access.FEATURES:
        raise AccessError(f"{access.name} is not a rung of queries")
    text_features = None
    if access is not Access.FEATURES and backbone.text is not None:
        meter.charge(texts=sum(len(captions) for captions in prompts))
        text_features = backbone.embed_classes(prompts).to(device)
    ticket = next(_tickets)
    _endpoints[ticket] = _Endpoint(backbone, access, meter, text_features, device, number_format)
    try:
        yield QueryModel(ticket, backbone, class_names)
    finally:
        del _endpoints[ticket]
