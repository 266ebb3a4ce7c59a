"""Reduce answers to what an API returns (less than logits), and split large queries into calls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from petlbench.access.endpoint import ClassTexts, Output, as_scores, restrict
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.config.resolve import load_method
from petlbench.config.settings import QueryConfig
from petlbench.data.batches import TrainingData
from petlbench.errors import AccessError
from petlbench.learners import open_learner
from petlbench.method import QueryMethod
from petlbench.runs.execute import execute
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.near import assert_near
from tests.words import resolve

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, 3.0, -2.0, 1.0]])


@pytest.mark.parametrize("output", Output)
@given(st.integers(1, 6))
def test_the_best_class_is_the_same_whatever_is_given_away(output: Output, k: int) -> None:
    scores = as_scores(restrict(LOGITS, output, k), 4)
    assert scores.shape == LOGITS.shape and torch.equal(scores.argmax(-1), LOGITS.argmax(-1))


def test_probabilities_come_back_as_their_logarithms() -> None:
    scores = as_scores(restrict(LOGITS, Output.PROBABILITIES, 5), 4)
    assert_near(scores, LOGITS.log_softmax(-1))
    labels = torch.tensor([0, 3])
    assert_near(F.cross_entropy(scores, labels), F.cross_entropy(LOGITS, labels))


def test_a_probability_of_zero_has_a_finite_logarithm() -> None:
    scores = as_scores(restrict(torch.tensor([[0.0, 500.0]]), Output.PROBABILITIES, 5), 2)
    assert torch.isfinite(scores).all()


def test_top_k_names_k_classes_and_says_nothing_of_the_others() -> None:
    answer = restrict(LOGITS, Output.TOP_K, 2)
    assert answer["classes"].tolist() == [[0, 2], [1, 3]]
    scores = as_scores(answer, 4)
    assert torch.isneginf(scores).sum(-1).tolist() == [2, 2]
    assert_near(scores[0, [0, 2]], LOGITS.log_softmax(-1)[0, [0, 2]])


def test_a_label_is_all_that_is_left_of_the_scores() -> None:
    answer = restrict(LOGITS, Output.LABEL, 2)
    assert {name: value.tolist() for name, value in answer.items()} == {"label": [0, 1]}
    assert as_scores(answer, 4).tolist()[1] == [-torch.inf, 0.0, -torch.inf, -torch.inf]


def test_a_restricted_model_gives_no_more_whatever_is_asked_for() -> None:
    backbone = tiny_backbone()
    object.__setattr__(backbone.card, "output", Output.LABEL)
    texts = ClassTexts((("a cat",), ("a dog",)))
    with grant(Access.SCORES, backbone.endpoint(torch.device("cpu")), ("cat", "dog"), texts, Meter(), QueryConfig()) as model:
        scores = model.scores(torch.randn(3, 3, 16, 16))
    assert sorted(set(scores.flatten().tolist())) == [-torch.inf, 0.0]


def test_a_model_names_no_more_classes_than_its_card_allows() -> None:
    backbone = tiny_backbone()
    object.__setattr__(backbone.card, "output", Output.TOP_K)
    object.__setattr__(backbone.card, "top_k", 1)
    texts = ClassTexts((("a cat",), ("a dog",), ("a newt",)))
    for asked, named in ((1000, 1), (1, 1)):
        answers = QueryConfig(top_k=asked)
        with grant(Access.SCORES, backbone.endpoint(torch.device("cpu")), ("cat", "dog", "newt"), texts, Meter(), answers) as model:
            assert torch.isfinite(model.scores(torch.randn(4, 3, 16, 16))).sum(-1).tolist() == [named] * 4


@pytest.mark.parametrize(("batch", "calls"), [(3, 3), (4, 2), (100, 1)])
def test_a_question_is_cut_into_calls_of_at_most_a_batch(batch: int, calls: int) -> None:
    meter, texts = Meter(), ClassTexts((("a cat",), ("a dog",)))
    endpoint, images = tiny_backbone().endpoint(torch.device("cpu")), torch.randn(8, 3, 16, 16)
    with grant(Access.SCORES, endpoint, ("cat", "dog"), texts, meter, QueryConfig(batch=batch)) as model:
        scores = model.scores(images)
        parts = torch.cat([model.scores(part) for part in images.split(1)])
    assert meter.counts["train"]["calls"] == calls + 8
    assert_near(scores, parts)


def test_a_method_that_needs_more_than_it_would_get_says_so_before_it_starts(tmp_path: object) -> None:
    words = ["method=bar", "task=mini/digits", "access.output=label", f"out={tmp_path}"]
    with pytest.raises(AccessError, match=r"method bar needs probabilities of the model, access\.output gives label only"):
        execute(resolve(words))


def test_a_model_that_gives_less_than_a_method_needs_is_named() -> None:
    backbone = tiny_backbone()
    object.__setattr__(backbone.card, "output", Output.TOP_K)
    method = load_method("bar")[0](resolve(["method=bar", "task=mini/digits"]).method_config)
    learner = open_learner(method, backbone, mock_task().spec, torch.device("cpu"), "fp32", Meter())
    with pytest.raises(AccessError, match=r"method bar needs probabilities of the model, tiny gives top_k only"), learner:
        pass


@pytest.mark.parametrize("given_away", [Output.LABEL, Output.TOP_K])
def test_a_method_at_gradients_needs_probabilities_whatever_it_declares(given_away: Output) -> None:
    class Content(QueryMethod):
        name, access, output = "content", Access.GRADIENTS, Output.LABEL

        def fit(self, model: QueryModel, data: TrainingData) -> None: ...

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.scores(images)

    answers = QueryConfig(output=given_away.value)  # type: ignore[arg-type]
    learner = open_learner(Content(None), tiny_backbone(), mock_task().spec, torch.device("cpu"), "fp32", Meter(), answers)
    with (
        pytest.raises(AccessError, match=rf"method content needs probabilities of the model, access\.output gives {given_away.value}"),
        learner,
    ):
        pass


def test_a_method_that_needs_the_label_only_runs_on_labels(tmp_path: object) -> None:
    accuracies = set()
    for output in ("label", "logits"):
        record, _ = execute(resolve(["method=zero_shot", "task=mini/digits", f"access.output={output}", f"out={tmp_path}"]))
        assert record.metrics is not None
        accuracies.add(record.metrics.accuracy)
    assert len(accuracies) == 1
