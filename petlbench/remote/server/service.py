"""The queries of the routes: check a query, compute its answer, pack it. Independent of HTTP except for refusals.

Letters in shapes: B images, C classes, E joint width, P contexts, n context words, W width of the word embeddings, S input size.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from cachetools import LRUCache
from pydantic import ValidationError
from torch import Tensor

from petlbench.access.endpoint import CallLimits, Output, digest_of, restrict
from petlbench.access.handle import MAX_SCORES
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.local import ClassHead, LocalEndpoint
from petlbench.optim.precision import choose
from petlbench.remote.server.memory import weighted_cache
from petlbench.remote.server.metrics import Metrics
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.server.worker import Worker
from petlbench.remote.wire import (
    LONGEST_CAPTION,
    UNKNOWN_IMAGES,
    UNKNOWN_TEXTS,
    ContextsWords,
    Refusal,
    ScoresWords,
    ServedModel,
    TextsMessage,
    pack,
    unpack,
)

M = TypeVar("M", TextsMessage, ScoresWords, ContextsWords)
JOINT, FEATURES = "joint", "features"  # towers: into the space of the texts, and before the projection into it


class Service:
    """Answers the queries of one backbone; queries and answers are documents (``petlbench.remote.wire``)."""

    def __init__(self, backbone: Backbone, config: ServeConfig, device: torch.device) -> None:
        number_format = choose(config.precision, device, backbone.parameter_count)
        self._endpoint = LocalEndpoint(backbone, device, number_format)
        self.model = _described_model(backbone, config, number_format)
        self._facts = self.model.facts
        self._max_images = config.images_per_request(self._facts.input_size)
        self.metrics = Metrics()
        towers = {JOINT: self._endpoint.embed, FEATURES: self._features}
        self.worker = Worker(towers, config.batch_images, config.batch_delay_ms / 1000, self.metrics)
        self._config = config
        self._texts: LRUCache[str, ClassHead] = LRUCache(config.keep_texts)
        self._images: LRUCache[str, Tensor] = weighted_cache(config.keep_images, len)  # (B, E)

    async def describe(self, body: bytes) -> bytes:
        """Store class texts (JSON) and return the word embeddings (n, W) of their context, if they have one."""
        if not self._facts.has_text:
            raise Refusal(400, "no_text_tower", f"{self._facts.name} has no text tower, so it cannot score classes")
        self._check_length(body)
        texts = (await asyncio.to_thread(_validated, TextsMessage, body)).texts()
        if texts.count > self._config.max_texts:
            raise Refusal(
                413, "too_many_texts", f"at most {self._config.max_texts:,} captions per request, got {texts.count:,} (max_texts)"
            )
        known = self._texts.get(texts.digest)
        if known is None:
            known = await asyncio.wrap_future(self.worker.compute(lambda: self._endpoint.described(texts)))
            self._texts[texts.digest] = known
        self.metrics.texts.inc(texts.count)
        return pack({} if known.contexts is None else {"context": known.contexts.initial}, digest=texts.digest)

    async def scores(self, body: bytes) -> bytes:
        """Answer class scores (B, C), within the output, for images (B, 3, S, S) with optional patches (B, K, 3, P, P)."""
        tensors, words = await _unpacked(body)
        question = _validated(ScoresWords, words)
        known, images = self._known(question), self._checked_images(tensors)
        patches = self._checked_patches(tensors, len(images))

        def finish(embeddings: Tensor) -> bytes:
            return self._answer(self._endpoint.logits(embeddings, known), question)

        reply = await asyncio.wrap_future(self.worker.through(JOINT, images, finish, patches))
        self.metrics.images.inc(len(images))
        return reply

    async def contexts(self, body: bytes) -> bytes:
        """Answer class scores (P, B, C), within the output, for contexts (P, n, W) and images (B, 3, S, S) or digests of uploaded ones."""
        tensors, words = await _unpacked(body)
        question = _validated(ContextsWords, words)
        if words.get("normalised", "True") != "True":
            raise Refusal(400, "not_offered", "scores of unnormalised image embeddings are not offered; use a model in this process")
        known = self._known(question)
        contexts = self._checked_contexts(tensors, known)
        stored = self._uploaded(question.stored.split())
        images = torch.empty(0) if stored else self._checked_images(tensors)
        asked = len(contexts) * (sum(map(len, stored)) or len(images)) * len(known.classes)
        if asked > MAX_SCORES:
            raise Refusal(413, "too_many_scores", f"at most {MAX_SCORES:,} scores per request, {asked:,} asked for; send fewer contexts")

        def finish(embeddings: Tensor) -> bytes:
            return self._answer(self._endpoint.context_logits(embeddings, contexts, known), question)

        answered = self.worker.compute(lambda: finish(torch.cat(stored))) if stored else self.worker.through(JOINT, images, finish)
        reply = await asyncio.wrap_future(answered)
        self.metrics.contexts.inc(len(contexts))
        self.metrics.images.inc(len(images))
        return reply

    async def features(self, body: bytes) -> bytes:
        """Answer embeddings (B, D) for images (B, 3, S, S) with optional patches (B, K, 3, P, P)."""
        tensors, _ = await _unpacked(body)
        images = self._checked_images(tensors)
        patches = self._checked_patches(tensors, len(images))
        reply = await asyncio.wrap_future(self.worker.through(FEATURES, images, lambda rows: pack({"features": rows}), patches))
        self.metrics.images.inc(len(images))
        return reply

    async def upload(self, body: bytes) -> bytes:
        """Store the embeddings of images (B, 3, S, S) and answer their digest."""
        images = self._checked_images((await _unpacked(body))[0])
        digest = await asyncio.to_thread(digest_of, images)
        if self._images.get(digest) is None:
            embeddings = await asyncio.wrap_future(self.worker.through(JOINT, images, lambda rows: rows.clone()))
            self._images[digest] = embeddings
        self.metrics.images.inc(len(images))
        return pack({}, digest=digest)

    def _features(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        return self._endpoint.features([images], None if patches is None else [patches])[0]

    def _check_length(self, body: bytes) -> None:
        """Refuse far too many captions before they are parsed, which would delay all other requests."""
        most, marks = self._config.max_texts, body.count(b'"') + body.count(b"[") + body.count(b",")
        if len(body) > 2**16 + 1100 * most or marks > 1000 + 16 * most:
            raise Refusal(
                413, "too_many_texts", f"at most {most:,} captions per request (max_texts), of {LONGEST_CAPTION:,} characters each"
            )

    def _known(self, question: ScoresWords) -> ClassHead:
        if question.output > self._facts.output:
            raise Refusal(403, "output_not_offered", f"{question.output.value} is more than this server gives, {self._facts.output.value}")
        known = self._texts.get(question.texts)
        if known is None:
            raise Refusal(404, UNKNOWN_TEXTS, f"no texts {question.texts[:12]}… here; send them to /v1/texts")
        return known

    def _uploaded(self, digests: list[str]) -> list[Tensor]:
        """Return the embeddings (B, E) of uploads. An upload may be named more than once."""
        parts = [self._images.get(digest) for digest in digests]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            raise Refusal(404, UNKNOWN_IMAGES, f"{len(parts) - len(found)} of {len(parts)} uploads are not here; send them to /v1/images")
        count, limit = sum(map(len, found)), max(self._config.keep_images, *map(len, found), 0)
        if count > limit:
            raise Refusal(413, "too_many_images", f"at most {limit:,} uploaded images per question, {count:,} named (keep_images)")
        return found

    def _checked_images(self, tensors: Mapping[str, Tensor]) -> Tensor:
        images, size = tensors.get("images"), self._facts.input_size
        wanted = f"'images', float32 of shape (B, 3, {size}, {size})"
        if images is None:
            raise Refusal(400, "bad_images", f"expected {wanted}, got {_names(tensors)}")
        if images.dtype is not torch.float32 or images.ndim != 4 or images.shape[1:] != (3, size, size) or not len(images):
            raise Refusal(400, "bad_images", f"expected {wanted}, got {_kind(images)}")
        if len(images) > self._max_images:
            raise Refusal(413, "too_many_images", f"at most {self._max_images:,} images per request, got {len(images):,} (max_images)")
        return images

    def _checked_patches(self, tensors: Mapping[str, Tensor], images: int) -> Tensor | None:
        patches, side = tensors.get("patches"), self._facts.patch_size
        if patches is None:
            return None
        if side is None:
            raise Refusal(400, "no_patches", f"{self._facts.name} takes no extra patches")
        if patches.dtype is not torch.float32 or patches.ndim != 5 or len(patches) != images or patches.shape[2:] != (3, side, side):
            wanted = f"'patches', float32 of shape ({images}, K, 3, {side}, {side})"
            raise Refusal(400, "bad_patches", f"expected {wanted}, got {_kind(patches)}")
        if patches.shape[1] > self._config.max_patches:
            limit = f"at most {self._config.max_patches:,} patches per image"
            raise Refusal(413, "too_many_patches", f"{limit}, got {patches.shape[1]:,} (max_patches)")
        return patches

    def _checked_contexts(self, tensors: Mapping[str, Tensor], known: ClassHead) -> Tensor:
        if known.contexts is None:
            raise Refusal(400, "no_context", "these texts were sent without a context, so there is none to replace")
        contexts, shape = tensors.get("contexts"), tuple(known.contexts.initial.shape)
        wanted = f"'contexts', float32 of shape (P, {shape[0]}, {shape[1]})"
        if contexts is None:
            raise Refusal(400, "bad_contexts", f"expected {wanted}, got {_names(tensors)}")
        if contexts.dtype is not torch.float32 or tuple(contexts.shape[1:]) != shape or not len(contexts):
            raise Refusal(400, "bad_contexts", f"expected {wanted}, got {_kind(contexts)}")
        if len(contexts) > self._config.max_contexts:
            limit = f"at most {self._config.max_contexts:,} contexts per request"
            raise Refusal(413, "too_many_contexts", f"{limit}, got {len(contexts):,} (max_contexts)")
        prompts = len(contexts) * len(known.classes)
        if len(contexts) > 1 and prompts > self._config.max_prompts:  # one context is answered with any number of classes
            limit = f"at most {self._config.max_prompts:,} contexts times classes per request"
            raise Refusal(413, "too_many_prompts", f"{limit}, got {prompts:,} (max_prompts)")
        return contexts

    def _answer(self, logits: Tensor, question: ScoresWords) -> bytes:
        k = min(question.k, self._facts.top_k or question.k)
        return pack(restrict(logits, question.output, k))


def _described_model(backbone: Backbone, config: ServeConfig, number_format: str) -> ServedModel:
    facts = backbone.facts
    output = min(facts.output, Output(config.output))
    served = replace(
        facts,
        output=output,
        top_k=min(config.top_k, facts.top_k or config.top_k) if output is Output.TOP_K else None,
        own_classes=None,  # a server scores classes described by texts only
        limits=CallLimits(
            max_images=config.images_per_request(facts.input_size),
            max_patches=config.max_patches,
            max_contexts=config.max_contexts,
            max_prompts=config.max_prompts,
            max_bytes=config.image_bytes,
        ),
    )
    return ServedModel(
        facts=served,
        sha256=backbone.checksum(),
        parameters=backbone.parameter_count,
        precision=number_format,  # type: ignore[arg-type]
        max_body=config.body_bytes,
        text_sha256=None if backbone.text is None else _text_checksum(backbone),
    )


def _text_checksum(backbone: Backbone) -> str:
    """Return the SHA-256 of a caption's scaled embedding. It is rounded, because the number of threads may change last bits."""
    answer = (backbone.logit_scale * backbone.embed_classes([["a photo of a newt."]])).float().cpu().round(decimals=2) + 0.0
    return hashlib.sha256(answer.contiguous().numpy().tobytes()).hexdigest()


async def _unpacked(body: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return await asyncio.to_thread(unpack, body)  # other requests are answered meanwhile
    except ValueError as error:
        raise Refusal(400, "bad_body", str(error)) from None


def _validated(message: type[M], content: bytes | Mapping[str, str]) -> M:
    try:
        return message.model_validate_json(content) if isinstance(content, bytes) else message.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refusal(400, "bad_message", f"{where}: {first['msg']}") from None


def _names(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(tensors)[:100] or "no arrays"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {str(tuple(tensor.shape))[:100]}"
