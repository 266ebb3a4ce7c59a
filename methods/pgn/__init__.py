"""Prompt Generation Networks (Loedeman et al. 2022, arXiv 2210.06466; where paper and released code differ, the released code).

Letters in shapes: B images, C classes, S input size, K prompts of an image, N tokens of the library, D token width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from petlbench import Access, File, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.errors import ConfigError
from petlbench.method import Deployable
from petlbench.optim.loop import train

from . import release_file
from .generator import FixedPrompts, Generator, Library, ResNet10, resnet18_of


@dataclass
class PGNConfig:
    # pgn: prompts generated for each image; iip: the same for all images (input-independent, the ablation)
    prompt_mode: Literal["pgn", "iip"] = "pgn"
    prompts: int = 16  # K, further tokens of every image
    library_size: int = 256  # N, tokens that are mixed; the released checkpoints of ViT and DINO have 128
    rank: int | None = None  # rank of a factorised library; null: a full library, as released
    mixing: Literal["softmax", "sigmoid"] = "softmax"  # how the coefficients of the mixture are normalised
    network: Literal["resnet10", "resnet18"] = "resnet10"  # network of the generator
    # shorter side of the images that the generator reads; null: the model's input size (224 in the released code)
    resolution: int | None = None
    channels: int = 16  # channels of the first group of resnet10; every further group has twice as many
    groups: int = 4  # groups of resnet10, each at half the resolution of the one before
    blocks_per_group: int = 1  # residual blocks in a group of resnet10
    max_pool: bool = True  # pool after the stem of resnet10; four groups then end in 7 x 7 positions at 224 pixels, in 1 x 1 at 32
    # classifier: class texts or a trained linear layer; auto: texts where the model has a text tower
    head: Literal["auto", "text", "linear"] = "auto"
    # classes that compete in the loss of joined tasks: all (union), or those of the image's own task
    label_space: Literal["union", "own"] = "union"
    checkpoint: File | None = None  # file of released weights to evaluate without training

    def __post_init__(self) -> None:
        for name in ("prompts", "library_size", "rank", "resolution", "channels", "groups", "blocks_per_group"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be an int >= 1{' or null' if name in ('rank', 'resolution') else ''}, got {value}")
        if self.checkpoint is not None and self.rank is not None:
            raise ValueError("rank must be null with a checkpoint: released libraries are not factorised")


@register_method("pgn", PGNConfig, cite="arXiv:2210.06466")
class PGN(QueryMethod):
    """K further tokens for a frozen ViT, each a mixture of a trained library: A(x) L, with A(x) from a small network that sees the image. They stand
    behind the image's tokens and carry no position. Generator, library and, where the model has no text tower, a linear head are trained through
    the model's inputs. Left out of the released code: the head on all 1000 ImageNet outputs, and DINO's projection head."""

    access = Access.GRADIENTS
    needs_tokens = True

    def __init__(self, config: PGNConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.requires_class_scores = config.head == "text"

    def build(self, model: QueryModel) -> None:
        config: PGNConfig = self.config
        assert model.token_width is not None, "a model that takes no tokens is refused"
        self.prompter = self._prompter(model.token_width, config.resolution or model.input_size)
        is_linear = config.head == "linear" or (config.head == "auto" and not model.has_text)
        self.head = nn.Linear(model.feature_width, len(model.class_names)) if is_linear else None
        if config.checkpoint is not None and is_linear:
            raise ConfigError(
                "method.checkpoint goes with class texts: released files hold no linear head; choose a vision-language backbone"
            )

    def _prompter(self, width: int, resolution: int) -> Generator | FixedPrompts:
        config: PGNConfig = self.config
        if config.prompt_mode == "iip":
            return FixedPrompts(config.prompts, width)
        outputs = config.prompts * config.library_size
        if config.network == "resnet18":
            network = resnet18_of(outputs)
        else:
            network = ResNet10(outputs, config.channels, config.groups, config.blocks_per_group, config.max_pool)
        return Generator(network, Library(config.library_size, width, config.rank), config.prompts, config.mixing, resolution)

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        if self.config.checkpoint is not None:
            release_file.load(self.prompter, Path(self.config.checkpoint))
            return
        train(
            self,
            data.train,
            data.recipe,
            decays=lambda *_: True,
            after_epoch=data.log_epoch,
            resumable=data.steps,
            forward=partial(self.predict, model),
            competing=own_classes(data.part_of_class) if self.config.label_space == "own" else lambda scores, _: scores,
        )

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        prompts = self.prompts(images)
        return model.scores(images, prompts) if self.head is None else self.head(model.features(images, prompts))

    def prompts(self, images: Tensor) -> Tensor:
        """Prompts (B, K, D) of normalised images (B, 3, S, S)."""
        return self.prompter(images)[1] if isinstance(self.prompter, Generator) else self.prompter(images)

    def deployable(self) -> Deployable:
        return Deployable(self.prompter.library, self.prompter.coefficients, self.head)


def own_classes(part_of_class: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Scores (B, C) and labels (B,) to scores that are -inf for the classes of other tasks than the image's."""
    parts = torch.tensor(part_of_class)

    def competing(scores: Tensor, labels: Tensor) -> Tensor:
        of_class = parts.to(labels.device)
        return scores.masked_fill(of_class != of_class[labels, None], -torch.inf)

    return competing
