"""The CONTEXT and GRADIENTS handles: what they give, what they count, and that the model stays out of reach."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench import access
from petlbench.access import Access, Meter, QueryModel, grant
from petlbench.backbones.backbone import Backbone
from petlbench.data.batches import TrainingData
from petlbench.endpoint import ClassTexts, Endpoint, Output, as_scores, restrict, tensor_bytes
from petlbench.errors import AccessError, BudgetExceeded, ConfigError
from petlbench.learners import open_learner
from petlbench.method import QueryMethod
from petlbench.settings import Answers, Budget
from petlbench.testing import mocks
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.object_graph import reachable

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "newt")
PROMPTS = tuple((f"a photo of a {name}.",) for name in NAMES)


@contextmanager
def granted(
    rung: Access, backbone: Backbone | None = None, meter: Meter | None = None, answers: Answers | None = None
) -> Iterator[QueryModel]:
    texts = ClassTexts(PROMPTS, "a photo of a" if rung is Access.CONTEXT else None)
    with grant(rung, (backbone or tiny_backbone()).endpoint(CPU), NAMES, texts, meter or Meter(), answers or Answers()) as model:
        yield model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def contexts(model: QueryModel, count: int) -> Tensor:
    return model.context + 0.3 * torch.randn(count, *model.context.shape, generator=torch.Generator().manual_seed(1))


def test_the_words_own_embeddings_as_context_give_the_plain_scores() -> None:
    with granted(Access.CONTEXT) as model:
        torch.testing.assert_close(model.context_scores(images(), model.context[None])[0], model.scores(images()))


def test_other_contexts_give_other_scores_in_their_order() -> None:
    with granted(Access.CONTEXT) as model:
        some = contexts(model, 3)
        scores = model.context_scores(images(), some)
        assert scores.shape == (3, 2, 3) and not torch.allclose(scores[0], scores[1])
        for context, expected in zip(some, scores, strict=True):
            torch.testing.assert_close(model.context_scores(images(), context[None])[0], expected)


def test_a_context_is_encoded_once_for_all_batches_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    embed = mocks._HashedContexts.embed

    def counted(prompts: mocks._HashedContexts, given: Tensor) -> Tensor:
        encoded.append(len(given))
        return embed(prompts, given)

    monkeypatch.setattr(mocks._HashedContexts, "embed", counted)
    with granted(Access.CONTEXT) as model:
        one, other, *more = contexts(model, 4)
        for batch in images(6).split(2):
            model.context_scores(batch, one[None])
        assert encoded == [1]
        model.context_scores(images(), torch.stack(more))
        model.context_scores(images(), one[None])
        model.context_scores(images(), other[None])
    assert encoded == [1, 2, 1]


def test_a_context_that_is_changed_in_place_is_encoded_anew() -> None:
    with granted(Access.CONTEXT) as model:
        context = model.context
        before = model.context_scores(images(), context[None])
        context.add_(0.3)
        assert not torch.allclose(model.context_scores(images(), context[None]), before)


def test_a_context_of_other_texts_is_encoded_anew() -> None:
    endpoint = tiny_backbone().endpoint(CPU)
    found = []
    for captions in (PROMPTS, PROMPTS[::-1]):
        with grant(Access.CONTEXT, endpoint, NAMES, ClassTexts(captions, "a photo of a"), Meter(), Answers()) as model:
            found.append(model.context_scores(images(), model.context[None]))
    torch.testing.assert_close(found[0], found[1].flip(-1))


def test_uploaded_images_are_forwarded_and_paid_once_and_answer_as_sent_ones() -> None:
    meter, backbone = Meter(), tiny_backbone()
    endpoint = backbone.endpoint(CPU)
    with grant(Access.CONTEXT, endpoint, NAMES, ClassTexts(PROMPTS, "a photo of a"), meter, Answers()) as model:
        stored = model.upload(images(4))
        for _ in range(2):
            scores = model.context_scores(stored, contexts(model, 5))
        assert endpoint.images_forwarded == 4
        torch.testing.assert_close(scores, model.context_scores(images(4), contexts(model, 5)))
    counts = meter.counts["train"]
    assert (counts["images"], counts["contexts"], counts["cached"]) == (4 + 4, 15, 2 * 5 * 4)


def test_images_uploaded_in_parts_answer_as_those_uploaded_at_once_and_contexts_are_paid_once() -> None:
    meter = Meter()
    with granted(Access.CONTEXT, meter=meter) as model:
        some, whole = contexts(model, 5), model.upload(images(6))
        first, second, third = (model.upload(part) for part in (images(6)[:4], images(6)[4:], images(6)[4:]))
        found = model.context_scores(first + second + third, some)
        counted = meter.counts["train"]["contexts"], meter.counts["train"]["cached"]
        expected = model.context_scores(whole, some)
    torch.testing.assert_close(found, torch.cat([expected, expected[:, 4:]], dim=1))
    assert counted == (5, 2 + 5 * 8), "two images were uploaded again"


class _Noted:
    """An endpoint that takes down what it is sent."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.sent = dict.fromkeys(("calls", "images", "contexts", "bytes"), 0)
        self.largest = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._endpoint, name)

    def upload(self, parts: Mapping[str, Tensor]) -> None:
        for part in parts.values():
            self._note(part)
        self._endpoint.upload(parts)

    def features(self, parts: Sequence[Tensor]) -> list[Tensor]:
        for part in parts:
            self._note(part)
        return self._endpoint.features(parts)

    def context_scores(self, images: Tensor | Sequence[str], contexts: Sequence[Tensor], *told: Any) -> list[Tensor]:
        for part in contexts:
            self._note(images if isinstance(images, Tensor) else torch.empty(0), part)
        return self._endpoint.context_scores(images, contexts, *told)

    def _note(self, images: Tensor, contexts: Tensor | None = None) -> None:
        others = torch.empty(0) if contexts is None else contexts
        amounts = {"calls": 1, "images": len(images), "contexts": len(others), "bytes": tensor_bytes(images, others)}
        self.sent = {name: amount + amounts[name] for name, amount in self.sent.items()}
        self.largest = max(self.largest, len(images))


