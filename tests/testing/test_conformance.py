"""The conformance kit over every registered method, and over broken ones that it must catch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench import Access, GradientMethod, QueryMethod, QueryModel, TrainingData
from petlbench.access.handle import _grants
from petlbench.config.resolve import method_names
from petlbench.errors import AccessError
from petlbench.registry import METHODS
from petlbench.testing import MethodConformance

# More steps than its recipe has for 400 images: with 160, 21 steps of SPSA lower the cross entropy by 9 percent only, these by 20.
WORDS = {"vp_spsa": ("train.batch_size=16",)}

for _name in METHODS.names():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (MethodConformance,), {"method": _name, "words": WORDS.get(_name, ())})

for _name in sorted(set(method_names()) - set(METHODS.names())):  # presets: the same code under other settings, so in the longer run only
    globals()[f"Test_{_name}"] = pytest.mark.slow(type(f"Test_{_name}", (MethodConformance,), {"method": _name}))


Plugin = Callable[..., type]


def _case(name: str) -> MethodConformance:
    return type("Case", (MethodConformance,), {"method": name})()


class Shift(QueryMethod):
    """A sound method: adds to the scores what a few steps of gradient descent find."""

    access = Access.SCORES

    def build(self, model: QueryModel) -> None:
        self.shift = nn.Parameter(torch.zeros(len(model.class_names)))

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        optimizer = torch.optim.SGD([self.shift], lr=0.2)
        for _ in range(data.recipe.epochs):
            for images, labels in data.train:
                nn.functional.cross_entropy(model.scores(images) + self.shift, labels).backward()
                optimizer.step()
                optimizer.zero_grad()

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images) + self.shift


def test_a_sound_method_passes(plugin: Plugin, tmp_path: Path) -> None:
    plugin("shift", Shift)
    case = _case("shift")
    case.min_gain = 1.0  # type: ignore[misc]  # a shift of all scores cannot do more here
    for name in [name for name in dir(case) if name.startswith("test_") and not name.endswith("fresh_process")]:  # which does not know it
        getattr(case, name)(*([tmp_path] if "tmp_path" in inspect.signature(getattr(case, name)).parameters else []))


class Idle(Shift):
    """Learns nothing, and stores what it was made with."""

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        pass


def test_a_method_that_does_nothing_is_caught(plugin: Plugin, tmp_path: Path) -> None:
    plugin("idle", Idle)
    case = _case("idle")
    with pytest.raises(AssertionError, match="training changed nothing"):
        case.test_only_what_is_stored_trains()
    with pytest.raises(AssertionError, match="the same after training"):
        case.test_training_changes_its_predictions()
    with pytest.raises(AssertionError, match="3 parameters are counted as trainable, training changed 0"):
        case.test_trainable_count_is_what_was_trained_and_stored()
    with pytest.raises(AssertionError, match="cross entropy of training images is"):
        case.test_it_learns_the_mini_suite(tmp_path)


class Claimant(Shift):
    """Says how many images its own models have seen."""

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        super().fit(model, data)
        self.images_encoded = 0


def test_a_method_that_claims_a_count_is_caught(plugin: Plugin) -> None:
    plugin("claimant", Claimant)
    with pytest.raises(AssertionError, match="counted by the harness"):
        _case("claimant").test_it_leaves_counting_to_the_harness()


class Keeper(Shift):
    """Keeps the model that ``fit`` is given for later."""

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        self.kept = model
        super().fit(model, data)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return super().predict(self.kept if hasattr(self, "kept") else model, images)


def test_a_method_that_keeps_the_model_of_another_function_is_caught(plugin: Plugin) -> None:
    plugin("keeper", Keeper)
    with pytest.raises(AccessError, match="after the function that was given the model had returned"):
        _case("keeper").test_training_changes_its_predictions()


class Wanderer(Shift):
    """Changes what it stores, for the worse."""

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        with torch.no_grad():
            self.shift += torch.linspace(0, 1, len(self.shift))


def test_a_method_that_changes_and_does_not_learn_is_caught(plugin: Plugin, tmp_path: Path) -> None:
    plugin("wanderer", Wanderer)
    case = _case("wanderer")
    case.test_only_what_is_stored_trains()
    with pytest.raises(AssertionError, match="cross entropy of training images is"):
        case.test_it_learns_the_mini_suite(tmp_path)


class Modest(Shift):
    """Says that it does not learn, and does."""

    learns = False


def test_a_method_that_says_that_it_does_not_learn_and_does_is_caught(plugin: Plugin) -> None:
    plugin("modest", Modest)
    case = _case("modest")
    with pytest.raises(AssertionError, match=r"learns = False trained .*shift"):
        case.test_only_what_is_stored_trains()
    with pytest.raises(AssertionError, match="learns = False, but predictions change"):
        case.test_training_changes_its_predictions()


def test_a_method_that_says_that_it_does_not_learn_and_stores_something_is_caught(plugin: Plugin) -> None:
    plugin(
        "hoarder", type("Hoarder", (Idle,), {"learns": False, "build": lambda self, model: self.register_buffer("kept", torch.zeros(3))})
    )
    with pytest.raises(AssertionError, match="learns = False stores kept"):
        _case("hoarder").test_trainable_count_is_what_was_trained_and_stored()


class Forgetful(Shift):
    """What it learns is in a place that is not stored, which ``hold`` chooses."""

    def hold(self, shift: Tensor) -> None:
        raise NotImplementedError

    def held(self) -> Tensor:
        raise NotImplementedError

    def build(self, model: QueryModel) -> None:
        self.hold(torch.zeros(len(model.class_names)))

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        self.held().copy_(torch.arange(len(model.class_names)))

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images) + self.held()


class InABuffer(Forgetful):
    def hold(self, shift: Tensor) -> None:
        self.register_buffer("shift", shift, persistent=False)

    def held(self) -> Tensor:
        return self.shift


class InAnAttribute(Forgetful):
    def hold(self, shift: Tensor) -> None:
        self.shift = shift  # type: ignore[assignment]

    def held(self) -> Tensor:
        return self.shift


class InANewTensor(InAnAttribute):
    def fit(self, model: QueryModel, data: TrainingData) -> None:
        self.shift = torch.arange(len(model.class_names)).float()  # type: ignore[assignment]


class InAList(Forgetful):
    def hold(self, shift: Tensor) -> None:
        self.parts = [{"shift": nn.Parameter(shift)}]  # torch does not look into lists

    def held(self) -> Tensor:
        return self.parts[0]["shift"].detach()


class InAClosure(Forgetful):
    def hold(self, shift: Tensor) -> None:
        self.held = lambda: shift  # type: ignore[method-assign]


SHIFTS: list[Tensor] = []


class InAGlobal(Forgetful):
    def hold(self, shift: Tensor) -> None:
        SHIFTS[:] = [shift]

    def held(self) -> Tensor:
        return SHIFTS[0]


@pytest.mark.parametrize("method", [InABuffer, InAnAttribute, InANewTensor, InAList, InAClosure, InAGlobal])
def test_a_method_that_trains_what_it_does_not_store_is_caught(plugin: Plugin, method: type[Forgetful]) -> None:
    plugin("forgetful", method)
    with pytest.raises(AssertionError, match="trained but not stored: "):
        _case("forgetful").test_only_what_is_stored_trains()


class Momentum(nn.Module):
    """A layer with a running mean that is not stored."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width), persistent=False)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=(0, 1))
        return self.scale * (x - self.mean)


