"""The handle through which a method queries a model: every query is checked against the granted rung, counted and charged.

In one process the boundary is a discipline: a handle holds a number, the model is held by the block that grants it, and the table between them holds
it weakly (``petlbench.access.tickets``). ``petlbench serve`` enforces it between processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from petlbench.access.endpoint import ClassTexts, Endpoint, Output, as_scores, digest_of, paired, restrict, tensor_bytes
from petlbench.access.gradients import Graphs, differentiable
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.access.tickets import Tickets
from petlbench.config.settings import QueryConfig
from petlbench.errors import AccessError

MAX_SCORES = 2**24  # scores (P, B, C) in one answer about contexts: 64 MB


@dataclass(frozen=True)
class StoredImages:
    """Images that the model keeps for further queries. A sum of two queries both, in this order, as one."""

    digests: tuple[str, ...]  # of the chunks that they were sent in
    count: int

    def __add__(self, other: StoredImages) -> StoredImages:
        return StoredImages(self.digests + other.digests, self.count + other.count)


@dataclass
class _Grant:
    """The model and the terms behind a ticket. Never reachable from a handle."""

    endpoint: Endpoint
    access: Access
    meter: Meter
    texts: ClassTexts | None
    context: Tensor | None  # (n, W)
    output: Output
    query_config: QueryConfig
    uploaded: set[str] = field(default_factory=set)  # digests
    graphs: Graphs = field(default_factory=Graphs)

    @property
    def k(self) -> int:
        """Classes named under TOP_K at most."""
        return min(self.query_config.top_k, self.endpoint.facts.top_k or self.query_config.top_k)

    def call_size(self, image_bytes: int = 0) -> int:
        """Images per call at most, each of so many bytes with its patches."""
        limits, batch = self.endpoint.facts.limits, self.query_config.batch
        fitting = limits.max_bytes // image_bytes if limits.max_bytes and image_bytes else batch
        return max(1, min(batch, limits.max_images or batch, fitting))

    def contexts_per_call(self, images: int, classes: int) -> int:
        """Contexts per call at most, for so many images."""
        limits = self.endpoint.facts.limits
        return max(
            1, min(MAX_SCORES // (images * classes), limits.max_contexts or MAX_SCORES, (limits.max_prompts or MAX_SCORES) // classes)
        )


_grants: Tickets[_Grant] = Tickets()


class QueryModel:
    """A model that can be queried only. Everything it returns is detached (but for GRADIENTS); nothing it holds leads to a parameter.

    Letters in shapes: B images, C classes, D feature width, S input size, P contexts of n words of width W, K tokens of width V or patches of side Q
    beside an image.
    """

    __slots__ = ("class_names", "feature_width", "has_text", "input_size", "mean", "patch_size", "std", "ticket", "token_width")

    def __init__(self, ticket: int, endpoint: Endpoint, class_names: tuple[str, ...]) -> None:
        facts = endpoint.facts
        self.ticket = ticket
        self.class_names = class_names
        self.input_size = facts.input_size  # S
        self.feature_width = facts.feature_width  # D
        self.mean, self.std = facts.mean, facts.std  # of the normalisation that inputs must have
        self.has_text = facts.has_text  # True: it can score classes described by texts
        self.token_width = facts.token_width  # V; None: it takes no tokens
        self.patch_size = facts.patch_size  # Q; None: it takes no patches

    def scores(self, images: Tensor, tokens: Tensor | None = None, patches: Tensor | None = None) -> Tensor:
        """Class scores (B, C) of normalised images (B, 3, S, S), in as many calls as they need.

        Logits, which are cosine similarities with the class texts times the model's scale; under a restricted output log-probabilities,
        which are -inf for classes that the answer does not name.

        At GRADIENTS they can be differentiated, once, with respect to the images and to tokens (B, K, V), which the vision tower reads behind those
        of the image: without a position, before a CLIP tower's ln_pre. Below that rung patches (B, K, 3, Q, Q) of normalised pixels can be sent
        in their place, which the tower's patch embedding turns into such tokens.
        """
        grant = _grant_of(self.ticket, "scores", Access.SCORES, Access.CONTEXT, Access.GRADIENTS)
        texts = _texts_of(grant)
        if needs_gradients(grant, images, tokens, patches):
            return as_scores(restrict(_with_gradients(grant, images, tokens, texts), grant.output, grant.k), len(self.class_names))
        chunks, beside = _pixels(grant, Access.SCORES, images, patches)
        return torch.cat(grant.endpoint.scores(chunks, texts, grant.output, grant.k, beside))

    @property
    def context(self) -> Tensor:
        """Word embeddings (n, W) of the words that all class texts start with."""
        grant = _grant_of(self.ticket, "context", Access.CONTEXT)
        assert grant.context is not None, "CONTEXT is granted with a context"
        return grant.context.clone()

    def upload(self, images: Tensor) -> StoredImages:
        """Send normalised images (B, 3, S, S) once, for queries with many contexts. What was uploaded before is not sent again: it counts as cached."""
        grant = _grant_of(self.ticket, "upload", Access.CONTEXT)
        chunks = images.detach().split(grant.call_size())
        digests = tuple(digest_of(chunk) for chunk in chunks)
        new = {digest: chunk for digest, chunk in zip(digests, chunks, strict=True) if digest not in grant.uploaded}
        count = sum(len(chunk) for chunk in new.values())
        sent = {"calls": len(new), "images": count, "bytes": tensor_bytes(*new.values())}
        grant.meter.charge(Access.CONTEXT, cached=len(images) - count, **sent)
        grant.endpoint.upload(new)
        grant.uploaded |= new.keys()
        return StoredImages(digests, len(images))

    def context_scores(self, images: Tensor | StoredImages, contexts: Tensor, normalised: bool = True) -> Tensor:
        """Class scores (P, B, C) of images with each of the contexts (P, n, W) in place of the words that all class texts start with.

        Stored images count as cached, once per context. Others are sent with the contexts, in as many calls as they need; upload those that are
        queried with many contexts. ``normalised=False``: of image embeddings as they leave the tower, which no API gives and released
        code uses (CraFT); only a model in this process can.
        """
        grant = _grant_of(self.ticket, "context_scores", Access.CONTEXT)
        texts = _texts_of(grant)
        if isinstance(images, StoredImages):
            queries: list[Tensor | tuple[str, ...]] = [images.digests]
            count, weight, largest = images.count, 0, images.count
        else:
            queries = [*images.detach().split(grant.call_size())]
            count, weight, largest = len(images), tensor_bytes(images), min(len(images), grant.call_size())
        chunks = contexts.detach().split(grant.contexts_per_call(largest, len(self.class_names)))
        sent = {"cached": count * len(contexts)} if isinstance(images, StoredImages) else {"images": count * len(chunks)}
        sent |= {"calls": len(queries) * len(chunks), "contexts": len(queries) * len(contexts)}
        grant.meter.charge(Access.CONTEXT, bytes=len(queries) * tensor_bytes(contexts) + len(chunks) * weight, **sent)
        settings = (texts, grant.output, grant.k, normalised)
        return torch.cat([torch.cat(grant.endpoint.context_scores(asked, chunks, *settings)) for asked in queries], dim=1)

    def features(self, images: Tensor, tokens: Tensor | None = None, patches: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of normalised images (B, 3, S, S): the pooled output of the vision tower, before any joint-space projection.

        Tokens and gradients at GRADIENTS, patches below it, as for scores.
        """
        grant = _grant_of(self.ticket, "features", Access.FEATURES, Access.GRADIENTS)
        if needs_gradients(grant, images, tokens, patches):
            return _with_gradients(grant, images, tokens, None)
        chunks, beside = _pixels(grant, Access.FEATURES, images, patches)
        return torch.cat(grant.endpoint.features(chunks, beside))


