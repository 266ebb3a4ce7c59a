"""Text towers of open_clip: captions to embeddings, and prompts whose leading words are given as vectors.

Letters in shapes: T captions, C classes, P contexts, n words of a context, L token positions, W width of the tower, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import ConfigError

if TYPE_CHECKING:
    from petlbench.backbones.backbone import Contexts, TextTower

ROWS_ON_CPU, ROWS_ON_ACCELERATOR = 128, 2048  # prompts per forward pass: on a CPU larger batches are slower


def can_trim(tower: Any) -> bool:
    """Return True if positions behind the end token never reach the embedding: causal attention, read at the end token."""
    return tower.attn_mask is not None and _pooling(tower)[0] in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None


def can_share(tower: Any) -> bool:
    """Return True if the positions before the class names can be computed once per context: a tower that can be trimmed, of open_clip's default blocks."""
    from open_clip.transformer import ResidualAttentionBlock

    return can_trim(tower) and all(type(block) is ResidualAttentionBlock for block in tower.transformer.resblocks)


def trim(tower: Any, tokens: Tensor) -> Tensor:
    """Cut ids (T, L) behind the end token of the longest caption."""
    pool, end_id = _pooling(tower)
    ends = tokens if pool == "argmax" else tokens.eq(end_id).int()
    return tokens[:, : int(ends.argmax(dim=-1).max()) + 1]


def encode(tower: Any, tokens: Tensor) -> Tensor:
    """(T, L) trimmed ids to embeddings (T, E), not normalised.

    The steps are those of open_clip's `TextTransformer.forward` and `CLIP.encode_text`, whose mask only fits ids of full length.
    """
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    return _read(tower, tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]), tokens)


def encode_once_per_context(tower: Any, tokens: Tensor, contexts: Tensor) -> Tensor:
    """Trimmed ids (C, L), whose positions 1..n hold contexts (P, n, W), to embeddings (P * C, E), not normalised.

    Under the causal mask nothing of a class reaches the positions before its name: these go through the tower once per context and not
    once per prompt, which halves the work where class names are about as long as the context.
    """
    classes, lead = len(tokens), 1 + contexts.shape[1]
    words = tower.token_embedding(tokens) + tower.positional_embedding[: tokens.shape[1]]  # (C, L, W)
    start = words[:1, :1].expand(len(contexts), -1, -1)
    shared = torch.cat([start, contexts + tower.positional_embedding[1:lead]], dim=1)  # (P, 1 + n, W)
    own = words[:, lead:].repeat(len(contexts), 1, 1)  # (P * C, L - 1 - n, W)
    mask = tower.attn_mask[: tokens.shape[1], : tokens.shape[1]]
    for block in tower.transformer.resblocks:
        shared_queries, own_queries = block.ln_1(shared), block.ln_1(own)
        keys = torch.cat([shared_queries.repeat_interleave(classes, dim=0), own_queries], dim=1)
        shared = shared + block.ls_1(block.attention(shared_queries, attn_mask=mask[:lead, :lead]))
        own = own + block.ls_1(block.attention(own_queries, keys, keys, attn_mask=mask[lead:]))
        shared, own = (x + block.ls_2(block.mlp(block.ln_2(x))) for x in (shared, own))
    return _read(tower, own, tokens[:, lead:].repeat(len(contexts), 1))


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
        """Return embeddings (T, E), not normalised, without a graph."""
        tokens = self._tokenize(captions)
        if self._tower is None or not can_trim(self._tower):
            return torch.cat([self._encode_whole(part.to(self._device)) for part in tokens.split(self.rows)])
        return torch.cat([encode(self._tower, part.to(self._device)) for part in trim(self._tower, tokens).split(self.rows)])

    def in_context(self, captions: list[str], words: str) -> CaptionContexts:
        """Return prompts, one per class, whose leading ``words`` can be replaced. ConfigError when a caption does not begin with them, or when the tower
        cannot replace them."""
        if self._tower is None:
            kind = type(getattr(self._model, "text", self._model)).__name__
            raise ConfigError(f"the text tower ({kind}) takes no word embeddings; choose a backbone with open_clip's own text transformer")
        tokens, lead = self._tokenize(captions), self._leading_tokens(words)
        for caption, row in zip(captions, tokens, strict=True):
            if not torch.equal(row[1 : 1 + len(lead)], lead):
                raise ConfigError(f"the prompt {caption!r} does not begin with the tokens of {words!r}, which all classes must share")
        if can_share(self._tower):
            tokens = trim(self._tower, tokens)
        initial = self._tower.token_embedding(lead.to(self._device)).detach()
        return CaptionContexts(self, tokens.to(self._device), initial)

    @torch.no_grad()
    def encode_in_contexts(self, tokens: Tensor, contexts: Tensor) -> Tensor:
        """Ids (C, L), with the embeddings of positions 1..n replaced by each of the contexts (P, n, W), to (P, C, E); for :class:`CaptionContexts`."""
        assert self._tower is not None
        if can_share(self._tower):
            embeddings = encode_once_per_context(self._tower, tokens, contexts)
        else:
            given = contexts.repeat_interleave(len(tokens), dim=0)
            hook = self._tower.token_embedding.register_forward_hook(
                lambda _, __, words: torch.cat([words[:, :1], given, words[:, 1 + given.shape[1] :]], dim=1)
            )
            try:
                embeddings = self._encode_whole(tokens.repeat(len(contexts), 1))
            finally:
                hook.remove()
        return embeddings.view(len(contexts), len(tokens), -1)

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    @property
    def rows(self) -> int:
        """Prompts per forward pass."""
        return self._rows or (ROWS_ON_CPU if self._device.type == "cpu" else ROWS_ON_ACCELERATOR)

    def _encode_whole(self, tokens: Tensor) -> Tensor:
        """Ids (T, L) of full length to (T, E) as the model itself does it; a bare text transformer is called."""
        return getattr(self._model, "encode_text", self._model)(tokens)

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
        return given[1 : int(different.nonzero().max())]

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


