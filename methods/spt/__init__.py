"""SPT: sensitivity-aware parameter-efficient fine-tuning (He et al. 2023, arXiv 2303.08566)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petlbench import File, GradientMethod, TrainingData, register_method
from petlbench.errors import ConfigError

from . import release_file
from .candidates import Candidate, candidates
from .network import Modules, tune
from .selection import Rule, Selection
from .sensitivity import accumulate, ranking

RANKED = 1_580_000  # positions of a ranking that are kept: the largest step of the released sweep, so that every smaller unit shares it


@dataclass
class SPTConfig:
    module: Literal["lora", "adapter"] = "lora"  # module of a matrix with many sensitive weights
    budget: float = 0.4  # trainable parameters without the head, in millions (in units of method.unit)
    rank: int = 8  # rank of the modules
    alpha: float = 10.0  # a matrix gets a module when cost / alpha of its weights are among the most sensitive
    beta: float = 5.0  # a vector is trained whole when length / beta of its entries are among the most sensitive
    # parameters in one unit of budget; the sweep keeps 0.02, 0.04, ... 1.58 units of weights; smaller for small backbones
    unit: float = 1e6
    structured_vectors: bool = True  # train vectors with many sensitive entries whole; false: never
    structured_only: bool = False  # train modules and whole vectors only, no single entries
    # start of the up matrix: N(0, 0.02), as in the released code (release), or zero (zero_up)
    init: Literal["release", "zero_up"] = "release"
    train_norm_entries: bool = False  # train single entries of norms, too, which the released code counts but does not train
    dropout: float = 0.1  # dropout rate of a module's input
    drop_path: float = 0.1  # rate at which a module's output is dropped, per image
    scored_images: int = 512  # training images, in file order, that sensitivities are computed on
    scored_batch: int = 32  # images per batch of the scoring; the mean gradient of each batch is squared
    deterministic: bool = True  # score without drop-path; false: with train.drop_path, as the released code does
    selection: File | None = None  # selection file of the released code (param_req_*.pth) to use instead of scoring

    def __post_init__(self) -> None:
        self.rule(class_token=0)
        if self.budget <= 0:
            raise ValueError(f"budget must be > 0, got {self.budget}")
        for name in ("scored_images", "scored_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be an int >= 1, got {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def rule(self, class_token: int) -> Rule:
        """The rule of selection for a class token of some length."""
        names = ("module", "rank", "alpha", "beta", "unit", "structured_vectors", "structured_only")
        return Rule(class_token, **{name: getattr(self, name) for name in names})


@register_method("spt", SPTConfig, cite="arXiv:2303.08566")
class SPT(GradientMethod):
    """Scores every weight by its squared gradient on a slice of the training set, keeps the highest-scored ones, and gives each matrix that holds
    many of them a module, trains each such vector whole and the other kept weights one by one (section 3; details of the released code)."""

    def prepare(self, vit: Any, head: nn.Module, data: TrainingData) -> dict[str, Tensor]:
        """The selection. The ranking behind it is computed once for all budgets and both kinds of modules."""
        config: SPTConfig = self.config
        if vit.cls_token is None:
            raise ConfigError("method spt trains the class token, and this backbone has none; choose another backbone.name")
        ranked, rule = candidates(vit), config.rule(vit.embed_dim)
        if config.selection is not None:
            return release_file.read(Path(config.selection), ranked, rule).state()
        size = sum(candidate.size for candidate in ranked)
        count = max(rule.kept(size)[-1], min(RANKED, size))
        settings = {
            "seed": self.seed,  # of the head
            "classes": len(data.class_names),
            "images": config.scored_images,
            "batch": config.scored_batch,
            "drop_path": 0.0 if config.deterministic else data.recipe.drop_path,
            "count": count,
        }
        kept = data.cache.get_or_compute("spt-ranking", settings, lambda: {"ranking": self._ranking(vit, head, data, count)})
        return Selection.for_budget(ranked, rule, kept["ranking"].long(), config.budget).state()

    def _ranking(self, vit: Any, head: nn.Module, data: TrainingData, count: int) -> Tensor:
        scores = accumulate(vit, head, self._scored(data), training=not self.config.deterministic)
        best = ranking(scores, count)
        return best.int() if len(scores) <= torch.iinfo(torch.int32).max else best

    def _scored(self, data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the first training images, not augmented."""
        count = min(self.config.scored_images, data.train.image_count)
        for indices in torch.arange(count).split(self.config.scored_batch):
            yield data.train.images(indices), data.train.labels[indices.to(data.train.device)]

    def adapt(self, vit: Any) -> None:
        config: SPTConfig = self.config
        modules = Modules(config.module, config.rank, config.init, config.dropout, config.drop_path)
        tune(vit, self.selection(vit), modules, config.train_norm_entries)

    def selection(self, vit: Any) -> Selection:
        """Return the selection that ``prepare`` made, for a frozen or an adapted tower."""
        ranked: list[Candidate] = candidates(vit)
        return Selection.from_state(ranked, self.config.rule(vit.embed_dim), self.plan)
