"""Check that every method computes something different: two names with the same answers would count one result twice in a table."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import combinations

import pytest
import torch
from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.config.resolve import load_method, method_names
from petlbench.data.batches import Batches, TrainingData
from petlbench.learners import open_learner
from petlbench.method import QueryMethod
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.methods.networks import fill, frozen, outputs, small, take_steps, trainable, white_box
from tests.near import assert_near
from tests.words import resolve

SAME = [  # names of one computation, on purpose
    {"lora_qkv_shared", "lora_peft"},  # the same formula, by our code and by the peft library
]
# From scales around 1, from random prompts, from modules that are initialised as in the released code; all others from the frozen model.
STARTS_ELSEWHERE = {"ssf", "vpt", "vpt_shallow", "spt", "spt_adapter"}
SIZES = {"rank": 4, "bottleneck": 4, "prompt_length": 4}


def others(name: str) -> list[str]:
    """Return all methods that must not give the same answers as this one."""
    return [other for other in white_box() if other != name and not any({name, other} <= group for group in SAME)]


@cache
def filled_and_trained(name: str) -> tuple[Tensor, Tensor]:
    """Features with random values in everything that trains, and three steps later. No name may differ from another by its size only."""
    fields = {field.name for field in dataclasses.fields(load_method(name)[0].Config)}
    vit = small(name, *(f"method.{field}={size}" for field, size in SIZES.items() if field in fields))
    fill(vit)
    before = outputs(vit)
    take_steps(vit, 3)
    return before, outputs(vit)


def differ(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-6


@pytest.mark.parametrize("name", white_box())
def test_no_two_white_box_methods_compute_the_same(name: str) -> None:
    answers = filled_and_trained(name)[0]
    assert not [other for other in others(name) if not differ(answers, filled_and_trained(other)[0])]


@pytest.mark.parametrize("name", white_box())
def test_no_two_white_box_methods_learn_the_same(name: str) -> None:
    answers = filled_and_trained(name)[1]
    assert not [other for other in others(name) if not differ(answers, filled_and_trained(other)[1])]


@pytest.mark.parametrize("names", SAME, ids=lambda names: "-".join(sorted(names)))
def test_two_names_of_one_computation_give_the_same_answers(names: set[str]) -> None:
    one, other = (filled_and_trained(name) for name in sorted(names))
    assert_near(one, other)


@pytest.mark.parametrize("name", white_box())
def test_training_starts_from_the_frozen_model_where_that_is_promised(name: str) -> None:
    assert differ(outputs(small(name)), outputs(frozen())) == (name in STARTS_ELSEWHERE)


@pytest.mark.parametrize("name", white_box())
def test_every_trainable_parameter_moves_within_three_steps(name: str) -> None:
    vit = small(name)
    starts = {key: parameter.detach().clone() for key, parameter in trainable(vit).items()}
    take_steps(vit, 3)
    stuck = [key for key, parameter in trainable(vit).items() if torch.equal(parameter, starts[key])]
    assert not stuck


def query_names() -> list[str]:
    return [name for name in method_names() if issubclass(load_method(name)[0], QueryMethod)]


@cache
def scores(name: str) -> Tensor:
    """Test scores after two epochs on the mock task: one for each phase of a method that has two."""
    config = resolve([f"method={name}", "task=mini/digits", "train.epochs=2", "train.warmup_epochs=0"])
    task, cpu = mock_task(), torch.device("cpu")
    torch.manual_seed(0)
    train, val, test = (Batches(split, task.transform, 12, cpu) for split in (task.train, task.val, task.test))
    method = load_method(name)[0](config.method_config, 0)
    with open_learner(method, tiny_backbone(), task.spec, cpu, "fp32", Meter()) as learner:
        learner.fit(TrainingData(train, val, config.train, task.spec.class_names, lambda epoch: None))
        return learner.predict(test)


@pytest.mark.parametrize(("one", "other"), list(combinations(query_names(), 2)))
def test_two_query_methods_give_different_answers(one: str, other: str) -> None:
    assert differ(scores(one).softmax(dim=1), scores(other).softmax(dim=1))
