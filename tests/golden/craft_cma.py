"""CraFT: a whole collaborative run, driven by recorded populations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from petlbench.access.handle import QueryModel
from petlbench.config.settings import Train
from petlbench.data.batches import TrainingData
from petlbench.methods import craft
from petlbench.optim.loop import Epoch
from tests.golden.case import Case
from tests.golden.craft_model import KINDS, compare, granted


@dataclass
class Replay:
    """A strategy that proposes what was recorded: per iteration a population to judge and one that only sets the context."""

    populations: Tensor  # (iterations, P, d)
    further: Tensor  # (iterations, P, d)
    told: list[tuple[np.ndarray, list[float]]] = field(default_factory=list)
    asked: int = 0
    stopped = False

    def ask(self) -> np.ndarray:
        recorded = self.further if self.asked % 2 else self.populations
        self.asked += 1
        return recorded[(self.asked - 1) // 2].double().numpy()

    def tell(self, candidates: np.ndarray, fitness: list[float]) -> None:
        self.told.append((candidates, fitness))

    @property
    def best(self) -> np.ndarray:
        every = np.concatenate([fitness for _, fitness in self.told])
        return np.concatenate([candidates for candidates, _ in self.told])[every.argmin()]

    @property
    def mean(self) -> np.ndarray:
        raise NotImplementedError


@dataclass
class Recorded:
    """Images as the released loop had them: normalised, in a fixed order and in consecutive blocks."""

    pixels: Tensor
    labels: Tensor
    batch_size: int
    is_deterministic = True

    def order(self) -> Iterator[Tensor]:
        yield from torch.arange(len(self.labels)).split(self.batch_size)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.order():
            yield self.pixels[rows], self.labels[rows]


def check(case: Case) -> None:
    for kind in KINDS:
        with granted(case, kind) as model:
            _check_run(case, model)


def _check_run(case: Case, model: QueryModel) -> None:
    method, replay = _method(case, model), Replay(case.tensors["populations"], case.tensors["bias_populations"])
    steps: list[dict[str, Any]] = []  # of every epoch of the network
    reports: list[dict[str, Any]] = []
    initial, test = model.context, case.tensors["test_images"]

    def report(_epoch: Epoch) -> None:
        with torch.no_grad():
            logits = method.predict(model, test)
        head = {name: parameter.detach().clone() for name, parameter in method.net.named_parameters()}
        reports.append({"bias": method.context - initial, "best": torch.from_numpy(replay.best), "logits": logits, "head": head})

    def train_epoch(net: Any, optimizer: Any, answers: Any, weight: float) -> Tensor:
        _check_adam(case, optimizer)
        losses = _real(net, optimizer, answers, weight)
        steps.append({"losses": losses, "weight": weight})
        return losses

    _real = craft.train_epoch
    first: dict[str, Tensor] = {}
    for name, parameter in method.net.named_parameters():
        parameter.register_hook(partial(_keep_first, first, name))
    train = Recorded(case.tensors["train_images"], case.tensors["train_labels"], case.config["batch_size"])
    data = TrainingData(
        train, train, Train(epochs=case.config["iterations"], warmup_epochs=0, batch_size=train.batch_size), model.class_names, report
    )
    with patch.object(craft, "train_epoch", train_epoch):
        method.tune(model, data, replay, case.tensors["projection.weight"])

    assert len(reports) == case.config["iterations"]
    compare(case, "fitness", torch.tensor([fitness for _, fitness in replay.told]))
    compare(case, "bias", torch.stack([seen["bias"] for seen in reports]))
    compare(case, "xbest", torch.stack([seen["best"] for seen in reports]).float())
    always = replace(method.config, weight=1.0)  # the weights of a case with lambda_ = 0 show nothing
    active = [int(always.weight_in(epoch, len(steps))) for epoch in range(len(steps))]
    compare(case, "reg_active", torch.tensor(active))
    assert [seen["weight"] for seen in steps] == [case.config["lambda_"] * on for on in active]
    compare(case, "head_losses", torch.stack([seen["losses"] for seen in steps]))
    logits = torch.stack([seen["logits"] for seen in reports])
    compare(case, "test_logits", logits)
    compare(case, "test_accuracy", 100.0 * (logits.argmax(dim=-1) == case.tensors["test_labels"]).float().mean(dim=1))
    for name, gradient in first.items():
        compare(case, f"head_grad_first_step.{name}", gradient)
        compare(case, f"head_after_iter1.{name}", reports[0]["head"][name])
        compare(case, f"head_final.{name}", reports[-1]["head"][name])


def _check_adam(case: Case, optimizer: torch.optim.Optimizer) -> None:
    assert isinstance(optimizer, torch.optim.Adam)
    expected = {"lr": case.config["lr"], **case.config["adam"], "betas": tuple(case.config["adam"]["betas"])}
    assert {name: optimizer.defaults[name] for name in expected} == expected


def _keep_first(seen: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    seen.setdefault(name, gradient.clone())


def _method(case: Case, model: QueryModel) -> craft.Craft:
    config = case.config
    method = craft.Craft(
        craft.CraftConfig(
            intrinsic_dim=config["intrinsic_dim"],
            population=config["population"],
            budget=config["budget"],
            sigma=config["sigma0"],
            bound=config["bound"] or None,
            projection_std=config["projection_std"],
            weight=config["lambda_"],
            cutoff=config["n"],
            hidden=config["hidden"],
            head_learning_rate=config["lr"],
            head_input="api_logits" if config["head_features_normalised"] else "released_unnormalised",
        )
    )
    method.build(model)
    method.net.load_state_dict(case.below("net.") | {"has_learned": torch.tensor(False)})
    return method
