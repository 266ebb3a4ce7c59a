"""Charge queries in calls, images, contexts and bytes, and enforce budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from petlbench.access import handle as access
from petlbench.access.endpoint import ClassTexts, Endpoint, paired, tensor_bytes
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.config.settings import Budget, QueryConfig
from petlbench.errors import BudgetExceeded
from petlbench.testing.mocks import tiny_backbone
from tests.asking import CPU, NAMES, PROMPTS, contexts, granted, images
from tests.near import assert_near


class _Noted:
    """An endpoint that counts the calls, images, contexts and bytes that it receives."""

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

    def features(self, parts: Sequence[Tensor], patches: Sequence[Tensor] | None = None) -> list[Tensor]:
        for part, beside in paired(parts, patches):
            self._note(part, beside=beside)
        return self._endpoint.features(parts, patches)

    def forward_with_vjp(self, images: Tensor, tokens: Tensor | None, *told: Any, **named: Any) -> Any:
        self._note(images, beside=tokens)
        return self._endpoint.forward_with_vjp(images, tokens, *told, **named)

    def context_scores(self, images: Tensor | Sequence[str], contexts: Sequence[Tensor], *told: Any) -> list[Tensor]:
        for part in contexts:
            self._note(images if isinstance(images, Tensor) else torch.empty(0), part)
        return self._endpoint.context_scores(images, contexts, *told)

    def _note(self, images: Tensor, contexts: Tensor | None = None, beside: Tensor | None = None) -> None:
        others = torch.empty(0) if contexts is None else contexts
        amounts = {"calls": 1, "images": len(images), "contexts": len(others), "bytes": tensor_bytes(images, others, beside)}
        self.sent = {name: amount + amounts[name] for name, amount in self.sent.items()}
        self.largest = max(self.largest, len(images))


VERBS: dict[str, Callable[[QueryModel], object]] = {
    "upload": lambda model: model.upload(images(7)),
    "upload_again": lambda model: [model.upload(images(count)) for count in (4, 7, 4)],
    "features": lambda model: model.features(images(7)),
    "features_of_patches": lambda model: model.features(images(7), patches=torch.ones(7, 2, 3, 8, 8)),
    "features_of_tokens": lambda model: model.features(images(7), torch.ones(7, 2, 32)),
    "scores_of_tokens": lambda model: model.scores(images(7), torch.ones(7, 2, 32)),
    "stored": lambda model: model.context_scores(model.upload(images(7)), contexts(model, 5)),
    "sent": lambda model: model.context_scores(images(7), contexts(model, 5)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_charged_is_what_is_sent(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rung = Access.GRADIENTS if "tokens" in verb else Access.FEATURES if "features" in verb else Access.CONTEXT
    meter, endpoint, texts = Meter(phase="test"), _Noted(tiny_backbone().endpoint(CPU)), ClassTexts(PROMPTS, "a photo of a")
    monkeypatch.setattr(access, "MAX_SCORES", 4 * len(NAMES) * 2)  # two contexts per call about four images
    with grant(rung, endpoint, NAMES, texts, meter, QueryConfig(batch=4)) as model:
        meter.phase = "train"
        VERBS[verb](model)
    counts = meter.counts["train"]
    assert {name: counts[name] for name in endpoint.sent} == endpoint.sent
    assert endpoint.largest == 4


@pytest.mark.parametrize(("rung", "verb"), [(Access.FEATURES, "features"), (Access.CONTEXT, "upload"), (Access.CONTEXT, "scores")])
def test_seven_images_in_calls_of_four_are_two_calls_and_the_bytes_of_seven(rung: Access, verb: str) -> None:
    meter = Meter(phase="test")
    with granted(rung, meter=meter, answers=QueryConfig(batch=4)) as model:
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
        with granted(Access.CONTEXT, answers=QueryConfig(batch=batch)) as model:
            found.append(model.context_scores(images(7), contexts(model, 2)))
    assert found[0].shape == (2, 7, 3)
    assert_near(*found)


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


def test_the_meter_sees_the_highest_rung_that_was_made_use_of() -> None:
    meter = Meter()
    with granted(Access.CONTEXT, meter=meter) as model:
        assert meter.seen is None
        model.scores(images())
        assert meter.seen is Access.SCORES
        model.upload(images())
        model.scores(images())
    assert meter.seen is Access.CONTEXT
