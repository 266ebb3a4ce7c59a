"""The interface of a model that can be queried, in this process or over HTTP: its facts, its queries, and what an answer holds.

Letters in shapes: B images, C classes, P contexts, n context words, W width of the word embeddings, D feature width, S input size,
K extra tokens of width V, P patch side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, total_ordering
from typing import Protocol

import torch
from torch import Tensor

_SMALLEST = torch.finfo(torch.float32).tiny  # replaces a probability of 0, so that its logarithm is finite


@total_ordering
class Output(Enum):
    """Names the part of the class scores that an API gives away, least first."""

    LABEL = "label"  # the best class
    TOP_K = "top_k"  # the k best classes with their probabilities
    PROBABILITIES = "probabilities"
    LOGITS = "logits"

    def __lt__(self, other: Output) -> bool:
        order = list(Output)
        return order.index(self) < order.index(other)


@dataclass(frozen=True)
class Card:
    """Describes a backbone as its loader knows it."""

    name: str
    input_size: int  # S, in pixels
    mean: tuple[float, float, float]  # of the normalisation that images must have
    std: tuple[float, float, float]
    source: str  # where the weights come from
    output: Output = Output.LOGITS  # the most that a method can query
    top_k: int | None = None  # classes named under TOP_K at most; None: as many as the query asks for


@dataclass(frozen=True)
class CallLimits:
    """Limits what a model accepts per call; None: no limit."""

    max_images: int | None = None
    max_patches: int | None = None  # per image
    max_contexts: int | None = None
    max_prompts: int | None = None  # contexts times classes
    max_bytes: int | None = None  # of images and their patches


@dataclass(frozen=True, kw_only=True)
class ModelFacts(Card):
    """All that is known of a model that can be queried: its card, and what its towers show. Plain data, so that it leads nobody to the model."""

    feature_width: int  # D
    token_width: int | None = None  # V of extra tokens; None: the model takes none
    patch_size: int | None = None  # Q of extra patches; None: the model takes none
    has_text: bool = False  # whether it can score classes described by texts
    own_classes: int | None = None  # outputs of the classifier among its weights; None: there is no classifier
    limits: CallLimits = CallLimits()


@dataclass(frozen=True)
class ClassTexts:
    """The texts that describe the classes of a task, sent once."""

    captions: tuple[tuple[str, ...], ...]  # per class
    context: str | None = None  # the words that every caption starts with, where a method replaces their embeddings

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.captions, self.context]).encode()).hexdigest()

    @property
    def count(self) -> int:
        return sum(len(captions) for captions in self.captions)

    @property
    def bytes(self) -> int:
        return sum(len(caption.encode(errors="surrogatepass")) for captions in self.captions for caption in captions)


class Endpoint(Protocol):
    """A model that can be queried. Answers are detached, float32 and on the device of the run.

    Texts and stored images are addressed by digests of their content, so that they can be sent again to a server that has forgotten them.
    """

    facts: ModelFacts
    images_forwarded: int  # in this process

    def describe(self, texts: ClassTexts) -> Tensor | None:
        """Send the class texts of a task. Returns the word embeddings (n, W) of ``texts.context``, or None without a context."""
        ...

    def scores(
        self, chunks: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, patches: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Return class scores (B, C) of each chunk (B, 3, S, S), with its patches (B, K, 3, P, P) as extra tokens, one call each (:func:`as_scores`)."""
        ...

    def context_scores(
        self, images: Tensor | Sequence[str], contexts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, normalised: bool
    ) -> list[Tensor]:
        """Return class scores (P, B, C) of images (B, 3, S, S), or of uploaded ones by digest, for each chunk (P, n, W) of contexts, one call each."""
        ...

    def features(self, chunks: Sequence[Tensor], patches: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return embeddings (B, D) of each chunk, with its patches as extra tokens, one call per chunk."""
        ...

    def upload(self, chunks: Mapping[str, Tensor]) -> None:
        """Store images for repeated queries, one call per chunk; each chunk under its digest (:func:`digest_of`)."""
        ...

    def forward_with_vjp(
        self, images: Tensor, tokens: Tensor | None, texts: ClassTexts | None
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        """Return logits (B, C), or without texts embeddings (B, D), of images with extra tokens (B, K, V); and the vector-Jacobian product,
        from a gradient of the answer to the gradients of those of images and tokens that require one."""
        ...


def paired(chunks: Sequence[Tensor], beside: Sequence[Tensor] | None) -> list[tuple[Tensor, Tensor | None]]:
    """Pair each chunk of images with its patches or tokens, or with None."""
    others: Sequence[Tensor | None] = [None] * len(chunks) if beside is None else beside
    return list(zip(chunks, others, strict=True))


def restrict(logits: Tensor, output: Output, k: int) -> dict[str, Tensor]:
    """Reduce logits (..., C) to what an API with this output sends."""
    if output is Output.LOGITS:
        return {"logits": logits}
    if output is Output.LABEL:
        return {"label": logits.argmax(dim=-1)}
    probabilities = logits.softmax(dim=-1)
    if output is Output.PROBABILITIES:
        return {"probabilities": probabilities}
    best = probabilities.topk(min(k, logits.shape[-1]), dim=-1)
    return {"classes": best.indices, "probabilities": best.values}


def as_scores(answer: Mapping[str, Tensor], class_count: int) -> Tensor:
    """Turn an answer into scores (..., C): logits, or log-probabilities, which are -inf for classes that the answer does not name."""
    if "logits" in answer:
        return answer["logits"]
    if "label" in answer:
        classes, logs = answer["label"].unsqueeze(-1), torch.zeros(*answer["label"].shape, 1, device=answer["label"].device)
    else:
        logs = answer["probabilities"].clamp_min(_SMALLEST).log()
        if "classes" not in answer:
            return logs
        classes = answer["classes"]
    scores = torch.full((*classes.shape[:-1], class_count), -torch.inf, device=classes.device)
    return scores.scatter_(-1, classes, logs)


def digest_of(images: Tensor) -> str:
    """Return the SHA-256 of images' shape and content."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def tensor_bytes(*tensors: Tensor | None) -> int:
    """Return the size of tensors sent in float32, in bytes."""
    return sum(4 * tensor.numel() for tensor in tensors if tensor is not None)
