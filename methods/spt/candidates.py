"""The weights that SPT ranks, in the order of the released code: linear layers and norms of every block, then the last norm.

Query, key and value count as three linears, though timm fuses them. Class token, embeddings and head are no candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petlbench.errors import ConfigError

MATRICES = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")  # of a block, in candidate order
_PARTS = {"attn.qkv": MATRICES[:3]}  # what timm fuses; every other module is one part
_IN_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Candidate:
    """A tensor of the backbone: a weight matrix (out, in) of a linear layer, its bias (out,), or a vector of a norm."""

    name: str  # such as blocks.0.attn.q.weight
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2

    @property
    def is_norm(self) -> bool:
        return self.name.split(".")[-2].startswith("norm")


@dataclass(frozen=True)
class Place:
    """Locates a candidate in timm's model: these rows of that parameter."""

    parameter: str  # such as blocks.0.attn.qkv.weight
    rows: slice


def candidates(vit: VisionTransformer) -> list[Candidate]:
    """List all candidates in their order, which flat positions count along. ConfigError when the blocks are built otherwise."""
    return [candidate for candidate, _ in located(vit)]


def places(vit: VisionTransformer) -> dict[str, Place]:
    """Map the name of each candidate to its place."""
    return {candidate.name: place for candidate, place in located(vit)}


def located(vit: VisionTransformer) -> Iterator[tuple[Candidate, Place]]:
    """Every candidate with its place, in candidate order. Tensors that a block lacks, such as the bias of qkv, are left out."""
    for number, block in enumerate(vit.blocks):
        for name in _IN_BLOCK:
            yield from _of_module(_module(block, name), f"blocks.{number}.", name)
    yield from _of_module(vit.norm, "", "norm")


def _module(block: nn.Module, name: str) -> nn.Module:
    try:
        module = block.get_submodule(name)
    except AttributeError:
        module = None
    if module is None or not (name.startswith("norm") or isinstance(module, nn.Linear)):
        raise ConfigError(
            f"method spt needs a vision transformer whose blocks have {', '.join(_IN_BLOCK)}: "
            f"{type(block).__name__} has no {'' if name.startswith('norm') else 'linear layer '}{name}; choose another backbone.name"
        )
    return module


def _of_module(module: nn.Module, prefix: str, name: str) -> Iterator[tuple[Candidate, Place]]:
    parts = _PARTS.get(name, (name,))
    for number, part in enumerate(parts):
        for leaf in ("weight", "bias"):
            parameter = getattr(module, leaf, None)
            if parameter is not None:
                length = len(parameter) // len(parts)
                candidate = Candidate(f"{prefix}{part}.{leaf}", (length, *parameter.shape[1:]))
                yield candidate, Place(f"{prefix}{name}.{leaf}", slice(number * length, (number + 1) * length))