def _grant_of(ticket: int, verb: str, *rungs: Access) -> _Grant:
    """Return the grant of a ticket. AccessError when it does not allow the verb."""
    grant = _grants.redeem(ticket)
    if grant is None:
        raise AccessError(f"model.{verb} was called after the run that granted the model had ended")
    if grant.access not in rungs:
        names = " or ".join(rung.name for rung in rungs)
        raise AccessError(f"model.{verb} needs access {names}, the method declares {grant.access.name}")
    return grant


def _texts_of(grant: _Grant) -> ClassTexts:
    if grant.texts is None:
        raise AccessError(f"{grant.endpoint.facts.name} has no text tower, so it cannot score classes; choose a vision-language backbone")
    return grant.texts


def needs_gradients(grant: _Grant, images: Tensor, tokens: Tensor | None, patches: Tensor | None) -> bool:
    """Return True if a query uses GRADIENTS. AccessError for tokens at another rung, and for patches at this one."""
    if grant.access is Access.GRADIENTS:
        if patches is not None:
            raise AccessError("patches are for the rungs below GRADIENTS, which takes tokens: no gradient leads to patches")
        return tokens is not None or (torch.is_grad_enabled() and images.requires_grad)
    if tokens is not None:
        raise AccessError(f"tokens need access GRADIENTS, the method declares {grant.access.name}; patches of pixels can be sent there")
    return False


