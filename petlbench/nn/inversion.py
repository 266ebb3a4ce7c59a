"""Prompt inversion: from tokens to the patches of pixels that a patch embedding turns into them (idea: Loedeman et al. 2022, arXiv 2210.06466;
their code has none of it, the derivation is this project's).

The embedding of a patch p is affine, W vec(p) + b, with W (D, 3 P P) its kernel flattened by channel, row and column. For a token t in a place to
which the model adds a position q (0 where it adds none)

    vec(p) = W^+ (t - b - q)

with the Moore-Penrose inverse W^+ is the patch of least norm among those that come closest to t. Every token is met exactly if and only if W has
full row rank, which takes 3 P^2 >= D; else W vec(p) + b + q is t with what lies outside the range of W left out.

Weights that sum to one commute with an affine map: the patch of a mixture of tokens is the same mixture of their patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inversion:
    """Patches (..., 3, P, P) in the backbone's normalised pixels, and how well they reproduce their tokens (..., D)."""

    patches: Tensor
    residual: Tensor  # (...): |what the patch is embedded to - token| / |token|
    is_exact: bool  # whether any token could be met; else each is met as closely as possible


def invert(weight: Tensor, bias: Tensor | None, tokens: Tensor, position: Tensor | None = None) -> Inversion:
    """Patches for tokens (..., D) of an embedding with kernel ``weight`` (D, 3, P, P) and ``bias`` (D,). ``position``, of a shape that broadcasts
    with the tokens', is what the model will add. Computed in float64, returned in the tokens' number format."""
    matrix = weight.detach().double().flatten(1)  # (D, 3 P P)
    offset = torch.zeros_like(tokens, dtype=torch.float64)
    for part in (bias, position):
        offset = offset if part is None else offset + part.detach().double()
    wanted = tokens.detach().double() - offset
    patches = (wanted @ torch.linalg.pinv(matrix).T).to(tokens.dtype)
    missed = torch.linalg.vector_norm(patches.double() @ matrix.T - wanted, dim=-1)  # what rounding costs large pixels is part of it
    size = torch.linalg.vector_norm(tokens.detach().double(), dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    return Inversion(
        patches=patches.unflatten(-1, weight.shape[1:]),
        residual=(missed / size).to(tokens.dtype),
        is_exact=int(torch.linalg.matrix_rank(matrix)) == len(matrix),
    )


@dataclass(frozen=True)
class Normalisation:
    """Converts raw RGB, which a picture holds in [0, 1], to what a backbone reads: (raw - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def raw(self, patches: Tensor) -> Tensor:
        """Raw values of normalised patches (..., 3, P, P). Those of inverted tokens need not lie in [0, 1]."""
        return patches * self._channels(self.std, patches) + self._channels(self.mean, patches)

    def outside(self, patches: Tensor) -> Tensor:
        """Mark values of normalised patches that no picture can hold: their raw values are outside [0, 1]."""
        raw = self.raw(patches)
        return (raw < 0) | (raw > 1)

    def clipped(self, patches: Tensor) -> Tensor:
        """Clip the raw values of normalised patches to [0, 1]."""
        return self._of_raw(self.raw(patches).clamp(0, 1))

    def rounded(self, patches: Tensor) -> Tensor:
        """Clip the raw values of normalised patches to [0, 1] and round them to 8 bits."""
        return self._of_raw((self.raw(patches).clamp(0, 1) * 255).round() / 255)

    def _of_raw(self, raw: Tensor) -> Tensor:
        return (raw - self._channels(self.mean, raw)) / self._channels(self.std, raw)

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        return like.new_tensor(values).view(-1, 1, 1)
