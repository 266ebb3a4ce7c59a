"""Score images in contexts, whether the images are sent with the query or were uploaded before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from petlbench.access import handle as access
from petlbench.access.endpoint import ClassTexts, Output, as_scores, restrict
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.config.settings import QueryConfig
from petlbench.data.batches import TrainingData
from petlbench.errors import ConfigError
from petlbench.learners import open_learner
from petlbench.method import QueryMethod
from petlbench.testing import mocks
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.asking import CPU, NAMES, PROMPTS, contexts, granted, images
from tests.near import assert_near


def test_the_words_own_embeddings_as_context_give_the_plain_scores() -> None:
    with granted(Access.CONTEXT) as model:
        assert_near(model.context_scores(images(), model.context[None])[0], model.scores(images()))


def test_other_contexts_give_other_scores_in_their_order() -> None:
    with granted(Access.CONTEXT) as model:
        some = contexts(model, 3)
        scores = model.context_scores(images(), some)
        assert scores.shape == (3, 2, 3) and not torch.allclose(scores[0], scores[1])
        for context, expected in zip(some, scores, strict=True):
            assert_near(model.context_scores(images(), context[None])[0], expected)


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
        with grant(Access.CONTEXT, endpoint, NAMES, ClassTexts(captions, "a photo of a"), Meter(), QueryConfig()) as model:
            found.append(model.context_scores(images(), model.context[None]))
    assert_near(found[0], found[1].flip(-1))


def test_uploaded_images_are_forwarded_and_paid_once_and_answer_as_sent_ones() -> None:
    meter, backbone = Meter(), tiny_backbone()
    endpoint = backbone.endpoint(CPU)
    with grant(Access.CONTEXT, endpoint, NAMES, ClassTexts(PROMPTS, "a photo of a"), meter, QueryConfig()) as model:
        stored = model.upload(images(4))
        for _ in range(2):
            scores = model.context_scores(stored, contexts(model, 5))
        assert endpoint.images_forwarded == 4
        assert_near(scores, model.context_scores(images(4), contexts(model, 5)))
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
    assert_near(found, torch.cat([expected, expected[:, 4:]], dim=1))
    assert counted == (5, 2 + 5 * 8), "two images were uploaded again"


def test_a_long_answer_is_asked_for_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    with granted(Access.CONTEXT, meter=meter) as model:
        some, stored = contexts(model, 5), model.upload(images())
        whole = model.context_scores(stored, some)
        calls = meter.counts["train"]["calls"]
        monkeypatch.setattr(access, "MAX_SCORES", 2 * 2 * 3)
        assert_near(model.context_scores(stored, some), whole)
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


@pytest.mark.parametrize("output", [Output.PROBABILITIES, Output.TOP_K, Output.LABEL])
def test_scores_in_contexts_say_no_more_than_the_output_allows(output: Output) -> None:
    with granted(Access.CONTEXT) as model:
        whole = model.context_scores(images(), contexts(model, 3))
    answers = QueryConfig(output=output.value, top_k=2)  # type: ignore[arg-type]
    with granted(Access.CONTEXT, answers=answers) as model:
        for asked in (images(), model.upload(images())):
            found = model.context_scores(asked, contexts(model, 3))
            assert_near(found, as_scores(restrict(whole, output, 2), len(NAMES)))
