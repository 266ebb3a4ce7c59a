"""The access ladder: a method's handle allows what its rung says, counts its use, and gives access to nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import Budget, QueryConfig
from petlbench.errors import AccessError, BudgetExceeded
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near
from tests.object_graph import reachable

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "newt")
PROMPTS = tuple((f"a photo of a {name}.",) for name in NAMES)
TEXT_BYTES = len("a photo of a cat.a photo of a dog.a photo of a newt.")
BLACK = (Access.SCORES, Access.CONTEXT, Access.FEATURES)


@contextmanager
def granted(
    access: Access,
    backbone: Backbone | None = None,
    meter: Meter | None = None,
    number_format: str = "fp32",
    answers: QueryConfig | None = None,
) -> Iterator[QueryModel]:
    endpoint = (backbone or tiny_backbone()).endpoint(CPU, number_format)
    texts = ClassTexts(PROMPTS, "a photo of a" if access is Access.CONTEXT else None)
    with grant(access, endpoint, NAMES, texts, meter or Meter(), answers or QueryConfig()) as model:
        yield model


def ask(model: QueryModel, access: Access, images: Tensor) -> Tensor:
    return model.features(images) if access is Access.FEATURES else model.scores(images)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("access", BLACK)
def test_the_handle_leads_to_no_tensor_and_no_module(access: Access) -> None:
    with granted(access) as model:
        ask(model, access, images())
        assert not [found for found in reachable(model) if isinstance(found, (Tensor, nn.Module, Backbone, Meter))]


def test_a_handle_has_no_methods_but_its_verbs() -> None:
    methods = {name for name in dir(QueryModel) if callable(getattr(QueryModel, name)) and not name.startswith("__")}
    assert methods == {"scores", "upload", "context_scores", "features"}


def test_the_walk_finds_what_a_class_of_this_package_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tiny_backbone()
    with granted(Access.SCORES) as model:
        for hidden in (secret, lambda: secret):
            monkeypatch.setattr(QueryModel, "hidden", hidden, raising=False)
            for held in (model, model.scores):
                assert any(isinstance(found, nn.Parameter) for found in reachable(held))


def test_the_walk_finds_what_a_closure_a_bound_method_or_a_container_hides() -> None:
    secret = tiny_backbone()
    hidden = [lambda: secret, secret.embed_images, {"deep": [(secret.vit,)]}]
    for holder in hidden:
        assert any(isinstance(found, nn.Parameter) for found in reachable(holder))


@pytest.mark.parametrize("access", BLACK)
def test_a_table_that_held_the_model_would_be_found_through_the_globals_of_a_verb(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.access.tickets.weakref.ref", lambda thing: lambda: thing)
    with granted(access) as model:
        assert any(isinstance(found, Backbone) for found in reachable(model))


@pytest.mark.parametrize("access", BLACK)
def test_an_answer_carries_no_graph_even_for_an_input_that_wants_gradients(access: Access) -> None:
    with granted(access) as model:
        answer = ask(model, access, images().requires_grad_(True))
    assert answer.grad_fn is None and not answer.requires_grad


@pytest.mark.parametrize("access", BLACK)
def test_an_answer_can_be_an_input_of_training(access: Access) -> None:
    weight = torch.ones(1, requires_grad=True)
    with granted(access) as model:
        (weight * ask(model, access, images())).sum().backward()
    assert weight.grad is not None


def test_scores_are_scaled_cosines_with_the_mean_of_a_classs_captions() -> None:
    backbone = tiny_backbone()
    with granted(Access.SCORES, backbone) as model:
        scores = model.scores(images())
    assert backbone.text is not None and backbone.projection is not None
    image = nn.functional.normalize(backbone.projection(backbone.vit(images())), dim=-1)
    texts = [nn.functional.normalize(backbone.text.embed(list(captions)), dim=-1).mean(dim=0) for captions in PROMPTS]
    expected = 10.0 * image @ nn.functional.normalize(torch.stack(texts), dim=-1).T
    assert_near(scores, expected)


def test_features_are_the_towers_output() -> None:
    backbone = tiny_backbone()
    with granted(Access.FEATURES, backbone) as model:
        assert_near(model.features(images()), backbone.vit(images()))


@pytest.mark.parametrize("access", BLACK)
def test_a_bf16_run_asks_in_bf16_and_answers_in_fp32(access: Access) -> None:
    backbone = tiny_backbone()
    seen: list[torch.dtype] = []
    backbone.vit.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(module.mlp.fc1(output).dtype))  # type: ignore[index]
    with granted(access, backbone, number_format="bf16") as model:
        assert ask(model, access, images()).dtype == torch.float32
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("access", BLACK)
@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_the_callers_autocast_changes_no_answer(access: Access, number_format: str) -> None:
    with granted(access, number_format=number_format) as model:
        expected = ask(model, access, images())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ask(model, access, images()), expected)


def test_the_callers_autocast_changes_no_scores_in_a_context() -> None:
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), granted(Access.CONTEXT) as model:
            found.append(model.context_scores(images(), 1.1 * model.context[None]))
    assert torch.equal(*found)


@pytest.mark.parametrize("access", BLACK)
def test_a_handle_is_dead_after_the_run(access: Access) -> None:
    with granted(access) as model:
        ask(model, access, images())
    with pytest.raises(AccessError, match="after the run that granted the model had ended"):
        ask(model, access, images())


def test_a_handle_of_an_earlier_run_does_not_reach_the_model_of_a_later_one() -> None:
    with granted(Access.SCORES) as earlier:
        pass
    with granted(Access.SCORES), pytest.raises(AccessError):
        earlier.scores(images())


@pytest.mark.parametrize(("access", "verb"), [(Access.SCORES, "features"), (Access.CONTEXT, "features"), (Access.FEATURES, "scores")])
def test_a_verb_of_another_rung_is_refused_and_not_counted(access: Access, verb: str) -> None:
    meter = Meter()
    with (
        granted(access, meter=meter) as model,
        pytest.raises(AccessError, match=rf"model\.{verb} needs access .*, the method declares {access.name}"),
    ):
        getattr(model, verb)(images())
    assert meter.counts["train"]["images"] == 0


@pytest.mark.parametrize("access", [Access.WEIGHTS])
def test_a_rung_above_the_black_box_is_not_granted_as_queries(access: Access) -> None:
    with pytest.raises(AccessError, match="cannot be granted for queries"), granted(access):
        pass


def test_a_backbone_without_text_cannot_score_and_says_so() -> None:
    with granted(Access.SCORES, tiny_backbone(with_text=False)) as model, pytest.raises(AccessError, match="tiny has no text tower"):
        model.scores(images())


def test_queries_are_counted_in_the_phase_they_belong_to() -> None:
    meter = Meter()
    with granted(Access.SCORES, meter=meter) as model:
        model.scores(images(3))
        meter.phase = "test"
        model.scores(images(2))
        model.scores(images(1))
    assert meter.counts["train"] | {"texts": 0} == {
        "calls": 1,
        "images": 3,
        "contexts": 0,
        "texts": 0,
        "cached": 0,
        "bytes": 3 * 3 * 16 * 16 * 4 + TEXT_BYTES,
    }
    assert (meter.counts["test"]["calls"], meter.counts["test"]["images"]) == (2, 3)


def test_class_texts_are_counted_once_and_only_where_they_are_sent() -> None:
    for access, expected in ((Access.SCORES, 3), (Access.CONTEXT, 3), (Access.FEATURES, 0)):
        meter = Meter()
        with granted(access, meter=meter) as model:
            for _ in range(2):
                ask(model, access, images())
        assert meter.counts["train"]["texts"] == expected


@pytest.mark.parametrize("access", BLACK)
def test_the_query_that_would_exceed_the_budget_is_not_sent(access: Access) -> None:
    backbone, meter = tiny_backbone(), Meter(Budget(images=5))
    sent: list[int] = []
    backbone.vit.register_forward_pre_hook(lambda module, inputs: sent.append(len(inputs[0])))
    with granted(access, backbone, meter) as model:
        ask(model, access, images(3))
        with pytest.raises(BudgetExceeded, match="budget reached after 3 of 5 images"):
            ask(model, access, images(3))
        ask(model, access, images(2))
    assert sent == [3, 2]
    assert meter.counts["train"]["calls"] == 2


@pytest.mark.parametrize("phase", ["val", "test"])
def test_the_budget_does_not_limit_what_follows_from_the_protocol(phase: str) -> None:
    meter = Meter(Budget(images=1), phase=phase)
    with granted(Access.FEATURES, meter=meter) as model:
        model.features(images(3))
    assert meter.counts[phase]["images"] == 3


def test_training_and_the_looks_of_its_curve_have_one_budget() -> None:
    meter = Meter(Budget(images=10))
    meter.charge(images=6)
    meter.phase = "curve"
    meter.charge(images=4)
    for phase in ("train", "curve"):
        meter.phase = phase
        with pytest.raises(BudgetExceeded, match="budget reached after 10 of 10 images"):
            meter.charge(images=1)
    assert [meter.counts[phase]["images"] for phase in ("train", "curve")] == [6, 4]


@given(
    st.lists(st.fixed_dictionaries({"calls": st.integers(0, 3), "images": st.integers(0, 9)}), max_size=12),
    st.integers(0, 20),
    st.integers(0, 6),
)
def test_no_sequence_of_queries_passes_a_limit_and_a_refused_one_counts_for_nothing(
    queries: list[dict[str, int]], images: int, calls: int
) -> None:
    meter, sent = Meter(Budget(images=images, calls=calls)), {"calls": 0, "images": 0}
    for query in queries:
        fits = sent["images"] + query["images"] <= images and sent["calls"] + query["calls"] <= calls
        try:
            meter.charge(**query)
        except BudgetExceeded:
            assert not fits
        else:
            assert fits
            sent = {name: sent[name] + query[name] for name in sent}
    assert {name: meter.counts["train"][name] for name in sent} == sent
