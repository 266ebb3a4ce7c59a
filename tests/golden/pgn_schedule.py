"""PGN's learning rate in every epoch."""

from __future__ import annotations

import torch

from petlbench.config.settings import Train
from petlbench.optim.schedule import PGN_END, learning_rate
from tests.golden.case import Case


def check(case: Case) -> None:
    for number, settings in enumerate(case.config["cases"]):
        recipe = Train(
            epochs=settings["epochs"],
            learning_rate=settings["lr"],
            min_learning_rate=0.0 if settings["final_fraction"] == PGN_END else settings["lr"] * settings["final_fraction"],
            schedule="pgn_cosine",
            warmup_epochs=settings["warmup_epochs"],
        )
        rates = torch.tensor([learning_rate(epoch, recipe) for epoch in range(recipe.epochs)])
        case.check(f"expected.lr.{number}", rates, **case.description["tolerances"]["all"])