class Drifting(GradientMethod):
    def adapt(self, vit: Any) -> None:
        vit.norm = nn.Sequential(vit.norm, Momentum(vit.embed_dim))


def test_a_network_that_trains_what_it_does_not_store_is_caught(plugin: Plugin) -> None:
    plugin("drifting", Drifting)
    with pytest.raises(AssertionError, match=r"trained but not stored: .*mean"):
        _case("drifting").test_only_what_is_stored_trains()


READER_OF_THESE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from petlbench import register_method
from tests.testing import test_conformance as these
from petlbench.testing.conformance import answer_with_scores
for name in ("InABuffer", "InAnAttribute", "Drifting", "Shift"):
    register_method(name)(getattr(these, name))
answer_with_scores()
"""


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process knows the methods of this module."""
    monkeypatch.setattr("petlbench.testing.conformance._READER", READER_OF_THESE)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("method", [InABuffer, InAnAttribute, Drifting])
def test_state_that_is_not_restored_is_caught(plugin: Plugin, method: type) -> None:
    plugin(method.__name__, method)
    with pytest.raises(AssertionError, match="predictions in another process differ"):
        _case(method.__name__).test_what_it_learned_survives_a_fresh_process()


@pytest.mark.usefixtures("reader")
def test_state_that_is_restored_is_not(plugin: Plugin) -> None:
    plugin("Shift", Shift)
    _case("Shift").test_what_it_learned_survives_a_fresh_process()