class LateText:
    """A text tower that is built on first use, so that runs on images only do not wait for open_clip.

    Importing open_clip imports transformers wherever that is installed, as it is beside peft: together a second of processor time.
    """

    def __init__(self, build: Callable[[], TextTower]) -> None:
        self._build = build
        self._device: torch.device | None = None

    def embed(self, captions: list[str]) -> Tensor:
        """Return embeddings (T, E), not normalised, without a graph."""
        return self._tower.embed(captions)

    def in_context(self, captions: list[str], words: str) -> Contexts:
        """Return prompts, one per class, whose leading ``words`` can be replaced. ConfigError when a caption does not begin with them, or when the tower
        cannot replace them."""
        return self._tower.in_context(captions, words)

    def to(self, device: torch.device) -> None:
        self._device = device
        if "_tower" in vars(self):
            self._tower.to(device)

    @cached_property
    def _tower(self) -> TextTower:
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn before the right ones are loaded shift no other draw
            tower = self._build()
        if self._device is not None:
            tower.to(self._device)
        return tower


class CaptionContexts:
    """The prompts of C classes, whose n leading words can be replaced by vectors. ``initial`` (n, W): the embeddings of the words themselves."""

    def __init__(self, text: ClipText, tokens: Tensor, initial: Tensor) -> None:
        self._text = text
        self._tokens = tokens  # (C, L)
        self.initial = initial

    def embed(self, contexts: Tensor) -> Tensor:
        """Return class embeddings (P, C, E), L2-normalised and without a graph, of contexts (P, n, W)."""
        rows = self._text.rows
        parts = []
        for some in contexts.detach().split(max(1, rows // len(self._tokens))):
            parts.append(torch.cat([self._text.encode_in_contexts(tokens, some) for tokens in self._tokens.split(rows)], dim=1))
        return F.normalize(torch.cat(parts), dim=-1)


def _read(tower: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """Pool the output (T, L, W) of the blocks at the end of the ids (T, L): embeddings (T, E)."""
    from open_clip.transformer import text_global_pool

    pool, end_id = _pooling(tower)
    pooled = text_global_pool(tower.ln_final(x), tokens, pool, eos_token_id=end_id)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection


def _pooling(tower: Any) -> tuple[str, int]:
    """Return the pooling and the id of the end token; `CLIP` names them differently from its text transformer."""
    if hasattr(tower, "text_pool_type"):
        return tower.text_pool_type, tower.text_eos_id
    return tower.pool_type, tower.eos_id
