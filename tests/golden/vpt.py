"""VPT: tokens, logits, gradients, SGD steps and the learning-rate factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.config.settings import Train
from petlbench.learners import AdaptedModel
from petlbench.methods.vpt import VPT, VPTConfig
from petlbench.nn.prompts import initial_bound
from petlbench.optim.loop import build_optimizer, parameter_groups
from petlbench.optim.schedule import factor
from tests.golden.case import Case


def check(case: Case) -> None:
    config, tensors = case.config, case.tensors
    method = VPT(
        VPTConfig(
            prompt_length=config["num_prompts"],
            deep=config["deep"],
            dropout=config["prompt_dropout"],
            project_from=config["prompt_dim"] if config["projection"] else None,
        )
    )
    case.check("prompt_init_bound", torch.tensor(initial_bound(config["patch_size"], config["prompt_dim"])))
    model = _model(case, method)
    seen: dict[str, Tensor] = {}
    model.vit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0]))  # runs after the prompts' own hook
    model.vit.norm.register_forward_hook(lambda _, __, output: seen.update(encoded=output))
    logits = model(tensors["images"])
    loss = F.cross_entropy(logits, tensors["labels"])
    loss.backward()
    case.check("expected.tokens_in", seen["tokens"])
    case.check("expected.encoded", seen["encoded"])
    case.check("expected.logits", logits)
    case.check("expected.loss", loss)
    trainable = _trainable(model)
    expected = {name.removeprefix("expected.grad.") for name in tensors if name.startswith("expected.grad.")}
    assert set(trainable) == expected, "what trains is not what the case has gradients of"
    for name, parameter in trainable.items():
        case.check(f"expected.grad.{name}", parameter.grad)
    _check_sgd(case, method)
    _check_schedule(case)


def _model(case: Case, method: VPT) -> AdaptedModel:
    vit, _ = case.backbone(case.config, case.config["layer_norm_eps"])
    method.adapt(vit)
    model = AdaptedModel(vit, method.build_head(case.config["embed_dim"], case.config["num_classes"]))
    with torch.no_grad():
        for name, parameter in _trainable(model).items():
            parameter.copy_(case.tensors[name])
    return model.eval()


def _trainable(model: AdaptedModel) -> dict[str, nn.Parameter]:
    """Return trained parameters by the case's names: ``prompt_input``, ``prompt_deep``, ``prompt_proj.*``, ``head.*``."""
    return {name.removeprefix("vit.prompts."): p for name, p in model.named_parameters() if p.requires_grad}


def _check_sgd(case: Case, method: VPT) -> None:
    settings = case.config["sgd"]
    model = _model(case, method)
    recipe = Train(epochs=100, optimizer="sgd", learning_rate=settings["lr"], momentum=settings["momentum"])
    optimizer = build_optimizer(parameter_groups(model, settings["weight_decay"], method.decays), recipe)
    assert settings["constant_lr"] and settings["head_bias_weight_decay"] == 0.0
    losses = []
    for _ in range(settings["steps"]):
        loss = F.cross_entropy(model(case.tensors["images"]), case.tensors["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    case.check("expected.sgd.losses", torch.stack(losses))
    for name, parameter in _trainable(model).items():
        case.check(f"expected.sgd.{name}", parameter.detach())


def _check_schedule(case: Case) -> None:
    schedule = case.config["lr_schedule"]
    epochs = schedule["total_epochs"]
    factors = torch.tensor([factor(epoch, schedule["warmup_epochs"], epochs) for epoch in range(epochs)])
    case.check("expected.lr_factor", factors)
