"""The handle through which a method queries a model: every query is checked against the granted rung, counted and charged.

In one process the boundary is a discipline: a handle holds a number, the model is held by the block that grants it, and the table between them holds
it weakly (``petlbench.access.tickets``). ``petlbench serve`` enforces it between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from petlbench.access.border import on_our_side, plain
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
    """Images that the model keeps for further queries. A sum of two queries both, in this order, as one. Only what was uploaded in the same run can be
    queried, and how many images it holds is what was counted then."""

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
    class_count: int
    phase: str | None = None  # of its queries; None: the phase that the meter is in
    uploaded: dict[str, int] = field(default_factory=dict)  # images by digest of the chunk that they were sent in
    graphs: Graphs = field(default_factory=Graphs)

    @property
    def k(self) -> int:
        """Classes named under TOP_K at most."""
        return min(self.query_config.top_k, self.endpoint.facts.top_k or self.query_config.top_k)

    def charge(self, rung: Access, **amounts: int) -> None:
        """Count a query before it is sent."""
        self.meter.charge(rung, self.phase, **amounts)

    def call_size(self, image_bytes: int = 0) -> int:
        """Images per call at most, each of so many bytes with its patches."""
        limits, batch = self.endpoint.facts.limits, self.query_config.batch
        fitting = limits.max_bytes // image_bytes if limits.max_bytes and image_bytes else batch
        return max(1, min(batch, limits.max_images or batch, fitting))

    def contexts_per_call(self, images: int) -> int:
        """Contexts per call at most, for so many images."""
        limits, classes = self.endpoint.facts.limits, self.class_count
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

    @on_our_side
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
        query = _query(grant, images, tokens, patches)
        if needs_gradients(grant, query):
            return as_scores(restrict(_with_gradients(grant, query, texts), grant.output, grant.k), grant.class_count)
        chunks, beside = _pixels(grant, Access.SCORES, query)
        return torch.cat(grant.endpoint.scores(chunks, texts, grant.output, grant.k, beside))

    @property
    def context(self) -> Tensor:
        """Word embeddings (n, W) of the words that all class texts start with."""
        grant = _grant_of(self.ticket, "context", Access.CONTEXT)
        assert grant.context is not None, "CONTEXT is granted with a context"
        return grant.context.clone()

    @on_our_side
    def upload(self, images: Tensor) -> StoredImages:
        """Send normalised images (B, 3, S, S) once, for queries with many contexts. What was uploaded before is not sent again: it counts as cached."""
        grant = _grant_of(self.ticket, "upload", Access.CONTEXT)
        sent = _plain_images(grant, images)
        chunks = sent.detach().split(grant.call_size())
        digests = tuple(digest_of(chunk) for chunk in chunks)
        new = {digest: chunk for digest, chunk in zip(digests, chunks, strict=True) if digest not in grant.uploaded}
        count = sum(len(chunk) for chunk in new.values())
        amounts = {"calls": len(new), "images": count, "bytes": tensor_bytes(*new.values())}
        grant.charge(Access.CONTEXT, cached=len(sent) - count, **amounts)
        grant.endpoint.upload(new)
        grant.uploaded |= {digest: len(chunk) for digest, chunk in new.items()}
        return StoredImages(digests, len(sent))

    @on_our_side
    def context_scores(self, images: Tensor | StoredImages, contexts: Tensor, normalised: bool = True) -> Tensor:
        """Class scores (P, B, C) of images with each of the contexts (P, n, W) in place of the words that all class texts start with.

        Stored images count as cached, once per context. Others are sent with the contexts, in as many calls as they need; upload those that are
        queried with many contexts. ``normalised=False``: of image embeddings as they leave the tower, which no API gives and released
        code uses (CraFT); only a model in this process can.
        """
        grant = _grant_of(self.ticket, "context_scores", Access.CONTEXT)
        texts = _texts_of(grant)
        assert grant.context is not None, "CONTEXT is granted with a context"
        words = _some("contexts", plain("contexts", contexts, ("P", *grant.context.shape))).detach()
        queries: list[Tensor | tuple[str, ...]]
        if is_stored := isinstance(images, StoredImages):
            stored = _known_uploads(grant, images)
            queries, count, weight = [stored], sum(grant.uploaded[digest] for digest in stored), 0
            largest = count
        else:
            pixels = _plain_images(grant, images).detach()
            queries = [*pixels.split(grant.call_size())]
            count, weight, largest = len(pixels), tensor_bytes(pixels), min(len(pixels), grant.call_size())
        chunks = words.split(grant.contexts_per_call(largest))
        sent = {"cached": count * len(words)} if is_stored else {"images": count * len(chunks)}
        sent |= {"calls": len(queries) * len(chunks), "contexts": len(queries) * len(words)}
        grant.charge(Access.CONTEXT, bytes=len(queries) * tensor_bytes(words) + len(chunks) * weight, **sent)
        settings = (texts, grant.output, grant.k, bool(normalised))
        return torch.cat([torch.cat(grant.endpoint.context_scores(asked, chunks, *settings)) for asked in queries], dim=1)

    @on_our_side
    def features(self, images: Tensor, tokens: Tensor | None = None, patches: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of normalised images (B, 3, S, S): the pooled output of the vision tower, before any joint-space projection.

        Tokens and gradients at GRADIENTS, patches below it, as for scores.
        """
        grant = _grant_of(self.ticket, "features", Access.FEATURES, Access.GRADIENTS)
        query = _query(grant, images, tokens, patches)
        if needs_gradients(grant, query):
            return _with_gradients(grant, query, None)
        chunks, beside = _pixels(grant, Access.FEATURES, query)
        return torch.cat(grant.endpoint.features(chunks, beside))


