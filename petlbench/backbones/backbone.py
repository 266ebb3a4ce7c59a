"""A frozen pretrained model: a timm vision transformer and, for vision-language models, a text tower beside it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.access.endpoint import Card, Endpoint, ModelFacts
from petlbench.access.rungs import Access
from petlbench.backbones.local import LocalEndpoint
from petlbench.backbones.self_check import answers
from petlbench.backbones.traits import Traits
from petlbench.backbones.vit import appended, embed_patches, end_with_the_class_token, patch_size, takes_tokens
from petlbench.data.digests import state_of
from petlbench.registry import BACKBONES


class Contexts(Protocol):
    """The prompts of C classes, whose n leading words can be replaced by vectors of width W."""

    initial: Tensor  # (n, W): the embeddings of the words themselves

    def embed(self, contexts: Tensor) -> Tensor:
        """Return class embeddings (P, C, E), L2-normalised and without a graph, of contexts (P, n, W)."""
        ...


class TextTower(Protocol):
    """Embeds captions."""

    def embed(self, captions: list[str]) -> Tensor:
        """Return embeddings (T, E), not normalised, without a graph."""
        ...

    def in_context(self, captions: list[str], words: str) -> Contexts:
        """Return prompts, one per class, whose leading ``words`` can be replaced. ConfigError when a caption does not begin with them, or when the tower
        cannot replace them."""
        ...

    def to(self, device: torch.device) -> object: ...


class Backbone:
    """The vision tower is frozen, in eval mode and shared by the runs of a process: methods work on :meth:`shared_copy`.

    Letters in shapes: B images, S input size, D feature width, E joint width, C classes, K extra tokens of width W, P patch side.
    """

    def __init__(
        self,
        card: Card,
        vit: nn.Module,
        projection: nn.Module | None = None,
        text: TextTower | None = None,
        logit_scale: float = 1.0,
        feature_width: int | None = None,
        classifier: nn.Linear | None = None,
    ) -> None:
        self.card = card
        end_with_the_class_token(vit)
        self.vit = vit.eval().requires_grad_(False)  # a timm VisionTransformer without a head, or another tower: (B, 3, S, S) -> (B, D)
        self.feature_width = feature_width or int(vit.num_features)  # type: ignore[arg-type]  # D
        self.projection = None if projection is None else projection.eval().requires_grad_(False)  # (B, D) -> (B, E)
        # The classifier among the weights: (B, D) -> own classes
        self.classifier = None if classifier is None else classifier.eval().requires_grad_(False)
        self.text = text
        self.logit_scale = logit_scale
        self._bf16_copies: dict[int, Tensor] = {}

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def is_vit(self) -> bool:
        """True if methods can change its vision tower: a timm ViT whose blocks are one attention and one MLP, and not several side by side."""
        return isinstance(self.vit, VisionTransformer) and all(
            hasattr(block, "attn") and hasattr(block, "mlp") for block in self.vit.blocks
        )

    @property
    def facts(self) -> ModelFacts:
        """Plain data about the model, for those who may query it only."""
        return ModelFacts(
            **vars(self.card),
            feature_width=self.feature_width,
            token_width=int(self.vit.embed_dim) if takes_tokens(self.vit) else None,  # type: ignore[arg-type]
            patch_size=patch_size(self.vit),
            has_text=self.text is not None,
            own_classes=None if self.classifier is None else self.classifier.out_features,
        )

    @property
    def traits(self) -> Traits:
        return Traits.of(self.facts, Access.WEIGHTS if self.is_vit else Access.GRADIENTS)

    @property
    def activation(self) -> str:
        """The activation of the vision tower, as torch writes it: ``GELU``, ``QuickGELU``; empty where none is found."""
        found = next((repr(module) for module in self.vit.modules() if "LU" in type(module).__name__), "")
        return found.removesuffix("()").removesuffix("(approximate='none')")

    @cached_property
    def self_check(self) -> tuple[float, ...]:
        """What the model answers to a fixed picture: see :mod:`petlbench.backbones.self_check`."""
        return answers(self)

    @cached_property
    def parameter_count(self) -> int:
        """Parameters of the vision tower without a head."""
        return sum(parameter.numel() for parameter in self.vit.parameters())

    def to(self, device: torch.device) -> Backbone:
        self.vit.to(device)
        self.drop_bf16_copies()
        for module in (self.projection, self.classifier):
            if module is not None:
                module.to(device)
        if self.text is not None:
            self.text.to(device)
        return self

    def embed_patches(self, patches: Tensor) -> Tensor:
        """Embed normalised patches (B, K, 3, P, P) as the vision tower embeds those of an image, without positions: tokens (B, K, W)."""
        assert isinstance(self.vit, VisionTransformer)
        return embed_patches(self.vit, patches)

    def features(self, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Pooled output (B, D) of the vision tower for normalised images (B, 3, S, S), with extra tokens (B, K, W) behind those of the image."""
        if tokens is None:
            return self.vit(images)
        assert isinstance(self.vit, VisionTransformer)
        with appended(self.vit, tokens):
            return self.vit(images)

    def project_images(self, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Joint-space embeddings (B, E) of normalised images (B, 3, S, S), with extra tokens (B, K, W) behind those of the image."""
        features = self.features(images, tokens)
        return features if self.projection is None else self.projection(features)

    def embed_images(self, images: Tensor) -> Tensor:
        """Joint-space embeddings (B, E) of normalised images (B, 3, S, S), L2-normalised."""
        return F.normalize(self.project_images(images), dim=-1)

    def endpoint(self, device: torch.device, number_format: str = "fp32") -> Endpoint:
        """Return the model as an endpoint of queries."""
        return LocalEndpoint(self, device, number_format)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Class embeddings (C, E): the mean of the normalised embeddings of each class's captions, normalised again (CLIP's ensembling)."""
        assert self.text is not None
        flat = [caption for captions in prompts for caption in captions]
        embeddings = F.normalize(self.text.embed(flat), dim=-1)
        means = [part.mean(dim=0) for part in embeddings.split([len(captions) for captions in prompts])]
        return F.normalize(torch.stack(means), dim=-1)

    def shared_copy(self) -> nn.Module:
        """Return a new module tree over the same frozen tensors. Modules, hooks and gradients that a method adds to it do not reach this backbone."""
        return share(self.vit)

    def bf16_copy(self, frozen: Tensor) -> Tensor:
        """Return a tensor of the vision tower in bf16; cached until :meth:`drop_bf16_copies`."""
        key = frozen.data_ptr()
        if key not in self._bf16_copies:
            self._bf16_copies[key] = frozen.detach().to(torch.bfloat16)
        return self._bf16_copies[key]

    def drop_bf16_copies(self) -> None:
        """Drop the tensors in bf16."""
        self._bf16_copies.clear()

    def checksum(self) -> str:
        """Return the SHA-256 over names, shapes and bytes of all tensors of the vision tower and the projection."""
        return sha256_of(self.vit, self.projection).hex()


def sha256_of(*modules: nn.Module | None) -> bytes:
    """Return the SHA-256 over names, shapes and bytes of all tensors of some modules, equal on every device."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items() if module is not None else ():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode()
            )
    return digest.digest()


def share(module: nn.Module) -> nn.Module:
    """Copy a module tree; the parameters of the copy are new ``nn.Parameter`` objects over the same storage, all frozen."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in module.parameters()}
    memo.update({id(buffer): buffer for buffer in module.buffers()})
    return copy.deepcopy(module, memo)


Loader = Callable[[str, str | None], Backbone]  # (name after the scheme's colon, local checkpoint or None) -> backbone
TraitsWithoutLoading = Callable[[str, str | None], Traits]  # the same arguments -> traits, without loading weights


@dataclass(frozen=True)
class Family:
    """The functions of one backbone, or of several that are addressed as ``name:rest``."""

    load: Loader
    traits: TraitsWithoutLoading | None  # None: traits are known after loading only


def register_backbone(name: str, traits: TraitsWithoutLoading | None = None) -> Callable[[Loader], Loader]:
    """Register a loader of a backbone, or of a family of them addressed as ``name:rest``. With ``traits`` methods that the backbone cannot serve are
    refused before its weights are loaded."""

    def decorate(load: Loader) -> Loader:
        BACKBONES.register(name, Family(load, traits), load.__module__)
        return load

    return decorate


def load_backbone(name: str, checkpoint: str | None = None) -> Backbone:
    """Load a backbone by name, such as ``mini_clip`` or ``timm:vit_base_patch16_224.augreg_in21k``."""
    scheme, _, rest = name.partition(":")
    return BACKBONES.get(scheme).load(rest, checkpoint)


def traits_without_loading(name: str, checkpoint: str | None = None) -> Traits | None:
    """Return the traits of a backbone without loading it; None where its family cannot tell. Errors as of ``load_backbone``."""
    return _traits(name, checkpoint, "" if checkpoint is None else state_of(Path(checkpoint)))


@lru_cache(maxsize=8)
def _traits(name: str, checkpoint: str | None, state: str) -> Traits | None:
    """``state``: of the checkpoint, which may have been replaced since."""
    scheme, _, rest = name.partition(":")
    traits = BACKBONES.get(scheme).traits
    return None if traits is None else traits(rest, checkpoint)
