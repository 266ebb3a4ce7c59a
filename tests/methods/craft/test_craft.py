"""CraFT and BBT: their queries, the order in which the parts learn, what they share, and refused settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petlbench.access.handle import QueryModel, StoredImages
from petlbench.access.meter import Meter
from petlbench.config.settings import Budget, Train
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.load import Task
from petlbench.errors import BudgetExceeded, ConfigError
from petlbench.learners import QueryLearner, open_learner
from petlbench.methods import craft
from petlbench.methods.craft import Craft, CraftConfig
from petlbench.optim.loop import Epoch
from petlbench.testing import mock_task, tiny_backbone
from tests.near import assert_near

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"intrinsic_dim": 6, "population": 5, "budget": 22, "hidden": 7}  # four iterations
BBT: dict[str, Any] = {"refine": "none", "weight": 0.0, "context_from": "best"}
IMAGES, CLASSES = 36, 3  # of the mock task
CONTEXT = 4 * 4  # scalars of "a photo of a" in the mock text tower


@contextmanager
def opened(seed: int = 0, task: Task | None = None, **settings: Any) -> Iterator[QueryLearner]:
    torch.manual_seed(seed)
    method = Craft(CraftConfig(**(SMALL | settings)), seed)
    with open_learner(method, tiny_backbone(), (task or mock_task()).spec, CPU, "fp32", Meter()) as learner:
        yield learner


def training(report: Callable[[Epoch], None] = lambda epoch: None, augment: str = "none") -> TrainingData:
    task = mock_task()
    transform = dataclasses.replace(task.transform, augment=augment)
    train = Batches(task.train, transform, 12, CPU, torch.Generator().manual_seed(0))
    return TrainingData(train, Batches(task.val, transform, 12, CPU), Train(batch_size=12), task.spec.class_names, report)


def fitted(seed: int = 0, **settings: Any) -> Craft:
    with opened(seed, **settings) as learner:
        learner.fit(training())
        return learner.method


def sent(augment: str = "none", **settings: Any) -> dict[str, int]:
    """Train; return what the meter counted."""
    with opened(**settings) as learner:
        learner.fit(training(augment=augment))
        return learner.meter.counts["train"]


@dataclass
class Fixed:
    """A strategy that proposes the same two candidates for ever, and stops after some steps."""

    steps: int = 100
    told: list[list[float]] = field(default_factory=list)
    best = np.full(6, 0.3)
    mean = np.full(6, -0.2)

    def ask(self) -> np.ndarray:
        return np.stack([np.full(6, 1.0), np.full(6, 2.0)])

    def tell(self, candidates: np.ndarray, fitness: list[float]) -> None:
        self.told.append(fitness)

    @property
    def stopped(self) -> bool:
        return len(self.told) >= self.steps


# What is sent


def test_the_search_evaluates_a_population_per_iteration_and_no_more_than_its_budget() -> None:
    assert sent(**BBT)["contexts"] == 5 * 4 <= 22


def test_an_epoch_of_the_network_costs_one_context_more() -> None:
    assert sent()["contexts"] == (5 + 1) * 4


def test_the_network_alone_asks_once() -> None:
    assert sent(generate=False)["contexts"] == 1


def test_behind_the_search_the_network_asks_once() -> None:
    assert sent(collaborate=False)["contexts"] == 5 * 4 + 1


def test_every_image_is_sent_once_and_a_population_is_one_call() -> None:
    counts = sent()
    assert counts["images"] == IMAGES
    assert counts["calls"] == IMAGES // 12 + 2 * 4
    assert counts["cached"] == IMAGES * counts["contexts"]


def test_images_are_sent_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    upload = QueryModel.upload

    def noted(model: QueryModel, images: Tensor) -> StoredImages:
        sizes.append(len(images))
        return upload(model, images)

    monkeypatch.setattr(QueryModel, "upload", noted)
    sent(**BBT)
    assert sizes == [12] * 3


def test_augmented_images_are_sent_once_for_the_search_and_anew_in_every_epoch() -> None:
    assert sent(augment="flip")["images"] == IMAGES * (1 + 4)


def test_a_population_that_is_judged_in_parts_is_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted()
    monkeypatch.setattr(craft, "MAX_ENTRIES", 2 * IMAGES * SMALL["hidden"])
    assert_near(fitted().context, whole.context)


# What is learned


def test_before_training_the_context_is_the_templates_own_words() -> None:
    images = torch.randn(2, 3, 16, 16)
    with opened(**BBT) as learner:
        model = learner.handle
        assert_near(learner.method.predict(model, images), model.scores(images))


def test_bbt_is_craft_without_consistency_and_network() -> None:
    """The network learns from the context; with weight 0 nothing goes the other way."""
    assert_near(fitted(weight=0.0, context_from="best").context, fitted(**BBT).context)


def test_consistency_draws_the_context_to_the_network() -> None:
    assert not torch.allclose(fitted(weight=0.0).context, fitted(weight=1.0).context)


def test_the_search_lowers_the_loss() -> None:
    losses: list[float] = []
    with opened(**BBT, budget=200) as learner:
        learner.fit(training(lambda epoch: losses.append(epoch.loss)))
    assert min(losses[-5:]) < losses[0] - 0.05


def test_the_network_lowers_the_loss() -> None:
    losses: list[float] = []
    with opened(generate=False, weight=0.0, budget=200) as learner:
        learner.fit(training(lambda epoch: losses.append(epoch.loss)))
    assert losses[-1] < losses[0] - 0.05


def test_runs_of_one_seed_are_equal_and_of_another_are_not() -> None:
    first, second, other = fitted(0), fitted(0), fitted(1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.context, other.context)


def test_only_the_network_alone_keeps_the_templates_words() -> None:
    with opened(generate=False) as learner:
        before = learner.method.context.clone()
        learner.fit(training())
        assert torch.equal(learner.method.context, before)


def test_without_collaboration_the_search_ends_before_the_network_starts() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    with opened(collaborate=False, weight=5.0) as learner:
        method = learner.method
        start = method.net.fc1.weight.detach().clone()
        learner.fit(training(lambda epoch: seen.append((method.context.clone(), method.net.fc1.weight.detach().clone()))))
    assert len(seen) == 2 * 4
    assert all(torch.equal(weight, start) for _, weight in seen[:4])
    assert all(torch.equal(context, seen[3][0]) for context, _ in seen[4:])
    assert not torch.equal(seen[4][1], start) and not torch.equal(seen[0][0], seen[3][0])
    assert_near(seen[3][0], fitted(**BBT | {"context_from": "sample_mean"}).context)


@pytest.mark.parametrize(("rule", "z"), [("sample_mean", 1.5), ("best", 0.3), ("mean", -0.2)])
def test_the_context_is_that_of_the_chosen_z(rule: str, z: float) -> None:
    with opened(context_from=rule) as learner:
        method, start = learner.method, learner.method.context.clone()
        projection = method.draw_projection()
        method.tune(learner.handle, training(), Fixed(), projection)
    assert_near(method.context, start + (projection @ torch.full((6,), z)).view_as(start))


def test_training_ends_when_the_search_has_stopped() -> None:
    epochs: list[int] = []
    with opened() as learner:
        method = learner.method
        method.tune(learner.handle, training(lambda epoch: epochs.append(epoch.epoch)), Fixed(steps=2), method.draw_projection())
    assert epochs == [0, 1]


@given(budget=st.integers(40, 9000), epochs=st.integers(1, 300), collaborate=st.booleans())
def test_neither_the_budget_nor_the_epochs_are_exceeded(budget: int, epochs: int, collaborate: bool) -> None:
    turns = CraftConfig(budget=budget, collaborate=collaborate).turns(epochs)
    searches, refines = (sum(part) for part in zip(*turns, strict=True))
    assert 1 <= searches <= budget // 40
    assert 1 <= len(turns) <= epochs
    assert refines == searches if collaborate else refines in (searches, searches - 1)


def test_both_phases_have_half_of_the_epochs_and_the_search_the_odd_one() -> None:
    config = CraftConfig(collaborate=False)
    assert config.turns(5) == [(True, False)] * 3 + [(False, True)] * 2
    assert config.turns(1) == [(True, False)]


def test_released_input_reaches_the_network_and_not_the_fitness() -> None:
    found: dict[str, list[list[float]]] = {}
    weights = {}
    for head_input in ("api_logits", "released_unnormalised"):
        with opened(head_input=head_input, weight=0.0) as learner:
            method, search = learner.method, Fixed(steps=2)
            method.tune(learner.handle, training(), search, method.draw_projection())
        found[head_input], weights[head_input] = search.told, method.net.fc1.weight
    assert found["api_logits"] == found["released_unnormalised"]
    assert not torch.allclose(weights["api_logits"], weights["released_unnormalised"])


@given(budget=st.integers(40, 9000), population=st.integers(3, 40), cutoff=st.integers(1, 8))
def test_the_networks_consistency_is_on_in_the_first_part_of_the_budget(budget: int, population: int, cutoff: int) -> None:
    config = CraftConfig(budget=budget, population=population, cutoff=cutoff, weight=0.5)
    epochs = budget // population
    for epoch in range(epochs):
        evaluated = (epoch + 1) * population
        assert config.weight_in(epoch, epochs) == (0.5 if evaluated <= budget // cutoff else 0.0)


def test_fewer_epochs_shorten_the_networks_consistency_as_they_do_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[float] = []
    train_epoch = craft.train_epoch
    monkeypatch.setattr(craft, "train_epoch", lambda *given: (weights.append(given[-1]), train_epoch(*given))[1])
    with opened(budget=200, cutoff=2, weight=0.5) as learner:  # 40 iterations, of which there is time for 4
        learner.fit(dataclasses.replace(training(), recipe=Train(epochs=4, warmup_epochs=0, batch_size=12)))
    assert weights == [0.5, 0.5, 0.0, 0.0]


def test_the_projection_has_the_asked_spread() -> None:
    with opened(intrinsic_dim=2000, projection_std=0.3) as learner:
        assert learner.method.draw_projection().std().item() == pytest.approx(0.3, rel=0.05)
    with opened(intrinsic_dim=400, projection_std=None) as learner:
        drawn = learner.method.draw_projection()
    assert drawn.abs().max().item() == pytest.approx(400**-0.5, rel=0.01)


def test_another_seed_draws_another_projection() -> None:
    drawn = []
    for seed in (0, 0, 1):
        with opened(seed) as learner:
            drawn.append(learner.method.draw_projection())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_budget_that_ends_before_the_network_learns_leaves_it_out() -> None:
    images = torch.randn(2, 3, 16, 16)
    with opened() as learner:
        method, model = learner.method, learner.handle
        learner.meter.budget = Budget(contexts=5)  # a population and nothing of the network's epoch
        with pytest.raises(BudgetExceeded):
            learner.fit(training())
        learner.meter.budget = Budget()
        assert torch.equal(method.predict(model, images), model.context_scores(images, method.context[None])[0])


def test_the_network_takes_part_from_its_first_step() -> None:
    images, answers = torch.randn(2, 3, 16, 16), []
    with opened(collaborate=False) as learner:
        method, model = learner.method, learner.handle

        def compare(_: Epoch) -> None:
            plain = model.context_scores(images, method.context[None])[0]
            answers.append(torch.equal(method.predict(model, images), plain))

        learner.fit(training(compare))
    assert answers == [True] * 4 + [False] * 4


def test_the_projection_repeats_nothing_of_the_global_stream() -> None:
    with opened(projection_std=1.0) as learner:
        drawn = learner.method.draw_projection()
    torch.manual_seed(0)
    assert not torch.allclose(drawn, torch.empty_like(drawn).normal_())


# What is counted and stored


def test_the_network_has_two_matrices_and_two_biases() -> None:
    with opened() as learner:
        assert learner.parameter_counts() == (CONTEXT + 2 * CLASSES * 7 + 7 + CLASSES, 0)
        assert set(learner.state()) == {"context", "net.fc1.weight", "net.fc1.bias", "net.fc2.weight", "net.fc2.bias", "net.has_learned"}


def test_bbt_learns_and_stores_its_context_only() -> None:
    with opened(**BBT) as learner:
        assert set(learner.state()) == {"context"} and learner.parameter_counts() == (CONTEXT, 0)


def test_a_context_that_is_not_searched_for_is_not_counted() -> None:
    with opened(generate=False) as learner:
        assert learner.parameter_counts() == (2 * CLASSES * 7 + 7 + CLASSES, 0)


# What is refused


def test_the_template_is_the_methods_own_or_the_tasks_first() -> None:
    of_task = ("a sketch of {}.", "another {}")
    assert Craft(CraftConfig()).templates(of_task) == ("a photo of a {}.",)
    assert Craft(CraftConfig(template=None)).templates(of_task) == ("a sketch of {}.",)


@pytest.mark.parametrize("template", ["{} texture.", " {}.", "a photo", "a {} photo of a {}.", "a photo of a {0}.", "a photo of a {", ""])
def test_a_template_without_words_and_then_one_place_for_the_class_name_is_refused(template: str) -> None:
    with pytest.raises(
        ValueError, match=r"template must have words, .*, and then one \{\} for the class name, got '" + re.escape(template)
    ):
        CraftConfig(template=template)


def test_a_template_of_the_task_that_starts_with_the_class_name_is_refused() -> None:
    plain = mock_task()
    task = dataclasses.replace(plain, spec=dataclasses.replace(plain.spec, templates=("{} texture.",)))
    with pytest.raises(ConfigError, match="replaces the words before the class name"), opened(task=task, template=None):
        pass


def test_the_smallest_population_can_be_searched_with() -> None:
    assert sent(population=3, **BBT)["contexts"] == 3 * (22 // 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 2}, "population must be >= 3, got 2"),
        ({"hidden": 0}, "hidden must be >= 1, got 0"),
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"bound": -1.0}, "bound must be > 0, got -1.0"),
        ({"budget": 30}, "budget must hold a population of 40 prompt evaluations at least, got 30"),
        ({"weight": -0.1}, "weight must be >= 0, got -0.1"),
        ({"refine": "none", "weight": 0.0, "generate": False}, "refine=none with generate=false leaves nothing to learn"),
        ({"refine": "none"}, "with refine=none it must be 0, got 0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CraftConfig(**settings)