def _grant_of(ticket: int, verb: str, *rungs: Access) -> _Grant:
    """Return the grant of a ticket. AccessError when it does not allow the verb."""
    grant = _grants.redeem(ticket)
    if grant is None:
        raise AccessError(
            f"model.{verb} was called after the run that granted the model had ended, or after the function that was given the model had returned"
        )
    if grant.access not in rungs:
        names = " or ".join(rung.name for rung in rungs)
        raise AccessError(f"model.{verb} needs access {names}, the method declares {grant.access.name}")
    return grant


def _texts_of(grant: _Grant) -> ClassTexts:
    if grant.texts is None:
        raise AccessError(f"{grant.endpoint.facts.name} has no text tower, so it cannot score classes; choose a vision-language backbone")
    return grant.texts


def _known_uploads(grant: _Grant, stored: StoredImages) -> tuple[str, ...]:
    """Return the digests of uploaded images. AccessError when one was not uploaded in this run."""
    digests = tuple(stored.digests)
    if not digests or any(type(digest) is not str or digest not in grant.uploaded for digest in digests):
        raise AccessError("these images were not uploaded in this run; query what model.upload has returned")
    return digests


class _Query(NamedTuple):
    """Images (B, 3, S, S), and tokens (B, K, V) or patches (B, K, 3, Q, Q) beside them, as the harness's own."""

    images: Tensor
    tokens: Tensor | None
    patches: Tensor | None


def _plain_images(grant: _Grant, images: Tensor) -> Tensor:
    side = grant.endpoint.facts.input_size
    return _some("images", plain("images", images, ("B", 3, side, side)))


def _some(name: str, given: Tensor) -> Tensor:
    """ValueError for none, which a server does not answer either."""
    if not len(given):
        raise ValueError(f"{name} must be at least one, got {tuple(given.shape)}")
    return given


def _query(grant: _Grant, images: Tensor, tokens: Tensor | None, patches: Tensor | None) -> _Query:
    """AccessError for tokens below GRADIENTS, for patches at it, and for what the model does not take."""
    facts = grant.endpoint.facts
    own_images, own_tokens, own_patches = _plain_images(grant, images), None, None
    if patches is not None:
        if grant.access is Access.GRADIENTS:
            raise AccessError("patches are for the rungs below GRADIENTS, which takes tokens: no gradient leads to patches")
        if facts.patch_size is None:
            raise AccessError(f"{facts.name} takes no extra patches; choose a ViT that is read at its class token")
        own_patches = plain("patches", patches, (len(own_images), "K", 3, facts.patch_size, facts.patch_size))
        if (limit := facts.limits.max_patches) is not None and own_patches.shape[1] > limit:
            raise AccessError(f"{facts.name} takes at most {limit} patches per image, got {own_patches.shape[1]}")
    if tokens is not None:
        if grant.access is not Access.GRADIENTS:
            raise AccessError(f"tokens need access GRADIENTS, the method declares {grant.access.name}; patches of pixels can be sent there")
        if facts.token_width is None:
            raise AccessError(f"{facts.name} takes no extra tokens; choose a ViT that is read at its class token")
        own_tokens = plain("tokens", tokens, (len(own_images), "K", facts.token_width))
    return _Query(own_images, own_tokens, own_patches)


def needs_gradients(grant: _Grant, query: _Query) -> bool:
    """Return True if a query uses GRADIENTS."""
    return grant.access is Access.GRADIENTS and (query.tokens is not None or (torch.is_grad_enabled() and query.images.requires_grad))


def _with_gradients(grant: _Grant, query: _Query, texts: ClassTexts | None) -> Tensor:
    """Logits (B, C), or without texts features (B, D), that can be differentiated with respect to images and tokens."""
    size = grant.call_size()
    pairs = paired(query.images.split(size), None if query.tokens is None else query.tokens.split(size))
    grant.charge(Access.GRADIENTS, calls=len(pairs), images=len(query.images), bytes=tensor_bytes(query.images, query.tokens))
    return torch.cat([differentiable(partial(grant.endpoint.forward_with_vjp, texts=texts), *pair, grant.graphs) for pair in pairs])


def _pixels(grant: _Grant, rung: Access, query: _Query) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Charge images and patches, and return them in chunks of one call each."""
    sent = tensor_bytes(query.images, query.patches)
    size = grant.call_size(sent // len(query.images))
    chunks = query.images.detach().split(size)
    grant.charge(rung, calls=len(chunks), images=len(query.images), bytes=sent)
    return chunks, None if query.patches is None else query.patches.detach().split(size)


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
    meter.granted = access
    described, context = None, None
    if access is not Access.FEATURES and (endpoint.facts.has_text or endpoint.facts.own_classes):
        meter.charge(texts=texts.count, bytes=texts.bytes)
        described, context = texts, endpoint.describe(texts)
    output = min(endpoint.facts.output, Output(query_config.output))
    granted = _Grant(endpoint, access, meter, described, context, output, query_config, len(class_names))
    with _grants.issued(granted) as ticket:
        yield QueryModel(ticket, endpoint, class_names)


@contextmanager
def handed_to_method(model: QueryModel) -> Iterator[QueryModel]:
    """Yield the model anew for one call of a method. It is invalid after the block, also to a thread that the method has left behind, and whatever it is
    asked counts in the phase that the call was made in."""
    granted = _grants.redeem(model.ticket)
    assert granted is not None, "a model is handed on while it is granted"
    with _grants.issued(replace(granted, phase=granted.meter.phase)) as ticket:
        yield QueryModel(ticket, granted.endpoint, model.class_names)
