"""Models without texts whose own classifier stands in for the classes of a task (VP's hard-coded mapping)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from petlbench.access.meter import Meter
from petlbench.backbones.backbone import Backbone
from petlbench.config.resolve import load_method
from petlbench.data.batches import Batches, TrainingData
from petlbench.errors import AccessError
from petlbench.learners import QueryLearner, open_learner
from petlbench.testing.mocks import CLASSES, WIDTH, mock_task, tiny_backbone
from tests.near import assert_near
from tests.words import resolve

CPU = torch.device("cpu")
TASK = mock_task()
PADDING = ("method=vp", "method.width=2", "method.spread=0.1", "train.learning_rate=1")


def backbone(own_classes: int | None = 7) -> Backbone:
    """The tiny backbone, without texts."""
    torch.manual_seed(0)
    tiny = tiny_backbone(with_text=False)
    classifier = None if own_classes is None else nn.Linear(WIDTH, own_classes)
    return Backbone(tiny.card, tiny.vit, classifier=classifier)


@contextmanager
def opened(model: Backbone, *words: str) -> Iterator[tuple[QueryLearner, Meter, TrainingData]]:
    config = resolve(["task=folder:none", "train.epochs=10", "train.warmup_epochs=0", *words])
    torch.manual_seed(config.seed)
    method, meter = load_method(config.method)[0](config.method_config, config.seed), Meter()
    train, val = (Batches(split, TASK.transform, 12, CPU) for split in (TASK.train, TASK.val))
    with open_learner(method, model, TASK.spec, CPU, "fp32", meter) as learner:
        assert isinstance(learner, QueryLearner)
        yield learner, meter, TrainingData(train, val, config.train, TASK.spec.class_names, lambda epoch: None)


def test_class_c_is_the_model_s_output_c() -> None:
    model = backbone()
    with opened(model, *PADDING, "method.spread=0") as (learner, _, data), torch.no_grad():
        images, _ = next(data.train.in_order())
        scores = learner.predict(data.train)[: len(images)]
        assert model.classifier is not None
        assert_near(scores, model.classifier(model.vit(images))[:, :CLASSES])


def test_a_prompt_is_trained_through_them() -> None:
    losses = []
    with opened(backbone(), *PADDING) as (learner, _, data):
        learner.fit(TrainingData(data.train, data.val, data.recipe, data.class_names, lambda epoch: losses.append(epoch.loss)))
    assert losses[-1] < 0.97 * losses[0]


def test_no_text_is_sent() -> None:
    with opened(backbone(), *PADDING) as (_, meter, _):
        assert (meter.counts["train"]["texts"], meter.counts["train"]["bytes"]) == (0, 0)


def test_the_black_box_border_shares_the_mapping() -> None:
    with opened(backbone(), "method=vp_spsa", "method.width=2") as (learner, _, data):
        assert learner.predict(data.val).shape == (12, CLASSES)


def test_fewer_outputs_than_classes_are_refused() -> None:
    with (
        pytest.raises(AccessError, match="method vp needs 3 outputs of the model's own classifier; tiny has 2"),
        opened(backbone(2), *PADDING),
    ):
        pass


@pytest.mark.parametrize(("own_classes", "method"), [(None, "vp"), (7, "zero_shot"), (7, "bar"), (7, "craft")])
def test_models_and_methods_without_the_mapping_are_refused(own_classes: int | None, method: str) -> None:
    with pytest.raises(AccessError, match="tiny has no text tower"), opened(backbone(own_classes), f"method={method}"):
        pass
