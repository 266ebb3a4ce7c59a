"""The gradient loop: what one step does to a parameter, written out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.config.settings import Train
from petlbench.errors import ConfigError, Diverged
from petlbench.optim.loop import Epoch, TensorBatches, build_optimizer, parameter_groups, train
from tests.near import assert_near

ROWS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
ONE_STEP = Train(epochs=1, batch_size=12, warmup_epochs=0, learning_rate=0.1, weight_decay=0.0)


class Given:
    """Batches in a fixed order, counted."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.device = torch.device("cpu")
        self.drawn = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, labels in zip(ROWS.split(self.sizes), LABELS.split(self.sizes), strict=True):
            self.drawn += 1
            yield rows, labels

    def __len__(self) -> int:
        return len(self.sizes)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def trained(model: nn.Module, batches: Any = None, **changes: Any) -> list[Epoch]:
    epochs: list[Epoch] = []
    recipe = dataclasses.replace(ONE_STEP, **changes)
    train(model, batches or Given(12), recipe, decays=lambda name, parameter: parameter.ndim > 1, after_epoch=epochs.append)
    return epochs


def gradient(model: nn.Module, smoothing: float = 0.0) -> dict[str, Tensor]:
    loss = F.cross_entropy(model(ROWS), LABELS, label_smoothing=smoothing)
    return dict(zip([name for name, _ in model.named_parameters()], torch.autograd.grad(loss, list(model.parameters())), strict=True))


def test_sgd_adds_its_decay_to_the_gradient() -> None:
    """Through momentum the decay of the first step is felt in the second: w2 = w1 - lr (0.9 (g0 + d w0) + g1 + d w1)."""
    model, decay = linear(), 0.5
    w0, g0 = model.weight.detach().clone(), gradient(model)["weight"]
    trained(model, optimizer="sgd", weight_decay=decay)
    w1 = w0 - 0.1 * (g0 + decay * w0)
    assert_near(model.weight, w1)
    g1 = gradient(model)["weight"]
    model = linear()
    trained(model, optimizer="sgd", weight_decay=decay, epochs=2, schedule="constant")
    # the bias moved in the first step too, so g1 was taken at the whole state after it
    assert_near(model.weight, w1 - 0.1 * (0.9 * (g0 + decay * w0) + g1 + decay * w1))


def test_adamw_decouples_its_decay_from_the_gradient() -> None:
    plain, decayed = linear(), linear()
    w0 = plain.weight.detach().clone()
    trained(plain)
    trained(decayed, weight_decay=0.5)
    assert_near(decayed.weight, plain.weight - 0.1 * 0.5 * w0)


def test_adamw_has_the_moments_and_epsilon_of_the_papers() -> None:
    """Betas 0.9 and 0.999, epsilon 1e-8 (SPT's released code)."""
    (group,) = build_optimizer([{"params": list(linear().parameters())}], ONE_STEP).param_groups
    assert (group["betas"], group["eps"], group["amsgrad"]) == ((0.9, 0.999), 1e-8, False)


def test_decay_touches_only_what_decays() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model[0].bias.requires_grad_(False)
    groups = parameter_groups(model, 0.5, lambda name, parameter: parameter.ndim > 1)
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(model[0].weight)], [id(model[1].weight), id(model[1].bias)]]  # type: ignore[attr-defined]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


@pytest.mark.parametrize(("scaled", "expected"), [(True, 0.1 * 64 / 256), (False, 0.1)])
def test_a_rate_per_256_images_is_scaled_to_the_batch(scaled: bool, expected: float) -> None:
    recipe = Train(learning_rate=0.1, scale_learning_rate=scaled, batch_size=64)
    optimizer = build_optimizer([{"params": list(linear().parameters())}], recipe)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 5, 2)], ids=["even", "short last batch"])
def test_accumulated_batches_take_the_step_of_the_big_batch(optimizer: str, sizes: tuple[int, ...]) -> None:
    big, small = linear(), linear()
    trained(big, Given(12), optimizer=optimizer, clip_norm=0.05)
    trained(small, Given(*sizes), optimizer=optimizer, accumulate=3, clip_norm=0.05)
    assert_near(small.weight, big.weight)


def test_batches_left_over_at_the_end_of_an_epoch_are_a_step_of_their_own() -> None:
    separate, accumulated = linear(), linear()
    trained(separate, Given(8, 4), optimizer="sgd")
    trained(accumulated, Given(4, 4, 4), optimizer="sgd", accumulate=2)
    assert_near(accumulated.weight, separate.weight)