def test_a_checkpoint_that_the_fresh_process_cannot_load_is_caught(plugin: Plugin) -> None:
    plugin("unheard_of", Shift)
    with pytest.raises(AssertionError, match="no method 'unheard_of'"):
        _case("unheard_of").test_what_it_learned_survives_a_fresh_process()


class Encoding(Shift):
    """Counts and stores an encoder that is never trained."""

    def build(self, model: QueryModel) -> None:
        super().build(model)
        self.encoder = nn.Linear(2, 2)


def test_a_method_that_counts_what_it_does_not_train_is_caught(plugin: Plugin) -> None:
    plugin("encoding", Encoding)
    with pytest.raises(AssertionError, match="9 parameters are counted as trainable, training changed 3"):
        _case("encoding").test_trainable_count_is_what_was_trained_and_stored()


class Vandal(GradientMethod):
    def adapt(self, vit: nn.Module) -> None:
        with torch.no_grad():
            next(vit.parameters()).add_(1.0)  # shared storage


def test_a_method_that_writes_into_the_backbone_is_caught(plugin: Plugin) -> None:
    plugin("vandal", Vandal)
    with pytest.raises(AssertionError):
        _case("vandal").test_the_backbone_is_untouched()


class Dice(Idle):
    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images) + torch.rand(1, generator=torch.Generator().manual_seed(torch.seed()))


def test_a_method_that_ignores_its_seed_is_caught(plugin: Plugin) -> None:
    plugin("dice", Dice)
    with pytest.raises(AssertionError):
        _case("dice").test_it_is_deterministic_under_a_seed()


LOOT: list[Any] = []


class Smuggler(Idle):
    """Keeps what it finds behind the private names of the access layer, in a place that ``keep`` chooses."""

    def keep(self, backbone: Any) -> None:
        self.loot = {"deep": [backbone]}

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        grant = _grants.redeem(model.ticket)
        assert grant is not None
        self.keep(grant.endpoint._backbone)  # type: ignore[attr-defined]


class ByAClosure(Smuggler):
    def keep(self, backbone: Any) -> None:
        self.loot = lambda: backbone  # type: ignore[assignment]


class ByAGlobal(Smuggler):
    def keep(self, backbone: Any) -> None:
        LOOT.append(backbone)


class ByAView(Smuggler):
    def keep(self, backbone: Any) -> None:
        self.loot = next(backbone.vit.parameters()).detach()  # type: ignore[assignment]


@pytest.mark.parametrize("method", [Smuggler, ByAClosure, ByAGlobal, ByAView])
def test_a_method_that_smuggles_a_parameter_out_is_caught(plugin: Plugin, method: type[Smuggler]) -> None:
    plugin("smuggler", method)
    with pytest.raises(AssertionError, match="a parameter of the model is reached by method"):
        _case("smuggler").test_it_did_not_reach_above_its_rung()
    LOOT.clear()


def test_a_table_of_grants_that_holds_the_model_is_caught(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.access.tickets.weakref.ref", lambda thing: lambda: thing)
    plugin("shift", Shift)
    with pytest.raises(AssertionError, match=r"a parameter of the model is reached by .*_grants"):
        _case("shift").test_it_did_not_reach_above_its_rung()
