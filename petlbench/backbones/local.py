"""A backbone in this process as an endpoint of queries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.endpoint import ClassTexts, Facts, Output, as_scores, restrict
from petlbench.optim.precision import autocast

if TYPE_CHECKING:
    from petlbench.backbones.backbone import Backbone, Contexts

FORWARD_BATCH = 256  # images per forward pass when nothing is kept for a backward pass


class LocalEndpoint:
    """Answers with a model of this process; keeps class embeddings and the embeddings of uploaded images.

    Letters in shapes: B images, C classes, E joint width, P contexts.
    """

    def __init__(self, backbone: Backbone, device: torch.device, number_format: str = "fp32") -> None:
        card = backbone.card
        self.facts = Facts(
            name=card.name,
            input_size=card.input_size,
            mean=tuple(card.mean),
            std=tuple(card.std),
            feature_width=backbone.feature_width,
            output=card.output,
            has_text=backbone.text is not None,
        )
        self.images_forwarded = 0
        self._backbone = backbone
        self._device = device
        self._number_format = number_format
        self._classes: dict[str, Tensor] = {}  # digest of texts -> (C, E), L2-normalised
        self._contexts: dict[str, Contexts] = {}
        self._stored: dict[str, Tensor] = {}  # digest of images -> (B, E)

    @torch.no_grad()
    def describe(self, texts: ClassTexts) -> Tensor | None:
        assert self._backbone.text is not None
        if texts.digest not in self._classes:
            prompts = [list(captions) for captions in texts.captions]
            self._classes[texts.digest] = self._backbone.embed_classes(prompts).to(self._device)
        if texts.context is None:
            return None
        if texts.digest not in self._contexts:
            captions = [caption for captions in texts.captions for caption in captions]
            self._contexts[texts.digest] = self._backbone.text.in_context(captions, texts.context)
        return self._contexts[texts.digest].initial.to(self._device).clone()

    def scores(self, parts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int) -> list[Tensor]:
        return [self._answer(self._logits(self._embed(part), texts), texts, output, k) for part in parts]

    @torch.inference_mode()
    def context_scores(
        self, images: Tensor | str, contexts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, normalised: bool
    ) -> list[Tensor]:
        embeddings = self._stored[images] if isinstance(images, str) else self._embed(images)  # (B, E)
        if normalised:
            embeddings = F.normalize(embeddings, dim=-1)
        answers = []
        for part in contexts:
            classes = self._contexts[texts.digest].embed(part.to(self._device))  # (P, C, E)
            answers.append(self._answer(self._backbone.logit_scale * embeddings @ classes.transpose(1, 2), texts, output, k))
        return answers

    def features(self, parts: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            answers = [self._forward(part, self._backbone.vit) for part in parts]
        return [answer.clone() for answer in answers]

    def upload(self, images: Tensor) -> str:
        digest = digest_of(images)
        if digest not in self._stored:
            self._stored[digest] = self._embed(images)
        return digest

    def graded_scores(self, images: Tensor, texts: ClassTexts) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        with torch.enable_grad():
            inputs = images.to(self._device).requires_grad_(True)
            logits = self._logits(self._forward(inputs, self._backbone.project_images), texts)

        def pull(gradient: Tensor) -> Tensor:
            return torch.autograd.grad(logits, inputs, gradient)[0]

        return logits.detach().clone(), pull

    @torch.inference_mode()
    def _embed(self, images: Tensor) -> Tensor:
        """Joint-space embeddings (B, E), not normalised."""
        return torch.cat([self._forward(part, self._backbone.project_images) for part in images.split(FORWARD_BATCH)])

    def _forward(self, images: Tensor, tower: Callable[[Tensor], Tensor]) -> Tensor:
        self.images_forwarded += len(images)
        with autocast(self._number_format, self._device):
            return tower(images.to(self._device)).float()

    def _logits(self, embeddings: Tensor, texts: ClassTexts) -> Tensor:
        return self._backbone.logit_scale * F.normalize(embeddings, dim=-1) @ self._classes[texts.digest].T

    @staticmethod
    def _answer(logits: Tensor, texts: ClassTexts, output: Output, k: int) -> Tensor:
        """What a server would send, as a client reads it: a plain tensor of its own."""
        with torch.inference_mode(False):  # an inference tensor could not be an input of training
            return as_scores(restrict(logits.clone(), output, k), len(texts.captions))


def digest_of(images: Tensor) -> str:
    """SHA-256 of images' shape and content."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
