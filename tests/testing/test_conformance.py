"""The conformance kit over every registered method, and over broken ones that it must catch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from petlbench import Access, GradientMethod, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.config.resolve import method_names
from petlbench.method import NoConfig
from petlbench.registry import METHODS
from petlbench.testing import MethodConformance

for _name in METHODS.names():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (MethodConformance,), {"method": _name})

for _name in sorted(set(method_names()) - set(METHODS.names())):  # presets: the same code under other settings, so in the longer run only
    globals()[f"Test_{_name}"] = pytest.mark.slow(type(f"Test_{_name}", (MethodConformance,), {"method": _name}))


@pytest.fixture
def registered() -> Iterator[list[str]]:
    """Names that a test registers; they are forgotten afterwards."""
    names: list[str] = []
    yield names
    for name in names:
        METHODS._targets.pop(name, None)
        METHODS._origins.pop(name, None)


def _case(name: str) -> MethodConformance:
    return type("Case", (MethodConformance,), {"method": name})()


def test_a_method_that_writes_into_the_backbone_is_caught(registered: list[str]) -> None:
    registered.append("vandal")

    @register_method("vandal", NoConfig)
    class Vandal(GradientMethod):
        def adapt(self, vit: nn.Module) -> None:
            with torch.no_grad():
                next(vit.parameters()).add_(1.0)  # shared storage

    with pytest.raises(AssertionError):
        _case("vandal").test_the_backbone_is_untouched()


def test_a_method_that_ignores_its_seed_is_caught(registered: list[str]) -> None:
    registered.append("dice")

    @register_method("dice", NoConfig)
    class Dice(QueryMethod):
        access = Access.SCORES

        def fit(self, model: QueryModel, data: TrainingData) -> None:
            pass

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.scores(images) + torch.rand(1, generator=torch.Generator().manual_seed(torch.seed()))

    with pytest.raises(AssertionError):
        _case("dice").test_it_is_deterministic_under_a_seed()


def test_a_method_that_learns_outside_its_parameters_is_caught(registered: list[str]) -> None:
    registered.append("forgetful")

    @register_method("forgetful", NoConfig)
    class Forgetful(QueryMethod):
        access = Access.SCORES

        def build(self, model: QueryModel) -> None:
            self.shift = torch.zeros(len(model.class_names))

        def fit(self, model: QueryModel, data: TrainingData) -> None:
            self.shift = torch.arange(len(model.class_names)).float() * 100  # not a parameter, so never saved

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.scores(images) + self.shift

    with pytest.raises(AssertionError):
        _case("forgetful").test_what_it_learned_survives_a_fresh_process()


def test_a_method_that_smuggles_a_parameter_out_is_caught(registered: list[str]) -> None:
    from petlbench.access.handle import _grants

    registered.append("smuggler")

    @register_method("smuggler", NoConfig)
    class Smuggler(QueryMethod):
        access = Access.SCORES

        def fit(self, model: QueryModel, data: TrainingData) -> None:
            self.loot = [_grants[model.ticket].endpoint._backbone]

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.scores(images)

    with pytest.raises(AssertionError, match="holds a parameter"):
        _case("smuggler").test_it_did_not_reach_above_its_rung()
