"""The blocks of a vision transformer below the first that a method changes: for inputs that do not change, computed once for all epochs.

Letters in shapes: B images of a batch, N images of a split, T tokens, D block width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn

from petlbench.data.batches import Batches
from petlbench.optim.precision import autocast

_AFTER_THE_BLOCKS = ("norm", "fc_norm", "head_drop", "head")
Fingerprint = list[object]


def fingerprints(vit: Any) -> list[Fingerprint]:
    """Return a fingerprint of the embedding and of every block of a timm ViT: modules, hooks, parameters, and whether these train."""
    return [_fingerprint(vit, leave_out=("blocks", *_AFTER_THE_BLOCKS)), *(_fingerprint(block) for block in vit.blocks)]


def untouched_blocks(before: list[Fingerprint], after: list[Fingerprint]) -> int:
    """Return the number of unchanged blocks from the bottom; 0 when the embedding has changed."""
    same = [one == other for one, other in zip(before, after, strict=True)]
    return max(0, ([*same, False].index(False)) - 1)


def _fingerprint(module: nn.Module, leave_out: tuple[str, ...] = ()) -> Fingerprint:
    found: Fingerprint = []
    for name, part in module.named_modules():
        if name.split(".")[0] not in leave_out:
            hooks = len(part._forward_hooks) + len(part._forward_pre_hooks)
            found.append((name, type(part), hooks, "forward" in vars(part)))
    for name, tensor in module.named_parameters():
        if name.split(".")[0] not in leave_out:
            found.append((name, tensor.data_ptr(), tensor.requires_grad))
    return found


class Suffix(nn.Module):
    """The blocks of an adapted model from ``start`` on, and its head: tokens (B, T, D) -> scores (B, C)."""

    def __init__(self, vit: Any, head: nn.Module, start: int) -> None:
        super().__init__()
        self.vit, self.head, self._start = vit, head, start

    def forward(self, tokens: Tensor) -> Tensor:
        blocks = self.vit.blocks[self._start :]
        tokens = checkpoint_seq(blocks, tokens) if self.vit.grad_checkpointing and self.training else blocks(tokens)
        scores: Tensor = self.head(self.vit.forward_head(self.vit.norm(tokens)))
        return scores


class Prefix:
    """The outputs of the first ``blocks`` blocks of a tower for some splits, computed on first use.

    ``limit_mb`` (2^20 bytes) bounds the memory of all splits together.
    """

    def __init__(self, vit: Any, blocks: int, number_format: str, limit_mb: int, splits: Iterable[Batches]) -> None:
        self._vit, self._blocks, self._number_format = vit, blocks, number_format
        self._bytes_left = limit_mb * 2**20
        self._activations: dict[Batches, Activations | None] = dict.fromkeys(splits)

    def state_dict(self) -> dict[str, Any]:
        return {"computed": [kept is not None for kept in self._activations.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compute what another one had computed: it counts the images once that it forwards for that."""
        for batches, is_computed in zip(self._activations, state["computed"], strict=True):
            if is_computed:
                self[batches]

    def __contains__(self, batches: Batches) -> bool:
        return batches in self._activations

    def __getitem__(self, batches: Batches) -> Activations:
        kept = self._activations[batches]
        if kept is None:
            kept = self._activations[batches] = Activations(self._vit, batches, self._blocks, self._number_format, self._bytes_left)
            self._bytes_left -= 0 if kept.is_on_disk else kept.size
        return kept


class Activations:
    """The tokens (N, T, D) that enter a block, for every image of a split, and its labels; iterated in the order of the batches they come from.

    They are on the device if they fit into ``limit`` bytes, else in a memory-mapped temporary file.
    """

    def __init__(self, vit: Any, batches: Batches, blocks: int, number_format: str, limit: int) -> None:
        self.device = batches.device
        self._batches = batches
        self._file: tempfile.TemporaryDirectory[str] | None = None
        self._tokens = torch.empty(0)
        done = 0
        with torch.no_grad(), autocast(number_format, self.device):
            for images, _ in batches.in_order():
                tokens = _tokens_after(vit, images, blocks)
                if done == 0:
                    self._tokens = self._allocate((batches.image_count, *tokens.shape[1:]), tokens.dtype, limit)
                self._tokens[done : done + len(tokens)] = tokens.to(self._tokens.device)
                done += len(tokens)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def generator(self) -> torch.Generator | None:
        """What decides the order of a pass."""
        return self._batches.generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.begin()

    def begin(self, at: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a new pass from this one on."""
        for indices in islice(self._batches.order(), at, None):
            yield self._tokens[indices.to(self._tokens.device)].to(self.device), self._batches.labels[indices.to(self.device)]

    @property
    def is_on_disk(self) -> bool:
        return self._file is not None

    @property
    def size(self) -> int:
        """Bytes."""
        return self._tokens.numel() * self._tokens.element_size()

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, limit: int) -> Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        if size <= limit:
            return torch.empty(shape, dtype=dtype, device=self.device)
        self._file = tempfile.TemporaryDirectory(prefix="petlbench-activations-")
        mapped = np.memmap(Path(self._file.name) / "tokens", dtype=np.uint8, mode="w+", shape=(size,))
        return torch.from_numpy(mapped).view(dtype).view(shape)


def _tokens_after(vit: Any, images: Tensor, blocks: int) -> Tensor:
    """Return the output (B, T, D) of the first ``blocks`` blocks, before any norm behind them."""
    [found] = vit.forward_intermediates(
        images, indices=[blocks - 1], return_prefix_tokens=True, stop_early=True, output_fmt="NLC", intermediates_only=True
    )
    if not vit.num_prefix_tokens:  # then timm gives the patches alone
        return found
    patches, prefix = found
    return torch.cat([prefix, patches], dim=1)
