"""Train and evaluate methods: one learner for methods that change the network, one for methods that query a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.traits import reason_against
from petlbench.config.settings import QueryConfig
from petlbench.data.task import TaskSpec
from petlbench.errors import AccessError
from petlbench.learners.base import Learner, load_into
from petlbench.learners.gradient import PLAN, AdaptedModel, GradientLearner
from petlbench.learners.query import QueryLearner
from petlbench.method import GradientMethod, Method, QueryMethod
from petlbench.remote.client import RemoteBackbone

__all__ = ["PLAN", "AdaptedModel", "GradientLearner", "Learner", "QueryLearner", "load_into", "open_learner"]


@contextmanager
def open_learner(
    method: Method,
    backbone: Backbone | RemoteBackbone,
    spec: TaskSpec,
    device: torch.device,
    number_format: str,
    meter: Meter,
    query_config: QueryConfig | None = None,
) -> Iterator[GradientLearner | QueryLearner]:
    """Yield the learner for the method's rung, ready to fit or to load a state. AccessError when the backbone lacks what the method needs."""
    rung, query_config = method.access, query_config or QueryConfig()
    if reason := reason_against(method, backbone.traits, query_config, len(spec.class_names)):
        raise AccessError(f"method {method.name} {reason}")
    if isinstance(method, GradientMethod) and rung is Access.WEIGHTS and isinstance(backbone, Backbone):
        meter.granted = Access.WEIGHTS
        meter.note(Access.WEIGHTS)
        yield GradientLearner(method, backbone, spec, device, number_format)
    elif isinstance(method, QueryMethod) and rung < Access.WEIGHTS:
        learner = QueryLearner(method, backbone, spec, device, number_format, meter, query_config)
        with learner.opened():
            yield learner
    else:
        raise AccessError(f"{type(method).__name__} declares access {rung.name}, which a {type(method).__mro__[1].__name__} cannot have")
