"""Drive methods through the harness: what it stores, what it leaves unchanged, what it counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench import Access, GradientMethod, QueryMethod, QueryModel, TrainingData
from petlbench.access.meter import Meter
from petlbench.config.settings import Train
from petlbench.data.batches import Batches
from petlbench.errors import AccessError, CheckpointError
from petlbench.learners import GradientLearner, QueryLearner, load_into, open_learner
from petlbench.method import Method, NoConfig
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.near import assert_near

CPU = torch.device("cpu")
TASK = mock_task()
RECIPE = Train(epochs=2, batch_size=12, warmup_epochs=0, learning_rate=0.1)


class Thawed(GradientMethod):
    """Trains one matrix of the backbone itself."""

    def adapt(self, vit: Any) -> None:
        vit.blocks[0].mlp.fc1.weight.requires_grad_(True)


class Normalised(Thawed):
    """Its head has running statistics without parameters, as AdaptFormer's does."""

    def build_head(self, feature_width: int, class_count: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(feature_width, affine=False), nn.Linear(feature_width, class_count))


class Asks(QueryMethod):
    """Queries features once per epoch and keeps the handle, which methods should not do."""

    access = Access.FEATURES

    def build(self, model: QueryModel) -> None:
        self.head = nn.Linear(model.feature_width, len(model.class_names))
        self.other = nn.Parameter(torch.zeros(5))

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        self.kept = model
        for images, _ in data.train.in_order():
            model.features(images)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return self.head(model.features(images))


def made(method: type[Method]) -> Any:
    method.name = method.__name__
    return method(NoConfig())


def batches(split: str = "test") -> Batches:
    return Batches(getattr(TASK, split), TASK.transform, 8, CPU)


def data() -> TrainingData:
    train = Batches(TASK.train, TASK.transform, RECIPE.batch_size, CPU, torch.Generator().manual_seed(0))
    return TrainingData(train, batches("val"), RECIPE, TASK.spec.class_names, lambda epoch: None)


def gradient_learner(method: type[GradientMethod], backbone: Any = None) -> GradientLearner:
    return GradientLearner(made(method), backbone or tiny_backbone(), TASK.spec, CPU, "fp32")


def test_training_a_thawed_parameter_leaves_the_backbone_alone() -> None:
    backbone = tiny_backbone()
    checksum, before = backbone.checksum(), backbone.vit.blocks[0].mlp.fc1.weight.clone()  # type: ignore[index]
    learner = gradient_learner(Thawed, backbone)
    learner.fit(data())
    assert not torch.equal(learner.model.vit.blocks[0].mlp.fc1.weight, before)  # type: ignore[index]
    assert backbone.checksum() == checksum


def test_only_what_was_learned_is_stored() -> None:
    assert set(gradient_learner(Thawed).state()) == {"vit.blocks.0.mlp.fc1.weight", "head.weight", "head.bias"}


def test_parameters_of_the_head_are_counted_apart() -> None:
    assert gradient_learner(Thawed).parameter_counts() == (32 * 128, 32 * 3 + 3)


def test_running_statistics_that_a_method_brings_survive_storing() -> None:
    learner = gradient_learner(Normalised)
    learner.fit(data())
    fresh = gradient_learner(Normalised)
    fresh.load_state(learner.state())
    assert torch.equal(fresh.predict(batches()), learner.predict(batches()))


