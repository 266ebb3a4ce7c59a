"""CraFT: the refinement network, both objectives, gradients and Adam steps."""

from __future__ import annotations

import torch

from petlbench.methods.craft.refinement import divergence, fitness, refinement_loss, train_epoch
from tests.golden.case import Case
from tests.golden.craft_model import compare, network


def check(case: Case) -> None:
    config, tensors = case.config, case.tensors
    labels, weight = tensors["labels"], config["lambda_"]
    net = network(case, config["n_classes"])
    logits = config["logit_scale"] * tensors["image_features"] @ tensors["text_features"].T
    refined = logits + net(logits)
    loss = refinement_loss(logits, refined, labels, weight)
    loss.backward()
    compare(case, "logits", logits)
    compare(case, "refined_logits", refined)
    compare(case, "refine_ce", refinement_loss(logits, refined, labels))
    compare(case, "refine_kl", divergence(logits, refined))
    compare(case, "refine_loss", loss)
    for name, parameter in net.named_parameters():
        compare(case, f"grad.{name}", parameter.grad)
    compare(case, "fitness_ce", fitness(logits, labels))
    compare(case, "fitness_kl", divergence(refined, logits))
    compare(case, "fitness", fitness(logits, labels, refined, weight))
    _check_adam(case, logits)


def _check_adam(case: Case, logits: torch.Tensor) -> None:
    config = case.config
    net = network(case, config["n_classes"])
    optimizer = torch.optim.Adam(net.parameters(), lr=config["lr"], **config["adam"])
    losses = train_epoch(net, optimizer, [(logits, case.tensors["labels"])] * config["adam_steps"], config["lambda_"])
    compare(case, "adam_losses", losses)
    for name, parameter in net.named_parameters():
        compare(case, f"adam_final.{name}", parameter)
