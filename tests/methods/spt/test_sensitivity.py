"""Scores of the weights: squared gradients of batch means, taken without leaving a trace in the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.backbones.backbone import share
from petlbench.errors import Diverged
from petlbench.methods.spt import sensitivity
from petlbench.methods.spt.candidates import candidates, places
from petlbench.methods.spt.sensitivity import accumulate, ranking
from petlbench.testing.mocks import CLASSES, WIDTH, tiny_backbone
from tests.near import assert_near

Batch = tuple[Tensor, Tensor]


def model() -> tuple[Any, nn.Linear]:
    torch.manual_seed(3)
    return share(tiny_backbone().vit), nn.Linear(WIDTH, CLASSES)


def batches(count: int = 3, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 3, 16, 16, generator=generator), torch.randint(CLASSES, (size,), generator=generator)) for _ in range(count)]


def by_autograd(vit: Any, head: nn.Module, data: list[Batch]) -> Tensor:
    """The definition, with one gradient of everything per batch."""
    found, where = candidates(vit), places(vit)
    parameters = {place.parameter: vit.get_parameter(place.parameter).requires_grad_(True) for place in where.values()}
    total = torch.zeros(sum(candidate.size for candidate in found))
    for images, labels in data:
        loss = F.cross_entropy(head(vit(images)), labels)
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        parts = [gradients[where[candidate.name].parameter][where[candidate.name].rows].flatten() for candidate in found]
        total += torch.cat(parts).square()
    return total


def test_scores_are_the_squared_gradients_of_batch_means_summed_over_batches() -> None:
    vit, head = model()
    expected = by_autograd(*model(), batches())
    assert_near(accumulate(vit, head, batches(), training=False), expected)


def test_squares_are_taken_per_batch_after_its_mean() -> None:
    vit, head = model()
    (images, labels) = batches(1, 8)[0]
    whole = accumulate(vit, head, [(images, labels)], training=False)
    halves = accumulate(vit, head, list(zip(images.split(4), labels.split(4), strict=True)), training=False)
    assert not torch.allclose(whole, halves, rtol=0.1)


def test_each_batch_costs_one_forward_and_one_backward_pass() -> None:
    vit, head = model()
    passes = {"forward": 0, "backward": 0}

    def forward(*_: Any) -> None:
        passes["forward"] += 1

    def backward(*_: Any) -> None:
        passes["backward"] += 1

    vit.register_forward_hook(forward)
    vit.blocks[0].attn.register_full_backward_hook(backward)
    accumulate(vit, head, batches(5), training=False)
    assert passes == {"forward": 5, "backward": 5}


def test_no_gradient_outlives_the_moment_it_is_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    """This keeps the scores the only tensor of the backbone's size."""
    vit, head = model()
    alive: list[int] = []
    square = sensitivity._add_square

    def counting(scores: Tensor, parts: Any, parameter: Tensor) -> None:
        alive.append(sum(p.grad is not None for p in vit.parameters()))
        square(scores, parts, parameter)

    monkeypatch.setattr(sensitivity, "_add_square", counting)
    accumulate(vit, head, batches(2), training=False)
    assert alive == [1] * 2 * len({place.parameter for place in places(vit).values()})


def test_scores_are_float32_of_any_number_format() -> None:
    vit, head = model()
    data = [(images.bfloat16(), labels) for images, labels in batches(1)]
    assert accumulate(vit.bfloat16(), head.bfloat16(), data, training=False).dtype == torch.float32


def snapshot(vit: nn.Module, head: nn.Module) -> list[Any]:
    """Return everything that must stay unchanged, tensors by identity."""
    parameters = [*vit.named_parameters(), *head.named_parameters()]
    modules = [*vit.named_modules(), *head.named_modules()]
    return [
        [(name, id(p), p._version, p.requires_grad, id(p.grad)) for name, p in parameters],
        [(name, module.training) for name, module in modules],
        [(name, dict(p._post_accumulate_grad_hooks or {})) for name, p in parameters],  # type: ignore[attr-defined]
    ]


def mixed() -> tuple[Any, nn.Linear]:
    """A model whose flags, gradients and modes differ from part to part."""
    vit, head = model()
    vit.cls_token.requires_grad_(True)
    vit.norm.weight.grad = torch.full_like(vit.norm.weight, 7.0)
    head.weight.grad = torch.full_like(head.weight, 5.0)
    vit.blocks[1].train()
    return vit, head


def failing(batches: list[Batch]) -> list[Batch]:
    return [*batches, (batches[0][0], torch.full((4,), CLASSES))]


@pytest.mark.parametrize(("data", "outcome"), [(lambda b: b, None), (failing, IndexError)])
def test_the_model_is_left_as_it_was_found(data: Callable[[list[Batch]], list[Batch]], outcome: type[Exception] | None) -> None:
    vit, head = mixed()
    before = snapshot(vit, head)
    if outcome is None:
        accumulate(vit, head, data(batches()), training=True)
    else:
        with pytest.raises(outcome):
            accumulate(vit, head, data(batches()), training=True)
    assert snapshot(vit, head) == before


def test_a_gradient_from_before_does_not_enter_the_scores() -> None:
    expected = accumulate(*model(), batches(), training=False)
    assert torch.equal(accumulate(*mixed(), batches(), training=False), expected)


def test_training_mode_is_the_callers_choice() -> None:
    vit, head = model()
    seen: list[bool] = []
    for part in (vit.blocks[0], head):
        part.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    for mode in (True, False):
        accumulate(vit, head, batches(1), training=mode)
    assert seen == [True, True, False, False]


def test_the_pass_works_where_gradients_are_switched_off() -> None:
    expected = accumulate(*model(), batches(), training=False)
    with torch.no_grad():
        assert torch.equal(accumulate(*model(), batches(), training=False), expected)


@pytest.mark.parametrize(("factor", "largest"), [(0.0, r"0\.0"), (1e25, "inf"), (float("nan"), "nan")])
def test_scores_that_say_nothing_are_an_error(factor: float, largest: str) -> None:
    vit, head = model()
    head.weight.data *= factor
    with pytest.raises(Diverged, match=f"largest sensitivity of a weight is {largest}"):
        accumulate(vit, head, batches(), training=False)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40, unique=True), st.integers(1, 50), st.integers(1, 50))
def test_the_largest_scores_come_first_however_they_are_cut_in_chunks(values: list[int], count: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "_CHUNK", chunk)
        found = ranking(torch.tensor(values, dtype=torch.float32), count)
    assert found.dtype == torch.int64
    assert [values[i] for i in found] == sorted(values, reverse=True)[:count]
