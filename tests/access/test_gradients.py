"""Differentiate scores with respect to images: correct, only once, and without access to the weights."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.access import handle as access
from petlbench.access.endpoint import Output
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.errors import AccessError
from petlbench.testing.mocks import tiny_backbone
from tests.asking import PROMPTS, granted, images
from tests.near import assert_near
from tests.object_graph import of_the_graph, reachable


def test_gradients_with_respect_to_images_are_those_of_the_plain_model() -> None:
    backbone, weights = tiny_backbone(), torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    with granted(Access.GRADIENTS, backbone) as model:
        asked = images().requires_grad_(True)
        (weights * model.scores(asked)).sum().backward()
    plain = images().requires_grad_(True)
    classes = backbone.embed_classes(PROMPTS)
    logits = backbone.logit_scale * F.normalize(backbone.project_images(plain), dim=-1) @ classes.T
    (weights * logits).sum().backward()
    assert asked.grad is not None and plain.grad is not None
    assert_near(asked.grad, plain.grad)


@pytest.mark.parametrize("output", [Output.PROBABILITIES, Output.LABEL])
def test_scores_that_can_be_differentiated_say_no_more_than_others(output: Output) -> None:
    answers = QueryConfig(output=output.value)  # type: ignore[arg-type]
    with granted(Access.GRADIENTS, answers=answers) as model:
        found, expected = model.scores(images().requires_grad_(True)), model.scores(images())
    assert_near(found, expected)


def test_gradients_of_probabilities_are_those_of_the_plain_models_probabilities() -> None:
    gradients = []
    for output in ("probabilities", "logits"):
        asked = images().requires_grad_(True)
        with granted(Access.GRADIENTS, answers=QueryConfig(output=output)) as model:  # type: ignore[arg-type]
            scores = model.scores(asked)
            (scores if output == "probabilities" else scores.log_softmax(-1))[:, 0].sum().backward()
        assert asked.grad is not None
        gradients.append(asked.grad)
    assert_near(*gradients)


def test_no_weight_is_given_a_gradient() -> None:
    backbone = tiny_backbone()
    backbone.vit.requires_grad_(True)  # otherwise there would be no gradients to leak
    with granted(Access.GRADIENTS, backbone) as model:
        model.scores(images().requires_grad_(True)).sum().backward()
    assert all(p.grad is None for p in backbone.vit.parameters())


def test_an_answer_is_differentiated_once_and_never_twice_over() -> None:
    asked = images().requires_grad_(True)
    with granted(Access.GRADIENTS) as model:
        scores = model.scores(asked)
        (gradient,) = torch.autograd.grad((scores**2).sum(), asked, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()
        with pytest.raises(AccessError, match="query the model again"):
            scores.sum().backward()


@pytest.mark.parametrize("rung", [Access.CONTEXT, Access.GRADIENTS])
def test_neither_the_handle_nor_an_answer_nor_its_graph_leads_to_the_model(rung: Access) -> None:
    backbone = tiny_backbone()
    weights = {p.data_ptr() for part in (backbone.vit, backbone.projection) if part is not None for p in part.parameters()}
    with granted(rung, backbone) as model:
        asked = images().requires_grad_(True)
        answer = model.scores(asked) if rung is Access.GRADIENTS else model.context_scores(model.upload(images()), model.context[None])
        found = [*reachable(model), *reachable(answer), *of_the_graph(answer)]
    assert not [thing for thing in found if isinstance(thing, (nn.Module, nn.Parameter, Backbone, Meter))]
    assert not [thing for thing in found if isinstance(thing, Tensor) and thing.data_ptr() in weights]


def test_the_walk_of_a_graph_finds_weights_that_it_leads_to() -> None:
    backbone = tiny_backbone()
    answer = backbone.vit(images().requires_grad_(True))
    weights = {p.data_ptr() for p in backbone.vit.parameters()}
    assert any(isinstance(thing, Tensor) and thing.data_ptr() in weights for thing in of_the_graph(answer))


def test_a_graph_that_is_not_used_is_dropped_with_the_answer() -> None:
    with granted(Access.GRADIENTS) as model:
        grant = access._grants.redeem(model.ticket)
        assert grant is not None
        held = grant.graphs.vjps
        before = len(held)
        answer = model.scores(images().requires_grad_(True))
        assert len(held) == before + 1
        del answer
        gc.collect()
        assert len(held) == before


def test_no_answer_is_differentiated_after_the_run_and_none_keeps_the_model_alive() -> None:
    backbone = tiny_backbone()
    with granted(Access.GRADIENTS, backbone) as model:
        answer = model.scores(images().requires_grad_(True))
    is_gone = weakref.ref(backbone)
    del backbone
    gc.collect()
    assert is_gone() is None
    with pytest.raises(AccessError, match="before its run has ended"):
        answer.sum().backward()


def test_only_a_query_that_wants_gradients_makes_use_of_the_rung() -> None:
    for wants, seen in ((False, Access.SCORES), (True, Access.GRADIENTS)):
        meter = Meter()
        with granted(Access.GRADIENTS, meter=meter) as model:
            answer = model.scores(images().requires_grad_(wants))
        assert (answer.requires_grad, meter.seen) == (wants, seen)


def test_contexts_are_not_for_gradients() -> None:
    with granted(Access.GRADIENTS) as model, pytest.raises(AccessError, match="the method declares GRADIENTS"):
        model.upload(images())
