"""CraFT: from z to a prompt context, class embeddings, logits and fitness, through the handle that a method has."""

from __future__ import annotations

import torch

from petlbench.access.handle import QueryModel
from petlbench.methods.craft import Contexts
from petlbench.methods.craft.refinement import fitness
from tests.golden.case import Case
from tests.golden.craft_model import KINDS, backbone, compare, granted, network


@torch.no_grad()
def check(case: Case) -> None:
    for kind in KINDS:
        tower = backbone(case, kind)
        compare(case, "image_features_raw", tower.project_images(case.tensors["images"]))
        compare(case, "image_features", tower.embed_images(case.tensors["images"]))
        with granted(case, kind) as model:
            contexts = Contexts(model.context, case.tensors["projection.weight"])
            proposed = contexts(case.tensors["z"].double().numpy())
            mean = proposed.mean(dim=0)
            texts = tower.text.in_context(case.config["prompts"], case.config["context_init"])
            compare(case, "text_features", texts.embed(proposed))
            compare(case, "text_features_init", texts.embed(model.context[None])[0])
            compare(case, "text_features_mean", texts.embed(mean[None])[0])
            compare(case, "ctx_init", model.context)
            compare(case, "mean_bias", mean - model.context)
            _check_answers(case, model, proposed, mean)


def _check_answers(case: Case, model: QueryModel, proposed: torch.Tensor, mean: torch.Tensor) -> None:
    images, labels = case.tensors["images"], case.tensors["labels"]
    net = network(case, len(model.class_names))
    logits = model.context_scores(model.upload(images), proposed)
    compare(case, "logits", logits)
    compare(case, "logits", model.context_scores(images, proposed))
    compare(case, "fitness", fitness(logits, labels, logits + net(logits), case.config["lambda_"]))
    compare(case, "logits_init", model.context_scores(images, model.context[None])[0])
    compare(case, "logits_init", model.scores(images))
    compare(case, "logits_mean_unnormalised_images", model.context_scores(images, mean[None], normalised=False)[0])
    logits = model.context_scores(images, mean[None])[0]
    compare(case, "logits_mean", logits)
    refined = logits + net(logits)
    compare(case, "refined_logits_mean", refined)
    compare(case, "accuracy_mean", 100.0 * (refined.argmax(dim=-1) == labels).float().mean())
