"""A frozen linear layer that methods tune without touching its weight: low-rank updates, adapters, single entries, whole biases.

Letters in shapes: B images, N tokens, r rank, R sum of the ranks at one layer, K chosen entries of a weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TOKENS_AT_ONCE = 4096  # rows of a (tokens, K) product that are held at a time
Rows = tuple[int, int]  # first output of a part and the one behind its last


class LowRankUpdate(Protocol):
    """A module whose effect is the addition of B A to a weight."""

    input_dropout: nn.Module  # one mask for all updates of a layer

    def factors(self) -> tuple[Tensor, Tensor]:
        """A: (r, in) and B: (out, r)."""
        ...

    def gate(self, batch: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Return the factor of A x while training, (*batch, r) or smaller; None for no factor."""
        ...


class Dropout(nn.Dropout):
    """torch's dropout, whose mask for the backward pass takes one byte per element on every device; on a CPU it is four otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0] if self.training and self.p else x


class TunedLinear(nn.Linear):
    """y = W' x + b' + sum of modules, where W' and b' are the frozen W and b but for the entries that train.

    The outputs consist of named parts (q, k and v of a fused layer), each tuned in its own way. Takes the place of the frozen layer and keeps
    its parameters and their names; what trains is stored here (``entries.PART``, ``bias_entries.PART``, ``whole_bias.PART``) or, for modules,
    where they are registered by :func:`petlbench.nn.attach`.
    """

    _positions: Tensor
    _starts: Tensor

    def __init__(self, frozen: nn.Linear, parts: Iterable[str]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = frozen.in_features, frozen.out_features
        self.weight, self.bias = frozen.weight, frozen.bias
        names, device = tuple(parts), frozen.weight.device
        width = self.out_features // len(names)
        self.rows: dict[str, Rows] = {name: (i * width, (i + 1) * width) for i, name in enumerate(names)}
        self.entries, self.bias_entries, self.whole_bias = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self._low_rank: list[tuple[Rows, LowRankUpdate]] = []
        self._beside: list[tuple[Rows, nn.Module]] = []
        self._after: list[tuple[Rows, nn.Module]] = []
        self._working: Tensor | None = None  # W', a private copy once entries of W train
        self.register_buffer(
            "_positions", torch.empty(0, dtype=torch.long, device=device), persistent=False
        )  # (K,) flat, of entries.* in their order
        self.register_buffer("_starts", torch.empty(0, device=device), persistent=False)  # (K,) frozen values there
        self._bias_positions: dict[str, Tensor] = {}

    def add_module_at(self, part: str | None, module: nn.Module, position: str) -> None:
        """Let a module act on a part's outputs, or on all: on the layer's input (``beside``) or on the part's output (``after``)."""
        rows = self.rows[part] if part else (0, self.out_features)
        if position == "after":
            self._after.append((rows, module))
        elif getattr(module, "is_linear", False):
            self._low_rank.append((rows, module))  # type: ignore[arg-type]
        else:
            self._beside.append((rows, module))

    def train_entries(self, part: str, positions: Tensor) -> None:
        """Train single entries of a part's weight; ``positions`` (K,): flat, inside the part. They start at the frozen values."""
        shifted = positions.to(self.weight.device) + self.rows[part][0] * self.in_features
        self.entries[part] = nn.Parameter(torch.zeros(len(positions), device=self.weight.device))
        self._positions = torch.cat([self._positions, shifted])
        self._starts = self.weight.detach().reshape(-1)[self._positions].float()

    def train_bias_entries(self, part: str, positions: Tensor) -> None:
        """Train single entries of a part's bias."""
        self.bias_entries[part] = nn.Parameter(torch.zeros(len(positions), device=self.bias.device))
        self._bias_positions[part] = positions.to(self.bias.device)

    def train_whole_bias(self, part: str) -> None:
        """Train a part's bias."""
        start, stop = self.rows[part]
        self.whole_bias[part] = nn.Parameter(self.bias.detach()[start:stop].clone())

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        x = x.to(dtype)  # once, for the frozen product and for all that stands beside it
        updates = [(rows, *update.factors()) for rows, update in self._low_rank]
        entries = torch.cat([*self.entries.values()]) if self.entries else None
        z = self._low_rank[0][1].input_dropout(x) if updates else x
        y: Tensor = _TunedProduct.apply(
            x,
            None if z is x else z,
            self._effective_weight(dtype, entries),
            None if self.bias is None else self._effective_bias().to(dtype),
            entries,
            self._positions,
            torch.cat([down for _, down, _ in updates]).to(dtype) if updates else None,
            self._gate(x, [len(down) for _, down, _ in updates]),
            tuple(rows for rows, _, _ in updates),
            *(up.to(dtype) for _, _, up in updates),
        )
        for rows, module in self._beside:
            y = self._added(y, rows, module(x))
        for rows, module in self._after:
            y = self._added(y, rows, module(y[..., slice(*rows)]))
        return y

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with the same outputs. ValueError when a module here is not linear."""
        if self._beside or self._after:
            raise ValueError("a module with an activation cannot be merged into a weight")
        entries = torch.cat([*self.entries.values()]) if self.entries else None
        weight = self._effective_weight(self.weight.dtype, entries).clone()
        for (start, stop), update in self._low_rank:
            down, up = update.factors()
            weight[start:stop] += (up @ down).to(weight.dtype)
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            plain.bias = nn.Parameter(self._effective_bias().detach().clone(), requires_grad=False)
        return plain

    def _effective_weight(self, dtype: torch.dtype, entries: Tensor | None) -> Tensor:
        if entries is None:
            return self.weight.to(dtype)
        working = self._working
        if working is None or working.dtype != dtype or working.device != self.weight.device:
            with torch.inference_mode(False):  # a copy made while predicting must serve in training, too
                working = self._working = self.weight.detach().to(dtype, copy=True)
        with torch.no_grad():
            working.view(-1)[self._positions] = (self._starts + entries).to(dtype)
        return working

    def _effective_bias(self) -> Tensor:
        if not self.whole_bias and not self.bias_entries:
            return self.bias
        pieces = []
        for part, (start, stop) in self.rows.items():
            piece = self.whole_bias[part] if part in self.whole_bias else self.bias[start:stop]
            if part in self.bias_entries:
                piece = piece.index_add(0, self._bias_positions[part], self.bias_entries[part])
            pieces.append(piece)
        return torch.cat(pieces)

    def _gate(self, x: Tensor, ranks: list[int]) -> Tensor | None:
        """The gates of all updates side by side, (..., R)."""
        gates = [update.gate(tuple(x.shape[:-1]), x) for _, update in self._low_rank]
        if all(gate is None for gate in gates):
            return None
        filled = [x.new_ones(rank) if gate is None else gate for gate, rank in zip(gates, ranks, strict=True)]
        return torch.cat([gate.expand(*x.shape[:-1], rank) for gate, rank in zip(filled, ranks, strict=True)], dim=-1)

    def _added(self, y: Tensor, rows: Rows, value: Tensor) -> Tensor:
        start, stop = rows
        if stop - start == self.out_features:
            return y + value
        return torch.cat([y[..., :start], y[..., start:stop] + value, y[..., stop:]], dim=-1)


class _TunedProduct(torch.autograd.Function):
    """x W^T + b with low-rank updates of row blocks added in place, and gradients for just what trains.

    Composed of torch operations, the same sum would write every update to memory, add it, and in the backward pass copy the gradient of the
    whole fused output once per part. The gradient of chosen entries is a product of chosen columns: no dense weight gradient exists.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., in)
        z: Tensor | None,  # x as the updates see it when that is not x itself
        weight: Tensor,  # (out, in), chosen entries included
        bias: Tensor | None,  # (out,)
        entries: Tensor | None,  # (K,)
        positions: Tensor,  # (K,)
        down: Tensor | None,  # (R, in)
        gate: Tensor | None,  # (..., R)
        rows: tuple[Rows, ...],
        *ups: Tensor,  # (stop - start, r) each
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = F.linear(flat, weight, bias)
        seen = flat if z is None else z.reshape(-1, z.shape[-1])
        hidden = None
        if down is not None:
            hidden = seen @ down.t()
            if gate is not None:
                hidden = hidden * gate.reshape(hidden.shape)
            for (start, stop), up, part in zip(rows, ups, hidden.split([up.shape[1] for up in ups], dim=1), strict=True):
                y[:, start:stop].addmm_(part, up.t())
        keeps_x = ctx.needs_input_grad[2] or (down is not None and z is None) or len(positions) >= flat.shape[1]
        chosen = flat.index_select(1, positions % flat.shape[1]) if ctx.needs_input_grad[4] and not keeps_x else None  # (tokens, K)
        ctx.rows, ctx.shape, ctx.updates = rows, x.shape, len(ups)
        ctx.save_for_backward(flat if keeps_x else None, chosen, z, weight, positions, down, gate, hidden, *ups)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, chosen, z, weight, positions, down, gate, hidden, *ups = ctx.saved_tensors
        wants_x, wants_z, wants_weight, wants_bias, wants_entries = ctx.needs_input_grad[:5]
        g = gradient.reshape(-1, gradient.shape[-1])
        gx = g @ weight if wants_x else None
        gz = gdown = None
        gups: list[Tensor | None] = [None] * ctx.updates
        if down is not None:
            ghidden = torch.empty_like(hidden)
            widths = [up.shape[1] for up in ups]
            parts = zip(ctx.rows, ups, hidden.split(widths, dim=1), ghidden.split(widths, dim=1), strict=True)
            for i, ((start, stop), up, kept, target) in enumerate(parts):
                torch.mm(g[:, start:stop], up, out=target)
                gups[i] = g[:, start:stop].t() @ kept
            if gate is not None:
                ghidden *= gate.reshape(ghidden.shape)
            gdown = ghidden.t() @ (x if z is None else z.reshape(-1, z.shape[-1]))
            if wants_z:
                gz = (ghidden @ down).view(ctx.shape)
            elif gx is not None and z is None:
                gx.addmm_(ghidden, down)
        return (
            None if gx is None else gx.view(ctx.shape),
            gz,
            g.t() @ x if wants_weight else None,
            g.sum(dim=0) if wants_bias else None,
            _entry_gradient(g, x, chosen, positions, weight.shape[1]) if wants_entries else None,
            None,
            gdown,
            None,
            None,
            *gups,
        )


def _entry_gradient(g: Tensor, x: Tensor | None, chosen: Tensor | None, positions: Tensor, width: int) -> Tensor:
    """Entries (K,) of g^T x at flat positions, summed in float32 over chunks of tokens; ``chosen``: their columns of x when x was not kept."""
    rows, columns = positions // width, positions % width
    total = torch.zeros(len(positions), device=g.device)
    kept = x if chosen is None else chosen
    assert kept is not None
    for gradients, inputs in zip(g.split(TOKENS_AT_ONCE), kept.split(TOKENS_AT_ONCE), strict=True):
        factor = inputs.index_select(1, columns) if chosen is None else inputs
        total += gradients.index_select(1, rows).mul_(factor).sum(dim=0, dtype=torch.float32)
    return total
