"""SPSA with gradient correction: on a function of eleven numbers in three variants, and on BlackVIP's decoder in front of a small CLIP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.methods.blackvip import BlackVIP, BlackVIPConfig
from petlbench.optim.spsa import SPSA, SPSAConfig
from tests.golden.blackvip_coordinator import load_decoder, running_statistics
from tests.golden.case import Case

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


@torch.no_grad()
def check(case: Case) -> None:
    for name in case.config["toy"]["variants"]:
        _check_toy(case, name)
    for sequential in (False, True):
        _check_black_box(case, sequential)


def _check_toy(case: Case, name: str) -> None:
    settings, limits = case.config["toy"]["variants"][name], case.description["tolerances"]["toy"]
    target, curvature = case.tensors["toy.target"], case.tensors["toy.curv"]
    config = _configured(settings, has_momentum=settings["opt"] == "spsa-gc")
    drawn = iter(case.tensors[f"toy.{name}.perturb"].flatten(0, 1))
    optimizer = SPSA(case.tensors["toy.w0"], config, perturbations=lambda length: next(drawn))
    found: dict[str, list[Tensor]] = {key: [] for key in ("a", "c", "loss_plus", "loss_minus", "ghat", "momentum", "w")}

    def losses(candidates: Tensor) -> Tensor:
        values = 0.5 * (curvature * (candidates - target) ** 2).sum(dim=1) + 0.3 * (3 * candidates).cos().sum(dim=1)
        found["loss_plus"].append(values[0::2])
        found["loss_minus"].append(values[1::2])
        return values

    for step in range(1, case.config["toy"]["steps"] + 1):
        optimizer.step(losses)
        found["a"].append(torch.tensor(config.step_gain(step)))
        found["c"].append(torch.tensor(config.perturbation_gain(step)))
        found["ghat"].append(optimizer.gradient)
        found["momentum"].append(optimizer.velocity)
        found["w"].append(optimizer.vector)
    for key, values in found.items():
        case.check(f"expected.toy.{name}.{key}", torch.stack(values), **limits)


def _check_black_box(case: Case, sequential: bool) -> None:
    config, tensors = case.config["blackbox"], case.tensors
    limits = case.description["tolerances"]["blackbox"]
    images = tensors["image_lowres"].repeat_interleave(config["image_repeat"], 2).repeat_interleave(config["image_repeat"], 3)
    features, labels = tensors["z"], tensors["label"]
    seen: list[Tensor] = []
    model = _model(case, images.shape[-1], seen)
    spsa = _configured(config["hp"], sequential=sequential)
    method = BlackVIP(BlackVIPConfig(p_eps=config["hp"]["p_eps"], src_dim=config["src_dim"], spsa=spsa))
    method.build_coordinator(model, config["z_dim"])
    method.decoder = load_decoder(case.below("decoder."), images.shape[-1], config["z_dim"], config)
    start = torch.nn.utils.parameters_to_vector(method.decoder.parameters())
    assert torch.equal(start, tensors["w0"])
    drawn = iter(tensors["perturb"].flatten(0, 1))
    optimizer = SPSA(start, spsa, perturbations=lambda length: next(drawn))
    path: dict[str, list[Tensor]] = {"w": [], "ghat": [], "momentum": []}
    for step in range(1, config["steps"] + 1):
        seen.clear()
        method.step(model, optimizer, images, features, labels)
        logits = torch.cat(seen).unflatten(0, (spsa.queries, -1))
        losses = torch.stack([F.cross_entropy(each, labels) for each in logits])
        atol = limits["loss_atol" if step == 1 else "loss_atol_after_step1"]
        _close(losses[0::2], tensors["expected.loss_plus"][step - 1], atol)
        _close(losses[1::2], tensors["expected.loss_minus"][step - 1], atol)
        for name, statistic in running_statistics(method.decoder).items():
            _close(statistic, tensors[f"expected.step{step}.{name}"], limits["running_atol"], limits["running_rtol"])
        path["w"].append(torch.nn.utils.parameters_to_vector(method.decoder.parameters()))
        path["ghat"].append(optimizer.gradient)
        path["momentum"].append(optimizer.velocity)
    _close(torch.stack(path["w"]), tensors["expected.w"], limits["w_atol"])
    for name in ("ghat", "momentum"):
        expected = tensors[f"expected.{name}"]
        _close(torch.stack(path[name]), expected, limits[f"{name}_rel_to_max"] * expected.abs().max().item())
    method.eval()
    scores = model.scores(method._prompted(images, features))
    _close(scores, tensors["expected.eval_logits"], limits["eval_logits_atol"])


def _configured(settings: dict[str, Any], has_momentum: bool = True, sequential: bool = False) -> SPSAConfig:
    return SPSAConfig(
        step=settings["a"],
        step_offset=settings["o"],
        step_decay=settings["alpha"],
        perturbation=settings["c"],
        perturbation_decay=settings["gamma"],
        momentum=settings["b1"] if has_momentum else 0.0,
        repeats=settings["sp"],
        sequential_exact=sequential,
    )


def _model(case: Case, size: int, seen: list[Tensor]) -> Any:
    """Make the case's image tower with its text features; it appends its answers to ``seen``."""
    config = case.config["blackbox"]
    vision = open_clip.CLIPVisionCfg(
        layers=config["clip_layers"],
        width=config["clip_width"],
        head_width=config["clip_width"] // config["clip_heads"],
        patch_size=config["clip_patch"],
        image_size=size,
    )
    text = open_clip.CLIPTextCfg(context_length=4, vocab_size=8, width=8, heads=1, layers=1)
    clip = open_clip.CLIP(config["clip_embed"], vision, text, quick_gelu=config["act"] != "gelu").eval()
    clip.visual.load_state_dict(case.below("clip.visual."))

    def scores(images: Tensor) -> Tensor:
        embeddings = F.normalize(clip.encode_image(images), dim=-1)
        logits = case.tensors["clip.logit_scale"].exp() * embeddings @ case.tensors["clip.text_features"].T
        seen.append(logits)
        return logits

    return SimpleNamespace(input_size=size, scores=scores, **CLIP)


def _close(found: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
