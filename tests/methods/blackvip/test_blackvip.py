"""BlackVIP as a method: its queries, what it encodes, and its state after a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.config.settings import Budget, QueryConfig, Train
from petlbench.data.batches import Batches, TrainingData
from petlbench.errors import BudgetExceeded, CheckpointError, ConfigError
from petlbench.learners import QueryLearner, open_learner
from petlbench.methods import blackvip
from petlbench.methods.blackvip import BlackVIP, BlackVIPConfig
from petlbench.optim.loop import Epoch
from petlbench.optim.spsa import SPSA, SPSAConfig
from petlbench.testing.mocks import SIZE, mock_task, tiny_backbone
from tests.near import assert_near

OF_DIFFERENCES = "a step follows from small differences of losses, which keep fewer digits than the losses"
CPU = torch.device("cpu")
TASK = mock_task()
EPOCHS, BATCH = 2, 12
QUERIES = 10


@contextmanager
def opened(meter: Meter | None = None, number_format: str = "fp32", **settings: Any) -> Iterator[QueryLearner]:
    torch.manual_seed(0)
    method = BlackVIP(BlackVIPConfig(encoder="mini_clip", **settings))
    with open_learner(method, tiny_backbone(), TASK.spec, CPU, number_format, meter or Meter(), QueryConfig()) as learner:
        assert isinstance(learner, QueryLearner)
        yield learner


def training_data(augment: str = "none", epochs: int = EPOCHS, history: list[Epoch] | None = None) -> TrainingData:
    transform = dataclasses.replace(TASK.transform, augment=augment)
    train = Batches(TASK.train, transform, BATCH, CPU, torch.Generator().manual_seed(0))
    recipe = Train(epochs=epochs, batch_size=BATCH, warmup_epochs=0)
    report = (history if history is not None else []).append
    return TrainingData(train, Batches(TASK.val, TASK.transform, BATCH, CPU), recipe, TASK.spec.class_names, report)


def method_of(learner: QueryLearner) -> BlackVIP:
    assert isinstance(learner.method, BlackVIP)
    return learner.method


def vector(method: BlackVIP) -> Tensor:
    return torch.nn.utils.parameters_to_vector(method.decoder.parameters()).detach().clone()


def one_step(learner: QueryLearner) -> SPSA:
    """Take one step on the first batch of the training data."""
    method = method_of(learner)
    optimizer = SPSA(vector(method), method.config.spsa)
    images, labels = next(iter(training_data().train))
    method.step(learner.handle, optimizer, images, method._encoded(images), labels)
    return optimizer


@pytest.mark.parametrize("one_sided", [False, True])
def test_a_step_asks_for_its_batch_under_every_candidate(one_sided: bool) -> None:
    meter = Meter()
    with opened(meter, spsa=SPSAConfig(one_sided=one_sided)) as learner:
        learner.fit(training_data())
    images = EPOCHS * len(TASK.train.labels)
    assert meter.counts["train"]["images"] == images * (6 if one_sided else QUERIES)


def test_the_queries_of_a_step_go_out_together_unless_the_released_order_is_asked_for() -> None:
    calls = []
    for sequential in (False, True):
        meter = Meter()
        with opened(meter, spsa=SPSAConfig(sequential_exact=sequential)) as learner:
            one_step(learner)
        calls.append(meter.counts["train"]["calls"])
    assert calls == [1, QUERIES]


def test_images_that_never_change_are_encoded_once_for_all_passes() -> None:
    with opened() as learner:
        learner.fit(training_data(epochs=3))
        assert learner.images_encoded() == len(TASK.train.labels)


def test_augmented_images_are_encoded_once_per_view() -> None:
    with opened() as learner:
        learner.fit(training_data("flip", epochs=3))
        assert learner.images_encoded() == 3 * len(TASK.train.labels)


def test_a_prediction_encodes_and_asks_once_per_image() -> None:
    meter = Meter(phase="test")
    with opened(meter) as learner:
        learner.predict(Batches(TASK.test, TASK.transform, BATCH, CPU))
        assert learner.images_encoded() == meter.counts["test"]["images"] == len(TASK.test.labels)


def test_a_prediction_does_not_depend_on_the_other_images_of_its_batch() -> None:
    with opened() as learner:
        learner.fit(training_data())
        scores = [learner.predict(Batches(TASK.test, TASK.transform, size, CPU)) for size in (BATCH, 5)]
    assert_near(*scores)


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_training_lowers_the_loss(augment: str) -> None:
    history: list[Epoch] = []
    with opened(spsa=SPSAConfig(step=0.03)) as learner:
        learner.fit(training_data(augment, epochs=15, history=history))
    losses = [epoch.loss for epoch in history]
    assert len(losses) == 15 and sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_together_and_one_at_a_time_give_the_same_estimate_when_batchnorm_is_frozen() -> None:
    estimates = []
    for sequential in (False, True):
        with opened(spsa=SPSAConfig(sequential_exact=sequential, perturbation=0.1)) as learner:
            learner.method.eval()
            estimates.append(one_step(learner).gradient)
    assert_near(estimates[0], estimates[1], 1e-3, OF_DIFFERENCES)


def test_both_ways_leave_the_same_running_statistics() -> None:
    states = []
    for sequential in (False, True):
        with opened(spsa=SPSAConfig(sequential_exact=sequential)) as learner:
            learner.fit(training_data(epochs=1))
            states.append(learner.state())
    assert states[0]["decoder.body.2.num_batches_tracked"] == len(TASK.train.labels) // BATCH * QUERIES
    for name in (name for name in states[0] if "running" in name):
        assert_near(states[0][name], states[1][name], 1e-2, OF_DIFFERENCES)


def test_fewer_images_at_the_same_time_are_more_calls_and_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    solutions, calls = [], []
    for limit in (2**30, 3 * BATCH * 3 * SIZE**2 * 4):
        monkeypatch.setattr(blackvip, "CALL_BYTES", limit)
        meter = Meter()
        with opened(meter) as learner:
            solutions.append(one_step(learner).vector)
        calls.append(meter.counts["train"]["calls"])
    assert calls == [1, 4]  # 3 + 3 + 3 + 1 candidates
    assert_near(*solutions, 1e-3, OF_DIFFERENCES)


def test_after_a_step_the_decoder_holds_the_solution() -> None:
    with opened() as learner:
        before = vector(method_of(learner))
        solution = one_step(learner).vector
        assert torch.equal(vector(method_of(learner)), solution) and not torch.equal(solution, before)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_refused_query_leaves_everything_as_the_last_step_did(sequential: bool) -> None:
    """This holds even if some queries of the step were answered, and although the decoder has run for the refused ones."""
    with opened(Meter(Budget(images=BATCH * QUERIES * 3 // 2)), spsa=SPSAConfig(sequential_exact=sequential)) as learner:
        one_step(learner)
        before = learner.state()
        with pytest.raises(BudgetExceeded):
            one_step(learner)
        assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().items())


def test_prompted_images_keep_the_models_size_and_its_range_of_colours() -> None:
    with opened(p_eps=1000.0) as learner:
        images, _ = next(iter(training_data().train))
        prompted = method_of(learner)._prompted(images, method_of(learner)._encoded(images))
    assert prompted.shape == images.shape == (BATCH, 3, SIZE, SIZE)
    assert prompted.min() == -1 and prompted.max() == 1  # of a mean and a standard deviation of one half


def test_what_was_learned_loads_beside_the_same_encoder() -> None:
    with opened() as learner, opened() as fresh:
        one_step(learner)
        fresh.load_state(learner.state())
        assert torch.equal(vector(method_of(fresh)), vector(method_of(learner)))


def test_what_was_learned_does_not_load_beside_an_encoder_of_other_weights() -> None:
    with opened(encoder_norm=True) as learner, opened() as fresh:
        before = fresh.state()
        with pytest.raises(CheckpointError, match=r"learned with method\.encoder=mini_clip weights \w{12}…, these are \w{12}…"):
            fresh.load_state(learner.state())
        assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state().items())


def test_of_the_encoder_only_the_checksum_is_stored() -> None:
    with opened() as learner:
        assert {name.split(".")[0] for name in learner.state()} == {"decoder", "encoder_sha256"}
        assert learner.parameter_counts() == (5440, 0)  # 16 px: two doublings, a feature of 128 in a source of 256


def test_the_encoder_multiplies_in_the_format_of_the_run() -> None:
    images = torch.randn(2, 3, 32, 32)
    rounded = []
    for number_format in ("fp32", "bf16"):
        with opened(number_format=number_format) as learner:
            rounded.append(method_of(learner)._encoded(images))
    assert rounded[1].dtype == torch.float32
    assert 0 < (rounded[0] - rounded[1]).abs().max() < 0.05 * rounded[0].abs().max()


def test_a_source_that_the_grid_cannot_hold_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="src_dim must be a multiple of 16 above the encoder's 128 features, got 100"),
        opened(src_dim=100),
    ):
        pass


@pytest.mark.parametrize(("field", "value"), [("p_eps", 0.0), ("src_dim", 0)])
def test_a_setting_that_cannot_work_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must"):
        BlackVIPConfig(**{field: value})
