"""PGN's generator: the resize, coefficients and prompts in both modes, gradients, running statistics, sigmoid mixing, fixed prompts."""

from __future__ import annotations

from typing import Any

import torch

from petlbench.learners import load_into
from petlbench.methods.pgn import release_file
from petlbench.methods.pgn.generator import FixedPrompts, Generator, Library, ResNet10, resized
from tests.golden.case import Case


def generator_of(sizes: dict[str, Any]) -> Generator:
    """A generator with the sizes of a case, not yet with its weights."""
    assert sizes["model_type"] == "resnet10"
    count, size = sizes["nr_output_vectors"], sizes["mixture_size"]
    shape = {"channels": "initial_channels", "groups": "nr_groups", "blocks_per_group": "blocks_per_group", "max_pool": "init_max_pool"}
    network = ResNet10(count * size, **{ours: sizes[theirs] for ours, theirs in shape.items()})
    return Generator(network, Library(size, sizes["vector_dim"]), count, sizes["pgn_act_fn"], sizes["pgn_resolution"])


def check(case: Case) -> None:
    generator, images = generator_of(case.config), case.tensors["images"]
    load_into(release_file.named(generator), case.below("pgn."))
    _forward(case, "resized", resized(images, case.config["pgn_resolution"]))
    generator.eval()
    _forward(case, "eval.logits", generator.network(resized(images, case.config["pgn_resolution"])))
    coefficients, prompts = generator(images)
    _forward(case, "eval.coefficients", coefficients)
    _forward(case, "eval.prompts", prompts)
    generator.mixing = "sigmoid"
    _forward(case, "eval.prompts_sigmoid", generator(images)[1])
    generator.mixing = case.config["pgn_act_fn"]
    _check_training(case, generator)
    fixed = FixedPrompts(*case.tensors["iip.pgn_vectors"].shape)
    load_into(release_file.named(fixed), case.below("iip."))
    _forward(case, "iip.prompts", fixed(images))


def _check_training(case: Case, generator: Generator) -> None:
    generator.train()
    _, prompts = generator(case.tensors["images"])
    _forward(case, "train.prompts", prompts)
    (prompts * case.tensors["cotangent"]).sum().backward()
    expected = case.below("expected.train.grad.")
    assert len(expected) == len(list(generator.parameters()))
    tensors = release_file.named(generator)
    for name in expected:
        gradient = tensors[name].grad
        assert gradient is not None
        case.check(f"expected.train.grad.{name}", gradient, **case.description["tolerances"]["gradients"])
    for name in case.below("expected.train.after."):
        _forward(case, f"train.after.{name}", tensors[name])


def _forward(case: Case, name: str, value: torch.Tensor) -> None:
    case.check(f"expected.{name}", value, **case.description["tolerances"]["forward"])
