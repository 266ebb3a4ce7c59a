"""PGN on a supervised ViT, a DINO ViT and a CLIP, through the handle at GRADIENTS that the plugin has: prompts, logits in both modes, the loss, its
gradients and three steps of SGD as the plugin trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.access.endpoint import Card, ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.families.open_clip import convert
from petlbench.backbones.text import ClipText
from petlbench.config.settings import QueryConfig, Train
from petlbench.data.batches import Batches, TrainingData
from petlbench.learners import load_into
from petlbench.methods.pgn import PGN, PGNConfig, release_file
from petlbench.optim.loop import Epoch
from tests.golden.case import Case

CPU = torch.device("cpu")


class _DINOHead(nn.Module):
    """The frozen projection head of the case, which the plugin has no option for: (B, D) to scores (B, C)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        shapes = [tensor.shape for name, tensor in weights.items() if name.startswith("mlp.") and tensor.ndim == 2]
        layers = [layer for outputs, inputs in shapes for layer in (nn.Linear(inputs, outputs), nn.GELU())]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = nn.Linear(*reversed(weights["last_layer.weight"].shape), bias=False)
        self.load_state_dict(weights)
        self.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


class _WholeSet:
    """The case's images as the only batch of every pass."""

    device = CPU

    def __init__(self, case: Case) -> None:
        self._batch = (case.tensors["images"], case.tensors["labels"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self._batch

    def __len__(self) -> int:
        return 1


def check_vit(case: Case) -> None:
    with _opened(case, _vision_only(case)) as (method, model):
        _check(case, method, model, {"head": method.head})


def check_dino(case: Case) -> None:
    with _opened(case, _vision_only(case)) as (method, model):
        method.head = _DINOHead(case.below("dino_head."))
        _check(case, method, model, {})


def check_clip(case: Case) -> None:
    backbone = _clip(case)
    with _opened(case, backbone) as (method, model):
        assert method.head is None
        classes = backbone.embed_classes([[str(row)] for row in range(case.config["num_classes"])])
        _forward(case, "text_features", classes)
        prompts = method.eval().prompts(case.tensors["images"])
        _forward(case, "image_features_eval", F.normalize(backbone.project_images(case.tensors["images"], prompts), dim=-1))
        _check(case, method, model, {})


def _check(case: Case, method: PGN, model: QueryModel, trained: dict[str, nn.Module | None]) -> None:
    """Check outputs, loss and gradients; ``trained`` holds the trained modules beside the generator, by the case's names."""
    images, labels = case.tensors["images"], case.tensors["labels"]
    method.eval()
    prompts = method.prompts(images)
    _forward(case, "prompts_eval", prompts)
    _forward(case, "logits_eval", method.predict(model, images))
    none = model.scores(images) if method.head is None else method.head(model.features(images))
    _forward(case, "logits_no_prompt", none)
    shuffled = prompts[:, torch.randperm(prompts.shape[1], generator=torch.Generator().manual_seed(0))]
    again = model.scores(images, shuffled) if method.head is None else method.head(model.features(images, shuffled))
    _forward(case, "logits_eval", again)
    start = {name: tensor.clone() for name, tensor in method.state_dict().items()}

    method.train()
    logits = method.predict(model, images)
    _forward(case, "logits_train", logits)
    loss = F.cross_entropy(logits, labels)
    _forward(case, "loss_train", loss)
    loss.backward()
    tensors = _by_name_of_the_case(method, trained)
    gradients = case.below("expected.grad.")
    learned = {name for name, tensor in tensors.items() if tensor.requires_grad}
    assert set(gradients) <= learned == {name for name, tensor in tensors.items() if tensor.grad is not None}
    for name in gradients:
        case.check(f"expected.grad.{name}", cast(Tensor, tensors[name].grad), **case.description["tolerances"]["gradients"])
    method.zero_grad()
    method.load_state_dict(start)
    _check_steps(case, method, model, trained)


def _check_steps(case: Case, method: PGN, model: QueryModel, trained: dict[str, nn.Module | None]) -> None:
    sgd, epochs = case.config["sgd"], list[Epoch]()
    recipe = Train(
        epochs=sgd["steps"],
        optimizer="sgd",
        learning_rate=sgd["lr"],
        momentum=sgd["momentum"],
        weight_decay=sgd["weight_decay"],
        schedule="constant",
        warmup_epochs=0,
    )
    whole = cast(Batches, _WholeSet(case))
    method.fit(model, TrainingData(whole, whole, recipe, model.class_names, epochs.append))
    limits = case.description["tolerances"]["after_3_sgd_steps"]
    case.check("expected.sgd3.losses", torch.tensor([epoch.loss for epoch in epochs]), **limits)
    for name, tensor in _by_name_of_the_case(method, trained).items():
        if f"expected.sgd3.{name}" in case.tensors:
            case.check(f"expected.sgd3.{name}", tensor.detach(), **limits)


def _by_name_of_the_case(method: PGN, trained: dict[str, nn.Module | None]) -> dict[str, Tensor]:
    tensors = {f"pgn.{name}": tensor for name, tensor in release_file.named(method.prompter).items()}
    for prefix, module in trained.items():
        assert module is not None
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    return tensors


@contextmanager
def _opened(case: Case, backbone: Backbone) -> Iterator[tuple[PGN, QueryModel]]:
    """The plugin with the sizes and weights of the case, and its handle."""
    sizes: dict[str, Any] = case.config["generator"]
    config = PGNConfig(
        prompts=sizes["nr_output_vectors"],
        library_size=sizes["mixture_size"],
        mixing=sizes["pgn_act_fn"],
        network=sizes["model_type"],
        resolution=sizes["pgn_resolution"],
        channels=sizes["initial_channels"],
        groups=sizes["nr_groups"],
        blocks_per_group=sizes["blocks_per_group"],
        max_pool=sizes["init_max_pool"],
    )
    names = tuple(str(row) for row in range(case.config["num_classes"]))
    method = PGN(config)
    with grant(
        Access.GRADIENTS, backbone.endpoint(CPU), names, ClassTexts(tuple((name,) for name in names)), Meter(), QueryConfig()
    ) as model:
        method.build(model)
        load_into(release_file.named(method.prompter), case.below("pgn."))
        if method.head is not None and (head := case.below("head.")):
            method.head.load_state_dict(head)
        yield method, model


def _vision_only(case: Case) -> Backbone:
    sizes = case.config["backbone"]
    vit, _ = case.backbone(sizes, sizes["layer_norm_eps"])
    half = (0.5, 0.5, 0.5)  # the card's values are unused: the case's images are normalised
    return Backbone(Card("golden", sizes["img_size"], half, half, source="golden case"), vit)


def _clip(case: Case) -> Backbone:
    vision, text = case.config["vision"], case.config["text"]
    model = CLIP(
        case.config["embed_dim"],
        CLIPVisionCfg(
            layers=vision["depth"],
            width=vision["embed_dim"],
            head_width=vision["embed_dim"] // vision["num_heads"],
            mlp_ratio=vision["mlp_ratio"],
            patch_size=vision["patch_size"],
            image_size=vision["img_size"],
        ),
        CLIPTextCfg(**{key: text[key] for key in ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")}),
        quick_gelu=vision["activation"] == "QuickGELU",
    )
    model.load_state_dict(case.below("clip."))
    model.visual.image_mean = model.visual.image_std = (0.5, 0.5, 0.5)
    backbone = convert(model, "open_clip:golden", "ViT-B-32", source="golden case")
    backbone.text = ClipText(model, lambda captions: case.tensors["tokens"][[int(caption) for caption in captions]])
    return backbone


def _forward(case: Case, name: str, value: Tensor) -> None:
    case.check(f"expected.{name}", value.detach(), **case.description["tolerances"]["forward"])


CHECKS: dict[str, Callable[[Case], None]] = {"pgn_vit": check_vit, "pgn_dino": check_dino, "pgn_clip": check_clip}
