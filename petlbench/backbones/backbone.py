"""A frozen pretrained model: a timm vision transformer and, for vision-language models, a text tower beside it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.access.endpoint import Card, Endpoint, ModelFacts
from petlbench.access.rungs import Access
from petlbench.backbones.local import LocalEndpoint
from petlbench.backbones.traits import Traits
from petlbench.backbones.vit import appended, embed_patches, end_with_the_class_token, patch_size, takes_tokens
from petlbench.registry import BACKBONES


class Contexts(Protocol):
    """The prompts of C classes, for whose n leading words vectors of width W can be given."""

    initial: Tensor  # (n, W): the embeddings of the words themselves

    def embed(self, contexts: Tensor) -> Tensor:
        """Class embeddings (P, C, E), L2-normalised and without a graph, of contexts (P, n, W)."""
        ...


class TextTower(Protocol):
    """Captions to embeddings."""

    def embed(self, captions: list[str]) -> Tensor:
        """(T, E), not normalised, without a graph."""
        ...

    def in_context(self, captions: list[str], words: str) -> Contexts:
        """Prompts, one per class, that all begin with these words. ConfigError when they do not, or when the tower's words cannot be replaced."""
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
        self.classifier = (
            None if classifier is None else classifier.eval().requires_grad_(False)
        )  # that the weights came with: (B, D) -> own classes
        self.text = text
        self.logit_scale = logit_scale
        self._rounded: dict[int, Tensor] = {}

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def is_vit(self) -> bool:
        """Whether methods can change its vision tower."""
        return isinstance(self.vit, VisionTransformer)

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

    @cached_property
    def parameter_count(self) -> int:
        """Of the vision tower without a head."""
        return sum(parameter.numel() for parameter in self.vit.parameters())

    def to(self, device: torch.device) -> Backbone:
        self.vit.to(device)
        self.forget_rounded()
        for part in (self.projection, self.classifier):
            if part is not None:
                part.to(device)
        if self.text is not None:
            self.text.to(device)
        return self

    def embed_patches(self, patches: Tensor) -> Tensor:
        """Tokens (B, K, W) of normalised patches (B, K, 3, P, P), as the vision tower makes them of an image, without their positions."""
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
        """This model as something that can only be asked."""
        return LocalEndpoint(self, device, number_format)

    def embed_classes(self, prompts: list[list[str]]) -> Tensor:
        """Class embeddings (C, E): the mean of the normalised embeddings of each class's captions, normalised again (CLIP's ensembling)."""
        assert self.text is not None
        flat = [caption for captions in prompts for caption in captions]
        embeddings = F.normalize(self.text.embed(flat), dim=-1)
        means = [part.mean(dim=0) for part in embeddings.split([len(captions) for captions in prompts])]
        return F.normalize(torch.stack(means), dim=-1)

    def shared_copy(self) -> nn.Module:
        """A new module tree over the same frozen tensors. A method may add modules and hooks to it or ask for gradients; this backbone does not notice."""
        return share(self.vit)

    def rounded(self, frozen: Tensor) -> Tensor:
        """A tensor of the vision tower in bf16; made once, until :meth:`forget_rounded`."""
        key = frozen.data_ptr()
        if key not in self._rounded:
            self._rounded[key] = frozen.detach().to(torch.bfloat16)
        return self._rounded[key]

    def forget_rounded(self) -> None:
        """Drop the tensors in bf16."""
        self._rounded.clear()

    def checksum(self) -> str:
        """SHA-256 over names, shapes and bytes of all tensors of the vision tower and the projection."""
        return sha256_of(self.vit, self.projection).hex()


def sha256_of(*parts: nn.Module | None) -> bytes:
    """SHA-256 over names, shapes and bytes of all tensors of some modules, equal on every device."""
    digest = hashlib.sha256()
    for part in parts:
        for name, tensor in part.state_dict().items() if part is not None else ():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode()
            )
    return digest.digest()


def share(module: nn.Module) -> nn.Module:
    """A copy of a module tree whose parameters are new ``nn.Parameter`` objects over the same storage, all frozen."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in module.parameters()}
    memo.update({id(buffer): buffer for buffer in module.buffers()})
    return copy.deepcopy(module, memo)


Loader = Callable[[str, str | None], Backbone]  # (name after the scheme's colon, local checkpoint or None) -> backbone
Foretell = Callable[[str, str | None], Traits]  # the same, without weights


@dataclass(frozen=True)
class Family:
    """A backbone, or several that are addressed as ``name:rest``."""

    load: Loader
    foretell: Foretell | None  # None: what a backbone has shows when it is loaded


def register_backbone(name: str, foretell: Foretell | None = None) -> Callable[[Loader], Loader]:
    """Make a backbone, or a family of them addressed as ``name:rest``, known under its name. With ``foretell`` methods that it cannot serve are
    refused before its weights are loaded."""

    def decorate(load: Loader) -> Loader:
        BACKBONES.register(name, Family(load, foretell), load.__module__)
        return load

    return decorate


def load_backbone(name: str, checkpoint: str | None = None) -> Backbone:
    """Load a backbone by name, such as ``mini_clip`` or ``timm:vit_base_patch16_224.augreg_in21k``."""
    scheme, _, rest = name.partition(":")
    return BACKBONES.get(scheme).load(rest, checkpoint)


@lru_cache(maxsize=2)
def load_backbone_cached(name: str, checkpoint: str | None, device: torch.device) -> tuple[Backbone, str]:
    """A backbone on a device and its checksum, loaded once per process. Methods work on copies of its module tree, never on itself."""
    backbone = load_backbone(name, checkpoint)
    checksum = backbone.checksum()
    return backbone.to(device), checksum


@lru_cache(maxsize=8)
def foretold_traits(name: str, checkpoint: str | None = None) -> Traits | None:
    """What a backbone has, without loading it; None where its family cannot tell. The errors are those of ``load_backbone``."""
    scheme, _, rest = name.partition(":")
    foretell = BACKBONES.get(scheme).foretell
    return None if foretell is None else foretell(rest, checkpoint)