def test_label_smoothing_enters_the_loss() -> None:
    model = linear()
    expected = model.weight - 0.1 * gradient(model, smoothing=0.2)["weight"]
    trained(model, optimizer="sgd", label_smoothing=0.2)
    assert_near(model.weight, expected)


def test_gradients_are_clipped_to_their_common_norm() -> None:
    model = linear()
    gradients = gradient(model)
    norm = torch.cat([part.flatten() for part in gradients.values()]).norm()
    expected = model.weight - 0.1 * gradients["weight"] * 0.01 / norm
    trained(model, optimizer="sgd", clip_norm=0.01)
    assert_near(model.weight, expected)


def test_an_epoch_wise_schedule_with_a_warm_up_learns_nothing_in_its_first_epoch() -> None:
    model = linear()
    before = model.weight.clone()
    epochs = trained(model, optimizer="sgd", epochs=2, warmup_epochs=1)
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([0.0, 0.1])
    model = linear()
    trained(model, optimizer="sgd", epochs=2, warmup_epochs=1.5)
    assert not torch.equal(model.weight, before)


def test_a_step_wise_schedule_moves_within_an_epoch() -> None:
    epochs = trained(linear(), Given(4, 4, 4), epochs=2, warmup_epochs=1, schedule_step="step", optimizer="sgd")
    assert epochs[0].learning_rate == pytest.approx(0.1 * 2 / 3)


def test_every_parameter_and_the_report_follow_the_schedule_that_is_asked_for() -> None:
    model = linear()
    before, gradients = model.weight.detach().clone(), gradient(model)
    schedule = {"schedule": "timm_cosine", "warmup_epochs": 1, "warmup_learning_rate": 0.01, "min_learning_rate": 0.02}
    assert [epoch.learning_rate for epoch in trained(linear(), epochs=3, **schedule)] == pytest.approx([0.01, 0.01, 0.08])
    (epoch,) = trained(model, optimizer="sgd", **(schedule | {"warmup_epochs": 0.5}))
    assert_near(model.weight, before - epoch.learning_rate * gradients["weight"])
    assert epoch.learning_rate == 0.01


def test_the_reported_loss_is_the_mean_over_images() -> None:
    model = linear()
    expected = F.cross_entropy(model(ROWS), LABELS).item()
    assert trained(model, Given(5, 5, 2), learning_rate=1e-12)[0].loss == pytest.approx(expected, rel=1e-5)


class Exploding(nn.Module):
    """A model whose output is not finite from some step on."""

    def __init__(self, from_step: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.step, self.from_step = 0, from_step

    def forward(self, rows: Tensor) -> Tensor:
        self.step += 1
        return self.weight.expand(len(rows), 3) * (float("nan") if self.step > self.from_step else 1.0)


def test_divergence_is_noticed_at_the_end_of_the_epoch_in_which_it_happens() -> None:
    batches = Given(4, 4, 4)
    with pytest.raises(Diverged, match=r"the training loss is nan in epoch 1, step 2; lower train\.learning_rate"):
        trained(Exploding(from_step=3), batches, epochs=50)
    assert batches.drawn == 6


def test_divergence_within_a_long_epoch_is_noticed_after_fifty_steps() -> None:
    batches = TensorBatches(ROWS.repeat(100, 1), LABELS.repeat(100), 4, torch.Generator())
    model = Exploding(from_step=10)
    with pytest.raises(Diverged, match="epoch 0, step 49"):
        trained(model, batches)
    assert model.step == 50


def test_a_parameter_that_never_enters_the_forward_pass_is_refused_in_the_first_step() -> None:
    model, batches = linear(), Given(4, 4, 4)
    model.register_parameter("lost", nn.Parameter(torch.zeros(2)))
    with pytest.raises(ConfigError, match="no gradient reaches lost: the module is not part of the forward pass"):
        trained(model, batches)
    assert batches.drawn == 1


def test_a_model_trains_in_training_mode_and_is_left_in_evaluation_mode() -> None:
    model, modes = linear(), []
    model.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    trained(model, epochs=2)
    assert modes == [True, True] and not model.training


def test_a_frozen_parameter_does_not_move() -> None:
    model = linear()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    trained(model, weight_decay=0.5)
    assert torch.equal(model.bias, before)


def test_features_are_drawn_once_per_pass_in_an_order_of_the_seed() -> None:
    def passes() -> list[list[int]]:
        batches = TensorBatches(torch.arange(7.0)[:, None], torch.arange(7), 3, torch.Generator().manual_seed(0))
        assert len(batches) == 3
        return [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]

    first, second = passes()
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    assert passes() == [first, second]