def _with_gradients(grant: _Grant, images: Tensor, tokens: Tensor | None, texts: ClassTexts | None) -> Tensor:
    """Logits (B, C), or without texts features (B, D), that can be differentiated with respect to images and tokens."""
    facts, size = grant.endpoint.facts, grant.call_size()
    if tokens is not None:
        if facts.token_width is None:
            raise AccessError(f"{facts.name} takes no extra tokens; choose a ViT that is read at its class token")
        _check_beside("tokens", tokens, images, (facts.token_width,))
    pairs = paired(images.split(size), None if tokens is None else tokens.split(size))
    grant.meter.charge(Access.GRADIENTS, calls=len(pairs), images=len(images), bytes=tensor_bytes(images, tokens))
    return torch.cat([differentiable(partial(grant.endpoint.forward_with_vjp, texts=texts), *pair, grant.graphs) for pair in pairs])


def _pixels(grant: _Grant, rung: Access, images: Tensor, patches: Tensor | None) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
    """Charge images and patches, and return them in chunks of one call each."""
    if patches is not None:
        _check_patches(grant, patches, images)
    sent = tensor_bytes(images, patches)
    size = grant.call_size(sent // max(1, len(images)))
    chunks = images.detach().split(size)
    grant.meter.charge(rung, calls=len(chunks), images=len(images), bytes=sent)
    return chunks, None if patches is None else patches.detach().split(size)


def _check_patches(grant: _Grant, patches: Tensor, images: Tensor) -> None:
    facts = grant.endpoint.facts
    if facts.patch_size is None:
        raise AccessError(f"{facts.name} takes no extra patches; choose a ViT that is read at its class token")
    _check_beside("patches", patches, images, (3, facts.patch_size, facts.patch_size))
    if (limit := facts.limits.max_patches) is not None and patches.shape[1] > limit:
        raise AccessError(f"{facts.name} takes at most {limit} patches per image, got {patches.shape[1]}")


def _check_beside(name: str, given: Tensor, images: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless ``given`` has shape (B, K, *shape) for B images."""
    if given.ndim != 2 + len(shape) or tuple(given.shape[2:]) != shape or len(given) != len(images):
        wanted = ", ".join(map(str, (len(images), "K", *shape)))
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(given.shape)}")


@contextmanager
def grant(
    access: Access,
    endpoint: Endpoint,
    class_names: tuple[str, ...],
    texts: ClassTexts,
    meter: Meter,
    query_config: QueryConfig,
) -> Iterator[QueryModel]:
    """Yield a model for one run. Class texts are sent once, here; the handle is invalid after the block."""
    if access > Access.GRADIENTS:
        raise AccessError(f"{access.name} cannot be granted for queries")
    described, context = None, None
    if access is not Access.FEATURES and (endpoint.facts.has_text or endpoint.facts.own_classes):
        meter.charge(texts=texts.count, bytes=texts.bytes)
        described, context = texts, endpoint.describe(texts)
    output = min(endpoint.facts.output, Output(query_config.output))
    with _grants.issued(_Grant(endpoint, access, meter, described, context, output, query_config)) as ticket:
        yield QueryModel(ticket, endpoint, class_names)
