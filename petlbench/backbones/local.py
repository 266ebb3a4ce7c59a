"""Query a backbone in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.access.endpoint import ClassTexts, Output, as_scores, paired, restrict
from petlbench.optim.precision import autocast

if TYPE_CHECKING:
    from petlbench.backbones.backbone import Backbone, Contexts

# Images per forward pass; on a CPU larger ones leave the cache (mini_clip: 1.3 times slower).
FORWARD_ON_CPU, FORWARD_ON_ACCELERATOR = 96, 256

Tower = Callable[[Tensor, Tensor | None], Tensor]  # images (B, 3, S, S) and extra tokens (B, K, W) to one row each


@dataclass(frozen=True)
class ClassHead:
    """Class embeddings from texts; for a model without a text tower the first C rows of its own classifier."""

    classes: Tensor  # (C, E): L2-normalised embeddings; or rows of the classifier
    contexts: Contexts | None = None  # set when the leading words of the captions can be replaced
    bias: Tensor | None = None  # (C,) of the classifier


class LocalEndpoint:
    """Answers with a model of this process; keeps class embeddings and the embeddings of uploaded images.

    Letters in shapes: B images, C classes, E joint width, P contexts.
    """

    def __init__(self, backbone: Backbone, device: torch.device, number_format: str = "fp32") -> None:
        self.facts = backbone.facts
        self.images_forwarded = 0
        self._backbone = backbone
        self._device = device
        self._number_format = number_format
        self._known: dict[str, ClassHead] = {}  # digest of texts
        self._stored: dict[str, Tensor] = {}  # digest of images -> (B, E)
        self._last: tuple[ClassHead, Tensor, Tensor] | None = None  # the last context (1, n, W) that came alone, its classes (1, C, E)

    def describe(self, texts: ClassTexts) -> Tensor | None:
        if texts.digest not in self._known:
            self._known[texts.digest] = self.described(texts)
        contexts = self._known[texts.digest].contexts
        return None if contexts is None else contexts.initial.to(self._device).clone()

    def scores(
        self, chunks: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, patches: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        known = self._known[texts.digest]
        return [self._answer(self.logits(self.embed(*pair), known), texts, output, k) for pair in paired(chunks, patches)]

    def context_scores(
        self, images: Tensor | Sequence[str], contexts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, normalised: bool
    ) -> list[Tensor]:
        embeddings = self.embed(images) if isinstance(images, Tensor) else torch.cat([self._stored[digest] for digest in images])  # (B, E)
        known = self._known[texts.digest]
        return [self._answer(self.context_logits(embeddings, chunk, known, normalised), texts, output, k) for chunk in contexts]

    def features(self, chunks: Sequence[Tensor], patches: Sequence[Tensor] | None = None) -> list[Tensor]:
        with torch.inference_mode():
            answers = [self._in_passes(self._backbone.features, chunk, self._tokens(beside)) for chunk, beside in paired(chunks, patches)]
        return [answer.clone() for answer in answers]

    def upload(self, chunks: Mapping[str, Tensor]) -> None:
        self._stored |= {digest: self.embed(chunk) for digest, chunk in chunks.items()}

    def forward_with_vjp(
        self, images: Tensor, tokens: Tensor | None, texts: ClassTexts | None
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        inputs = [given for given in (images, tokens) if given is not None and given.requires_grad]
        forward = self._forward if inputs else self._in_passes
        with torch.enable_grad():
            if texts is None:
                answer = forward(self._backbone.features, images, tokens)
            else:
                answer = self.logits(forward(self._backbone.project_images, images, tokens), self._known[texts.digest])

        def vjp(gradient: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(answer, inputs, gradient)

        return answer.detach().clone(), vjp

    @torch.no_grad()
    def described(self, texts: ClassTexts) -> ClassHead:
        """Embed class texts. ConfigError when the context cannot be replaced."""
        if (own := self._backbone.classifier) is not None and self._backbone.text is None:
            count = len(texts.captions)
            return ClassHead(own.weight[:count], bias=own.bias[:count])
        assert self._backbone.text is not None
        with self.fp32_context():
            classes = self._backbone.embed_classes([list(captions) for captions in texts.captions]).to(self._device)
        if texts.context is None:
            return ClassHead(classes)
        captions = [caption for captions in texts.captions for caption in captions]
        return ClassHead(classes, self._backbone.text.in_context(captions, texts.context))

    @torch.inference_mode()
    def embed(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        """Joint-space embeddings (B, E), not normalised, of images with extra patches (B, K, 3, P, P)."""
        return self._in_passes(self._backbone.project_images, images, self._tokens(patches))

    def logits(self, embeddings: Tensor, known: ClassHead) -> Tensor:
        """(B, C) of embeddings (B, E), or of features for the model's own classifier."""
        with self.fp32_context():
            if known.bias is not None:
                return F.linear(embeddings, known.classes, known.bias)
            return self._backbone.logit_scale * F.normalize(embeddings, dim=-1) @ known.classes.T

    @torch.inference_mode()
    def context_logits(self, embeddings: Tensor, contexts: Tensor, known: ClassHead, normalised: bool = True) -> Tensor:
        """(P, B, C) of embeddings (B, E) and contexts (P, n, W)."""
        if normalised:
            embeddings = F.normalize(embeddings, dim=-1)
        with self.fp32_context():
            return self._backbone.logit_scale * embeddings @ self._classes_in(contexts.to(self._device), known).transpose(1, 2)

    def _classes_in(self, contexts: Tensor, known: ClassHead) -> Tensor:
        """Class embeddings (P, C, E) of contexts (P, n, W). A single context is cached, since many batches are queried with the same one."""
        assert known.contexts is not None
        if len(contexts) > 1:
            return known.contexts.embed(contexts)
        if self._last is None or self._last[0] is not known or not torch.equal(self._last[1], contexts):
            self._last = (known, contexts.clone(), known.contexts.embed(contexts))
        return self._last[2]

    def _tokens(self, patches: Tensor | None) -> Tensor | None:
        if patches is None:
            return None
        with autocast(self._number_format, self._device):
            return self._backbone.embed_patches(patches.to(self._device).contiguous())

    def _in_passes(self, tower: Tower, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        size = FORWARD_ON_CPU if self._device.type == "cpu" else FORWARD_ON_ACCELERATOR
        beside = None if tokens is None else tokens.split(size)
        return torch.cat([self._forward(tower, *pair) for pair in paired(images.split(size), beside)])

    def _forward(self, tower: Tower, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        self.images_forwarded += len(images)
        beside = None if tokens is None else tokens.to(self._device)
        with autocast(self._number_format, self._device):
            # Last bits depend on the memory layout of the images; a server gets them contiguous.
            return tower(images.to(self._device).contiguous(), beside).float()

    def fp32_context(self) -> AbstractContextManager[object]:
        """Compute class texts and scores in fp32, whatever autocast the caller has set."""
        return autocast("fp32", self._device)

    @staticmethod
    def _answer(logits: Tensor, texts: ClassTexts, output: Output, k: int) -> Tensor:
        """Reduce logits to what a server would send and return them as a client reads them."""
        with torch.inference_mode(False):  # an inference tensor could not be an input of training
            return as_scores(restrict(logits.clone(), output, k), len(texts.captions))
