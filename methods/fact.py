"""FacT: the updates of all weight matrices as one factorised tensor (Jie and Deng 2023, arXiv 2212.03145, section 3).

Letters in shapes: D block width, L blocks, r rank, M matrices of D x D: 12 L, of a block q, k, v and proj one each, fc1 and fc2 four each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench import GradientMethod, register_method
from petlbench.errors import ConfigError
from petlbench.nn import attach, widths

PLACES = ("qkv", "proj", "fc1", "fc2")


@dataclass
class FacTConfig:
    decomposition: Literal["tt", "tk"] = "tt"  # tt, tensor train: 2 D r + M r^2 parameters; tk, Tucker: 2 D r + M r + r^3
    rank: int = 16  # r, width of the shared factors
    scale: float = 1.0  # s, factor of the update

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be an int >= 1, got {self.rank}")


class Factors(nn.Module):
    """U, V: (D, r), shared by all M matrices, and what their cores are made of. V starts at zero, so training starts from the frozen model."""

    def __init__(self, width: int, matrices: int, config: FacTConfig) -> None:
        super().__init__()
        rank = config.rank
        self.scale = config.scale
        self.u = nn.Parameter(nn.init.uniform_(torch.empty(width, rank), -1 / math.sqrt(width), 1 / math.sqrt(width)))
        self.v = nn.Parameter(torch.zeros(width, rank))
        self.is_tucker = config.decomposition == "tk"
        if self.is_tucker:
            self.core = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
            self.mixing = nn.Parameter(nn.init.xavier_uniform_(torch.empty(matrices, rank)))
        else:
            self.sigma = nn.Parameter(nn.init.uniform_(torch.empty(matrices, rank, rank), -1 / math.sqrt(rank), 1 / math.sqrt(rank)))

    def cores(self, first: int, count: int) -> Tensor:
        """Sigma_m of some consecutive matrices, (count, r, r)."""
        if self.is_tucker:
            return torch.einsum("mk,rsk->mrs", self.mixing[first : first + count], self.core)
        return self.sigma[first : first + count]


class Update(nn.Module):
    """The update of one linear layer: a row or a column of the M matrices. A low-rank update whose factors are computed from shared ones."""

    is_linear = True

    def __init__(self, shared: Factors, first: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self._shared = (shared,)  # in a tuple, so that its parameters are not registered again below every layer
        self.first, self.inputs, self.outputs = first, inputs, outputs
        self.input_dropout = nn.Identity()

    def factors(self) -> tuple[Tensor, Tensor]:
        """A: (r, inputs * D) and s * B: (outputs * D, r), one of the two counts being 1."""
        (shared,) = self._shared
        cores = shared.cores(self.first, self.inputs * self.outputs).mT
        v = shared.scale * shared.v
        if self.inputs == 1:
            return shared.u.t(), (v @ cores).flatten(0, 1)
        return (cores @ shared.u.t()).transpose(0, 1).flatten(1), v

    def gate(self, _batch: tuple[int, ...], _like: Tensor) -> None:
        """Drop nothing."""


@register_method("fact", FacTConfig, cite="arXiv:2212.03145")
class FacT(GradientMethod):
    """x dW_m = s * x U Sigma_m V^T, with Sigma_m learned (tt) or sum_k P[m, k] C[:, :, k] of a shared C: (r, r, r) (tk)."""

    def adapt(self, vit: VisionTransformer) -> None:
        grids = {(block, place): _grid(block, place) for block in vit.blocks for place in PLACES}
        shared = Factors(vit.embed_dim, sum(inputs * outputs for inputs, outputs in grids.values()), self.config)
        vit.add_module("fact", shared)
        first = 0
        for (block, place), (inputs, outputs) in grids.items():
            attach(block, place, Update(shared, first, inputs, outputs))
            first += inputs * outputs


def _grid(block: nn.Module, place: str) -> tuple[int, int]:
    """Return how many matrices of D x D fit side by side into a layer's input and output. ConfigError when there is a remainder."""
    width, _ = widths(block, "q")
    shape = widths(block, place)
    if any(size % width for size in shape):
        raise ConfigError(
            f"fact divides layers into squares of the block width {width}; {place} of this backbone is {shape[1]} x {shape[0]}"
        )
    return shape[0] // width, shape[1] // width