def test_a_stored_state_does_not_follow_further_training() -> None:
    learner = gradient_learner(Thawed)
    state = learner.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    learner.fit(data())
    assert all(torch.equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("head.bias"), r"lacks head\.bias"),
        (lambda state: state.update({"head.extra": torch.zeros(1)}), r"has unexpected head\.extra"),
        (lambda state: state.update({"head.bias": torch.zeros(7)}), r"head\.bias has shape \(7,\) in the checkpoint, expected \(3,\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name(change: Any, expected: str) -> None:
    learner = gradient_learner(Thawed)
    state = learner.state()
    change(state)
    with pytest.raises(CheckpointError, match=expected):
        learner.load_state(state)


def test_many_missing_names_are_cut_short() -> None:
    with pytest.raises(CheckpointError, match=r"lacks 0, 1, 2, 3, 4 and others$"):
        load_into({str(index): torch.zeros(1) for index in range(9)}, {})


def test_the_images_of_every_forward_pass_are_counted_and_measuring_is_not() -> None:
    learner = gradient_learner(Thawed)
    learner.fit(data())
    learner.predict(batches())
    assert learner.flops_per_image() > 0
    assert learner.images_forwarded() == RECIPE.epochs * 36 + 24


def opened(method: type[Method], backbone: Any = None, meter: Meter | None = None) -> Any:
    return open_learner(made(method), backbone or tiny_backbone(), TASK.spec, CPU, "fp32", meter or Meter())


def test_the_images_of_a_query_method_are_counted_while_it_runs() -> None:
    backbone = tiny_backbone()
    with opened(Asks, backbone) as learner:
        learner.fit(data())
        assert learner.images_forwarded() == 36
        learner.predict(batches())
        assert learner.images_forwarded() == 36 + 24
    backbone.vit(torch.zeros(1, 3, 16, 16))
    assert learner.images_forwarded() == 60, "counted on after the run"


def test_a_handle_that_a_method_kept_is_dead_after_the_run() -> None:
    with opened(Asks) as learner:
        learner.fit(data())
    with pytest.raises(AccessError):
        learner.method.kept.features(torch.zeros(1, 3, 16, 16))


def test_a_query_methods_head_is_what_it_calls_head() -> None:
    with opened(Asks) as learner:
        assert learner.parameter_counts() == (5, 32 * 3 + 3)


def test_a_method_that_is_asked_in_the_middle_of_training_goes_on_training() -> None:
    with opened(Asks) as learner:
        assert isinstance(learner, QueryLearner)
        learner.method.train()
        learner.predict(batches())
        assert learner.method.training
    gradient = gradient_learner(Thawed)
    gradient.model.train()
    gradient.predict(batches())
    assert gradient.model.training


def test_a_part_that_a_method_put_to_evaluation_stays_there_after_a_look() -> None:
    learner = gradient_learner(Normalised)
    learner.model.train()
    statistics = learner.model.head[0].eval()  # type: ignore[index, union-attr]
    learner.predict(batches())
    assert learner.model.training and not statistics.training


def test_predictions_are_those_of_evaluation_mode() -> None:
    class Dropping(Thawed):
        def build_head(self, feature_width: int, class_count: int) -> nn.Module:
            return nn.Sequential(nn.Dropout(0.5), nn.Linear(feature_width, class_count))

    learner = gradient_learner(Dropping)
    learner.model.train()
    assert torch.equal(learner.predict(batches()), learner.predict(batches()))


class Overreaching(Thawed):
    access = Access.FEATURES


class Understated(Asks):
    access = Access.WEIGHTS


@pytest.mark.parametrize("method", [Overreaching, Understated])
def test_a_rung_that_does_not_fit_the_kind_of_method_is_refused(method: type[Method]) -> None:
    with pytest.raises(AccessError, match="declares access"), opened(method):
        pass


class Last(GradientMethod):
    """Trains the last block."""

    def adapt(self, vit: Any) -> None:
        vit.blocks[-1].requires_grad_(True)


class Prepared(GradientMethod):
    """Chooses a block using the task's images."""

    def prepare(self, vit: Any, head: nn.Module, data: TrainingData) -> dict[str, Tensor]:
        torch.rand(3)
        head(vit(data.train.images(torch.arange(5))))
        return {"block": torch.tensor(1)}

    def adapt(self, vit: Any) -> None:
        vit.blocks[int(self.plan["block"])].requires_grad_(True)


def trained_last(**changes: Any) -> GradientLearner:
    torch.manual_seed(0)
    learner = gradient_learner(Last)
    learner.fit(dataclasses.replace(data(), **changes))
    return learner


def test_blocks_below_the_first_touched_one_run_once_for_all_epochs_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = trained_last()
    monkeypatch.setattr("petlbench.learners.gradient.untouched_blocks", lambda before, after: 0)
    plain = trained_last()
    assert (cached.images_forwarded(), plain.images_forwarded()) == (len(TASK.train), 2 * len(TASK.train))
    for name, tensor in plain.state().items():
        assert_near(cached.state()[name], tensor)


def test_a_validation_split_that_is_looked_at_in_every_epoch_enters_the_frozen_part_once() -> None:
    torch.manual_seed(0)
    learner, held = gradient_learner(Last), batches("val")
    scores: list[Tensor] = []
    watched = dataclasses.replace(data(), val=held, log_epoch=lambda epoch: scores.append(learner.predict(held)))
    learner.fit(watched)
    assert learner.images_forwarded() == len(TASK.train) + len(TASK.val)
    assert_near(scores[-1], learner.predict(held))


@pytest.mark.parametrize("change", ["augment", "drop_path"])
def test_frozen_blocks_run_anew_when_their_inputs_or_they_themselves_are_random(change: str) -> None:
    varied = data()
    if change == "augment":
        varied.train.transform = dataclasses.replace(TASK.transform, augment="flip")
    else:
        varied = dataclasses.replace(varied, recipe=dataclasses.replace(RECIPE, drop_path=0.1))
    learner = gradient_learner(Last)
    learner.fit(varied)
    assert learner.images_forwarded() == 2 * len(TASK.train)


def test_activations_that_exceed_their_memory_give_the_same_result() -> None:
    states = [trained_last(cache_mb=limit).state() for limit in (0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_recomputing_activations_gives_the_same_result() -> None:
    plain, frugal = (trained_last(recipe=dataclasses.replace(RECIPE, checkpoint_activations=flag)).state() for flag in (False, True))
    for name, tensor in plain.items():
        assert_near(frugal[name], tensor)


def test_drop_path_rises_over_the_blocks_and_acts_in_training_only() -> None:
    learner = gradient_learner(Thawed)
    learner.fit(dataclasses.replace(data(), recipe=dataclasses.replace(RECIPE, drop_path=0.4)))
    rates = [block.drop_path2.drop_prob for block in learner.model.vit.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    assert torch.equal(learner.predict(batches()), learner.predict(batches()))


def test_what_a_method_finds_out_is_stored_and_decides_its_network_in_a_fresh_learner() -> None:
    learner = gradient_learner(Prepared)
    learner.fit(data())
    state = learner.state()
    assert state["plan.block"] == 1
    assert {name.split(".")[2] for name in state if name.startswith("vit.blocks.")} == {"1"}
    fresh = gradient_learner(Prepared)
    fresh.load_state(state)
    assert torch.equal(fresh.predict(batches()), learner.predict(batches()))


def test_images_that_a_method_looks_at_beforehand_are_counted_and_its_dice_change_no_training() -> None:
    def first_head(method: type[GradientMethod]) -> Tensor:
        torch.manual_seed(0)
        learner = gradient_learner(method)
        learner.prepare(data())
        return learner.model.head.weight.clone()  # type: ignore[union-attr, operator]

    class Idle(Prepared):
        def prepare(self, vit: Any, head: nn.Module, data: TrainingData) -> dict[str, Tensor]:
            return {"block": torch.tensor(1)}

    assert torch.equal(first_head(Prepared), first_head(Idle))
    learner = gradient_learner(Prepared)
    learner.fit(data())
    assert learner.images_forwarded() == 5 + len(TASK.train)  # block 0 stays frozen and runs once


def test_in_bf16_frozen_matrices_are_rounded_once_for_all_runs_and_what_trains_stays_in_fp32() -> None:
    backbone = tiny_backbone()
    learners = [GradientLearner(made(Last), backbone, TASK.spec, CPU, "bf16") for _ in range(2)]
    frozen = [learner.model.vit.blocks[0].mlp.fc1.weight for learner in learners]  # type: ignore[index]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert frozen[0].data_ptr() == frozen[1].data_ptr()
    learners[0].fit(data())
    assert {tensor.dtype for tensor in learners[0].state().values()} == {torch.float32}
    assert backbone.vit.blocks[0].mlp.fc1.weight.dtype == torch.float32  # type: ignore[index]
    exact = GradientLearner(made(Last), backbone, TASK.spec, CPU, "fp32")
    exact.load_state(learners[0].state())
    assert_near(exact.predict(batches()), learners[0].predict(batches()), 0.05, "bf16 keeps three digits of what every layer computes")