VERBS: dict[str, Callable[[QueryModel], object]] = {
    "upload": lambda model: model.upload(images(7)),
    "upload_again": lambda model: [model.upload(images(count)) for count in (4, 7, 4)],
    "features": lambda model: model.features(images(7)),
    "stored": lambda model: model.context_scores(model.upload(images(7)), contexts(model, 5)),
    "sent": lambda model: model.context_scores(images(7), contexts(model, 5)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_charged_is_what_is_sent(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rung = Access.FEATURES if verb == "features" else Access.CONTEXT
    meter, endpoint, texts = Meter(phase="test"), _Noted(tiny_backbone().endpoint(CPU)), ClassTexts(PROMPTS, "a photo of a")
    monkeypatch.setattr(access, "MAX_SCORES", 4 * len(NAMES) * 2)  # two contexts per call about four images
    with grant(rung, endpoint, NAMES, texts, meter, Answers(batch=4)) as model:
        meter.phase = "train"
        VERBS[verb](model)
    counts = meter.counts["train"]
    assert {name: counts[name] for name in endpoint.sent} == endpoint.sent
    assert endpoint.largest == 4


@pytest.mark.parametrize(("rung", "verb"), [(Access.FEATURES, "features"), (Access.CONTEXT, "upload"), (Access.CONTEXT, "scores")])
def test_seven_images_in_calls_of_four_are_two_calls_and_the_bytes_of_seven(rung: Access, verb: str) -> None:
    meter = Meter(phase="test")
    with granted(rung, meter=meter, answers=Answers(batch=4)) as model:
        meter.phase = "train"
        getattr(model, verb)(images(7))
    counts = meter.counts["train"]
    assert (counts["calls"], counts["images"], counts["cached"], counts["bytes"]) == (2, 7, 0, 7 * 3 * 16 * 16 * 4)


def test_images_that_were_uploaded_before_are_cached_and_cost_no_budget() -> None:
    meter = Meter(Budget(images=4))
    with granted(Access.CONTEXT, meter=meter) as model:
        first, second = model.upload(images(4)), model.upload(images(4))
    assert first == second
    assert (meter.counts["train"]["images"], meter.counts["train"]["cached"], meter.counts["train"]["calls"]) == (4, 4, 1)


def test_images_beyond_a_call_are_answered_in_their_order() -> None:
    found = []
    for batch in (3, 256):
        with granted(Access.CONTEXT, answers=Answers(batch=batch)) as model:
            found.append(model.context_scores(images(7), contexts(model, 2)))
    assert found[0].shape == (2, 7, 3)
    torch.testing.assert_close(*found)


def test_contexts_are_budgeted_and_the_refused_query_counts_for_nothing() -> None:
    meter = Meter(Budget(contexts=7))
    with granted(Access.CONTEXT, meter=meter) as model:
        model.context_scores(images(), contexts(model, 5))
        with pytest.raises(BudgetExceeded, match="after 5 of 7 contexts"):
            model.context_scores(images(), contexts(model, 3))
    assert meter.counts["train"]["contexts"] == 5


def test_bytes_are_what_images_contexts_and_texts_weigh() -> None:
    meter = Meter()
    with granted(Access.CONTEXT, meter=meter) as model:
        before = meter.counts["train"]["bytes"]
        some = contexts(model, 2)
        model.context_scores(images(3), some)
    assert before == sum(len(caption) for captions in PROMPTS for caption in captions)
    assert meter.counts["train"]["bytes"] - before == 4 * (3 * 3 * 16 * 16 + some.numel())


def test_a_long_answer_is_asked_for_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    with granted(Access.CONTEXT, meter=meter) as model:
        some, stored = contexts(model, 5), model.upload(images())
        whole = model.context_scores(stored, some)
        calls = meter.counts["train"]["calls"]
        monkeypatch.setattr(access, "MAX_SCORES", 2 * 2 * 3)
        torch.testing.assert_close(model.context_scores(stored, some), whole)
    assert meter.counts["train"]["calls"] == calls + 3


@pytest.mark.parametrize("templates", [("{} texture.",), ("a photo of a {}.", "a drawing of a {}.")])
def test_a_context_needs_one_template_with_words_before_the_name(templates: tuple[str, ...]) -> None:
    class Asking(QueryMethod):
        name, access = "asking", Access.CONTEXT

        def templates(self, of_task: tuple[str, ...]) -> tuple[str, ...]:
            return templates

        def fit(self, model: QueryModel, data: TrainingData) -> None: ...

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.scores(images)

    learner = open_learner(Asking(None), tiny_backbone(), mock_task().spec, CPU, "fp32", Meter())
    with pytest.raises(ConfigError, match=r"it needs one template such as 'a photo of a \{\}\.', got"), learner:
        pass


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
    torch.testing.assert_close(asked.grad, plain.grad)


@pytest.mark.parametrize("output", [Output.PROBABILITIES, Output.LABEL])
def test_scores_that_can_be_differentiated_say_no_more_than_others(output: Output) -> None:
    answers = Answers(output=output.label)  # type: ignore[arg-type]
    with granted(Access.GRADIENTS, answers=answers) as model:
        found, expected = model.scores(images().requires_grad_(True)), model.scores(images())
    torch.testing.assert_close(found, expected)


def test_gradients_of_probabilities_are_those_of_the_plain_models_probabilities() -> None:
    gradients = []
    for output in ("probabilities", "logits"):
        asked = images().requires_grad_(True)
        with granted(Access.GRADIENTS, answers=Answers(output=output)) as model:  # type: ignore[arg-type]
            scores = model.scores(asked)
            (scores if output == "probabilities" else scores.log_softmax(-1))[:, 0].sum().backward()
        assert asked.grad is not None
        gradients.append(asked.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("output", [Output.PROBABILITIES, Output.TOP_K, Output.LABEL])
def test_scores_in_contexts_say_no_more_than_the_output_allows(output: Output) -> None:
    with granted(Access.CONTEXT) as model:
        whole = model.context_scores(images(), contexts(model, 3))
    answers = Answers(output=output.label, top_k=2)  # type: ignore[arg-type]
    with granted(Access.CONTEXT, answers=answers) as model:
        for asked in (images(), model.upload(images())):
            found = model.context_scores(asked, contexts(model, 3))
            torch.testing.assert_close(found, as_scores(restrict(whole, output, 2), len(NAMES)))


def test_no_weight_is_given_a_gradient() -> None:
    backbone = tiny_backbone()
    backbone.vit.requires_grad_(True)  # else there could be none
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
        with pytest.raises(AccessError, match="ask the model again"):
            scores.sum().backward()


@pytest.mark.parametrize("rung", [Access.CONTEXT, Access.GRADIENTS])
def test_neither_the_handle_nor_an_answer_nor_its_graph_leads_to_the_model(rung: Access) -> None:
    backbone = tiny_backbone()
    weights = {p.data_ptr() for part in (backbone.vit, backbone.projection) if part is not None for p in part.parameters()}
    with granted(rung, backbone) as model:
        asked = images().requires_grad_(True)
        answer = model.scores(asked) if rung is Access.GRADIENTS else model.context_scores(model.upload(images()), model.context[None])
        found = [*reachable(model), *reachable(answer), *_of_the_graph(answer)]
    assert not [thing for thing in found if isinstance(thing, (nn.Module, nn.Parameter, Backbone, Meter))]
    assert not [thing for thing in found if isinstance(thing, Tensor) and thing.data_ptr() in weights]


def _of_the_graph(answer: Tensor) -> Iterator[object]:
    """Every node of an autograd graph and what it holds, the graphs of tensors that are held included."""
    waiting, seen = [answer.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if not name.startswith("__") and name != "saved_variables":  # the deprecated name of saved_tensors
                for thing in reachable(getattr(node, name, None)):
                    yield thing
                    if isinstance(thing, Tensor):
                        waiting.append(thing.grad_fn)
        waiting += [following for following, _ in node.next_functions]


def test_the_walk_of_a_graph_finds_weights_that_it_leads_to() -> None:
    backbone = tiny_backbone()
    answer = backbone.vit(images().requires_grad_(True))
    weights = {p.data_ptr() for p in backbone.vit.parameters()}
    assert any(isinstance(thing, Tensor) and thing.data_ptr() in weights for thing in _of_the_graph(answer))


def test_a_graph_that_is_not_used_is_dropped_with_the_answer() -> None:
    held = access._graphs
    with granted(Access.GRADIENTS) as model:
        before = len(held)
        answer = model.scores(images().requires_grad_(True))
        assert len(held) == before + 1
        del answer
        gc.collect()
        assert len(held) == before


def test_only_a_query_that_wants_gradients_makes_use_of_the_rung() -> None:
    for wants, seen in ((False, Access.SCORES), (True, Access.GRADIENTS)):
        meter = Meter()
        with granted(Access.GRADIENTS, meter=meter) as model:
            answer = model.scores(images().requires_grad_(wants))
        assert (answer.requires_grad, meter.seen) == (wants, seen)


def test_the_meter_sees_the_highest_rung_that_was_made_use_of() -> None:
    meter = Meter()
    with granted(Access.CONTEXT, meter=meter) as model:
        assert meter.seen is None
        model.scores(images())
        assert meter.seen is Access.SCORES
        model.upload(images())
        model.scores(images())
    assert meter.seen is Access.CONTEXT


def test_features_and_contexts_are_not_for_gradients() -> None:
    with granted(Access.GRADIENTS) as model:
        for ask in (lambda: model.features(images()), lambda: model.upload(images())):
            with pytest.raises(AccessError, match="the method declares GRADIENTS"):
                ask()
