"""The baselines of BlackVIP: BAR and the border with SPSA-GC, forward passes and updates on a linear model, and the focal loss."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.methods.bar import BAR, BARConfig, decayed_rate
from petlbench.nn.visual_prompts import Border, focal_losses, losses_under
from petlbench.optim.rgf import RGF, RGFConfig
from petlbench.optim.spsa import SPSA, SPSAConfig
from tests.golden.case import Case

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def check(case: Case) -> None:
    focal = focal_losses(case.tensors["focal.logits"][None], case.tensors["label"], case.config["bar"]["focal"])
    _check_forward(case, "expected.focal", focal)
    _check_bar(case)
    _check_border(case)


@torch.no_grad()
def _check_bar(case: Case) -> None:
    settings, tensors, limits = case.config["bar"], case.tensors, case.description["tolerances"]["updates"]
    config = BARConfig(
        embedded_size=case.config["embedded"],
        learning_rate=settings["init_lr"],
        min_learning_rate=settings["min_lr"],
        focus=settings["focal"],
        rgf=RGFConfig(directions=settings["q"], smoothing=settings["beta"]),
    )
    method = BAR(config)
    model: Any = SimpleNamespace(input_size=case.config["frame"], scores=partial(_scores, case), **CLIP)
    method.build(model)
    method.program.copy_(tensors["bar.W"])
    embedded = method.embed(tensors["bar.image"])
    _check_forward(case, "expected.bar.programmed", embedded + method.frames(method.program.flatten()[None]))
    steps = range(1, case.config["steps"] + 1)
    rates = [decayed_rate(step, 0.9 * settings["total"], config.learning_rate, config.min_learning_rate) for step in steps]
    _check_forward(case, "expected.bar.lr", torch.tensor(rates))
    drawn = iter(tensors["bar.u"].flatten(0, 1))
    optimizer = RGF(method.program.flatten(), config.rgf, directions=lambda length: next(drawn))
    path, losses = [], []
    for rate in rates:
        losses.append(optimizer.step(partial(method._losses, model, embedded, tensors["label"]), rate))
        path.append(optimizer.vector)
    _check_path(case, "bar.w", torch.stack(path), tensors["bar.W"].flatten(), limits["bar_rel_to_update_scale"])
    pivots, found = tensors["expected.bar.loss_pivot"], torch.stack(losses)
    torch.testing.assert_close(found[0], pivots[0], atol=case.description["tolerances"]["forward"]["atol"], rtol=0)
    torch.testing.assert_close(found, pivots, atol=limits["bar_loss_pivot_atol_after_step1"], rtol=0)


@torch.no_grad()
def _check_border(case: Case) -> None:
    settings, tensors = case.config["vp"], case.tensors
    border = Border(case.config["frame"], case.config["pad"])
    border.load_state_dict({name: tensor for name, tensor in case.below("vp.").items() if name.startswith("pad_")})
    start = nn.utils.parameters_to_vector(border.parameters())
    assert torch.equal(start, tensors["vp.w0"])
    assert len(start) == int(tensors["expected.vp.n_params"])
    _check_forward(case, "expected.vp.prompted", border(tensors["vp.image"]))
    config = SPSAConfig(
        step=settings["a"],
        step_offset=settings["o"],
        step_decay=settings["alpha"],
        perturbation=settings["c"],
        perturbation_decay=settings["gamma"],
        momentum=settings["b1"],
        repeats=settings["sp"],
    )
    drawn = iter(tensors["vp.perturb"].flatten(0, 1))
    optimizer = SPSA(start, config, perturbations=lambda length: next(drawn))
    path = []
    for _ in range(case.config["steps"]):
        optimizer.step(lambda vectors: losses_under(border.frames(vectors), tensors["vp.image"], tensors["label"], partial(_scores, case)))
        path.append(optimizer.vector)
    _check_path(case, "vp.w", torch.stack(path), start, case.description["tolerances"]["updates"]["vp_rel_to_update_scale"])


def _scores(case: Case, images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 2).flatten(1) @ case.tensors["blackbox.weight"].T


def _check_forward(case: Case, name: str, value: Tensor) -> None:
    case.check(name, value, atol=case.description["tolerances"]["forward"]["atol"], rtol=0)


def _check_path(case: Case, name: str, path: Tensor, start: Tensor, limit: float) -> None:
    """Compare solutions (steps, D), with tolerances relative to the distance that the expected ones move."""
    moved = float((case.tensors[f"expected.{name}"][-1] - start).abs().max())
    case.check(f"expected.{name}", path, atol=limit * moved, rtol=0)
