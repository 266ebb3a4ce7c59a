"""Text towers of open_clip: captions to embeddings, and prompts whose leading words are given as vectors.

Letters in shapes: T captions, C classes, P contexts, n words of a context, L token positions, W width of the tower, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import ConfigError

ROWS_ON_CPU, ROWS_ON_ACCELERATOR = 64, 2048  # prompts per forward pass: on a CPU larger batches are slower


def can_trim(tower: Any) -> bool:
    """Whether what follows the end token never reaches the embedding: causal attention, read at the end token."""
    return tower.attn_mask is not None and _pooling(tower)[0] in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None


def trim(tower: Any, tokens: Tensor) -> Tensor:
    """(T, L) ids cut behind the longest caption's end token."""
    pool, end_id = _pooling(tower)
    ends = tokens if pool == "argmax" else tokens.eq(end_id).int()
    return tokens[:, : int(ends.argmax(dim=-1).max()) + 1]


def encode(tower: Any, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
    """(T, L) trimmed ids to embeddings (T, E), not normalised; ``contexts`` (T, n, W) stand in for the embeddings of positions 1..n.

    The steps are those of open_clip's `TextTransformer.forward` and `CLIP.encode_text`, whose mask only fits ids of full length.
    """
    length = tokens.shape[1]
    x = _with_contexts(tower.token_embedding(tokens), contexts) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pool, end_id = _pooling(tower)
    pooled = text_global_pool(x, tokens, pool, eos_token_id=end_id)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection


class ClipText:
    """The text tower of a `CLIP` or `CustomTextCLIP`, or a bare `TextTransformer`, as a backbone sees it. The model is frozen here."""

    def __init__(self, model: Any, tokenize: Callable[[list[str]], Tensor], rows: int | None = None) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenize = tokenize
        self._rows = rows  # prompts per forward pass; None: what suits the device
        holders = (model, getattr(model, "text", None))
        self._tower = next((holder for holder in holders if hasattr(holder, "token_embedding")), None)

    @torch.no_grad()
    def embed(self, captions: list[str]) -> Tensor:
        """(T, E), not normalised, without a graph."""
        return torch.cat([self.encode(part.to(self._device)) for part in self._trimmed(captions).split(self.rows)])

    def in_context(self, captions: list[str], words: str) -> CaptionContexts:
        """Prompts, one per class, that all begin with these words. ConfigError when they do not, or when the tower's words cannot be replaced."""
        if self._tower is None:
            kind = type(getattr(self._model, "text", self._model)).__name__
            raise ConfigError(f"the text tower ({kind}) takes no word embeddings; choose a backbone with open_clip's own text transformer")
        tokens = self._trimmed(captions)
        lead = self._leading_tokens(words)
        for caption, row in zip(captions, tokens, strict=True):
            if not torch.equal(row[1 : 1 + len(lead)], lead):
                raise ConfigError(f"the prompt {caption!r} does not begin with the tokens of {words!r}, which all classes must share")
        initial = self._tower.token_embedding(lead.to(self._device)).detach()
        return CaptionContexts(self, tokens.to(self._device), initial)

    def _leading_tokens(self, words: str) -> Tensor:
        """The ids (n,) of words behind the start token."""
        given, empty = self._tokenize([words, ""])
        different = given != empty  # at the words, and at the end token behind them
        if different[0]:
            raise ConfigError(
                "the text tower's tokenizer puts no start token before the words; choose a backbone with open_clip's own tokenizer"
            )
        if not different.any():
            raise ConfigError(f"a prompt context needs words, got {words!r}; write some before {{}} in the template")
        return given[1 : int(different.sum())]

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    @property
    def rows(self) -> int:
        """Prompts per forward pass."""
        return self._rows or (ROWS_ON_CPU if self._device.type == "cpu" else ROWS_ON_ACCELERATOR)

    @torch.no_grad()
    def encode(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Ids (T, L) as ``_trimmed`` gives them, with the embeddings of positions 1..n replaced by ``contexts`` (T, n, W), to (T, E)."""
        if self._trims:
            return encode(self._tower, tokens, contexts)
        whole = getattr(self._model, "encode_text", self._model)  # a bare text transformer is called itself
        if contexts is None:
            return whole(tokens)
        hook = self._tower.token_embedding.register_forward_hook(lambda _, __, words: _with_contexts(words, contexts))  # type: ignore[union-attr]
        try:
            return whole(tokens)
        finally:
            hook.remove()

    @property
    def _trims(self) -> bool:
        return self._tower is not None and can_trim(self._tower)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _trimmed(self, captions: list[str]) -> Tensor:
        """(T, L) ids on the CPU, cut where that is exact."""
        tokens = self._tokenize(captions)
        return trim(self._tower, tokens) if self._trims else tokens


class CaptionContexts:
    """The prompts of C classes with n leading words, for which vectors can be given. ``initial`` (n, W): the embeddings of the words themselves."""

    def __init__(self, text: ClipText, tokens: Tensor, initial: Tensor) -> None:
        self._text = text
        self._tokens = tokens  # (C, L)
        self.initial = initial

    def embed(self, contexts: Tensor) -> Tensor:
        """Class embeddings (P, C, E), L2-normalised and without a graph, of contexts (P, n, W)."""
        classes = len(self._tokens)
        parts = []
        for rows in torch.arange(len(contexts) * classes, device=self._tokens.device).split(self._text.rows):
            parts.append(self._text.encode(self._tokens[rows % classes], contexts.detach()[rows // classes]))
        return F.normalize(torch.cat(parts), dim=-1).view(len(contexts), classes, -1)


def _with_contexts(words: Tensor, contexts: Tensor | None) -> Tensor:
    """Word embeddings (T, L, W) with those of positions 1..n replaced."""
    return words if contexts is None else torch.cat([words[:, :1], contexts, words[:, 1 + contexts.shape[1] :]], dim=1)


def _pooling(tower: Any) -> tuple[str, int]:
    """How the embedding is read, and the id of the end token; `CLIP` calls them otherwise than its text transformer does."""
    if hasattr(tower, "text_pool_type"):
        return tower.text_pool_type, tower.text_eos_id
    return tower.pool_type, tower.eos_id
