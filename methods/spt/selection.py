"""Select what is trained from scores: the sweep over the number of kept weights and its match to a budget (released code, engine.py).

Flat positions count along the candidates in their order, each flattened. Letters in shapes: T candidates, L blocks, U kept single entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from petlbench.errors import CheckpointError, ConfigError

from .candidates import MATRICES, Candidate

Module = Literal["lora", "adapter"]


def module_cost(shape: tuple[int, ...], module: Module, rank: int) -> int:
    """Parameters of the module that a structured matrix (out, in) gets. An adapter sits on the output and has both biases."""
    out, in_ = shape
    return rank * (in_ + out) if module == "lora" else 2 * rank * out + rank + out


@dataclass(frozen=True)
class Rule:
    """Decides when a tensor is trained as a whole, what that costs, and which numbers of kept weights are tried."""

    class_token: int  # its length, which every total includes
    module: Module = "lora"
    rank: int = 8  # of the modules
    alpha: float = 10.0  # a matrix gets a module when it keeps at least cost / alpha entries
    beta: float = 5.0  # a vector is trained whole when it keeps at least length / beta entries
    unit: float = 1e6  # parameters per unit of the budget
    structured_vectors: bool = True  # off: vectors are never trained whole
    structured_only: bool = False  # on: single entries are neither trained nor counted
    steps: range = range(1, 80)  # of 0.02 units each

    def __post_init__(self) -> None:
        if self.module not in ("lora", "adapter"):
            raise ValueError(f"module must be lora or adapter, got '{self.module}'")
        if self.rank < 1:
            raise ValueError(f"rank must be an int >= 1, got {self.rank}")
        for name in ("alpha", "beta", "unit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number > 0, got {getattr(self, name)}")
        if not self.steps or self.steps[0] < 1 or self.steps.step < 1:
            raise ValueError(f"steps must be a range that rises from 1 or more, got {self.steps}")

    def kept(self, size: int) -> list[int]:
        """Return how many of ``size`` weights each step keeps. The product 0.02 * j comes first: its rounding makes some steps keep one more."""
        return [min(math.ceil((0.02 * step) * self.unit), size) for step in self.steps]

    def cost(self, candidate: Candidate) -> int:
        """Return the number of parameters that are trained when a tensor is trained as a whole."""
        return module_cost(candidate.shape, self.module, self.rank) if candidate.is_matrix else candidate.size

    def threshold(self, candidate: Candidate) -> float:
        """Return the number of kept entries from which on a tensor is trained as a whole; not rounded."""
        if candidate.is_matrix:
            return self.cost(candidate) / self.alpha
        return candidate.size / self.beta if self.structured_vectors else math.inf


@dataclass(frozen=True)
class Step:
    """Numbers of parameters and of whole tensors when the first ``kept`` weights of a ranking are kept."""

    kept: int
    unstructured: int  # single entries
    structured: int  # modules and whole vectors
    matrices: int
    vectors: int
    total: int  # with the class token


def sweep(candidates: Sequence[Candidate], rule: Rule, ranking: Tensor) -> list[Step]:
    """All steps, from one ranking: flat positions, the highest score first, as many as the largest step keeps or more."""
    sizes = rule.kept(sum(candidate.size for candidate in candidates))
    assert len(ranking) >= sizes[-1], f"the ranking has {len(ranking)} entries, the sweep needs {sizes[-1]}"
    owners = _owners(candidates, ranking[: sizes[-1]].cpu())
    costs, thresholds, is_matrix = _costs(candidates, rule), _thresholds(candidates, rule), _is_matrix(candidates)
    counts = torch.zeros_like(costs)
    steps = []
    for start, stop in pairwise((0, *sizes)):
        counts += owners[start:stop].bincount(minlength=len(candidates))
        whole = counts >= thresholds
        unstructured = 0 if rule.structured_only else int(counts[~whole].sum())
        structured = int(costs[whole].sum())
        matrices = int((whole & is_matrix).sum())
        total = unstructured + structured + rule.class_token
        steps.append(Step(stop, unstructured, structured, matrices, int(whole.sum()) - matrices, total))
    return steps


def match(steps: Sequence[Step], rule: Rule, budget: float) -> Step:
    """The last of the steps whose total is nearest to the budget (in units). As in the released code the search starts from a total of 0, so a
    total above twice the budget is never taken: ConfigError when all are."""
    target = Fraction(str(budget)) * Fraction(str(rule.unit))  # exact, so that equal distances are equal
    nearest, chosen = target, None
    for step in steps:
        if abs(step.total - target) <= nearest:
            nearest, chosen = abs(step.total - target), step
    if chosen is None:
        least = min(step.total for step in steps)
        enough = math.ceil(least / 2 / rule.unit * 1e4) / 1e4
        raise ConfigError(
            f"method.budget={budget} is {float(target):,.0f} parameters, and no selection is that small: the smallest has {least:,}, "
            f"and more than twice the budget is not accepted; use a larger method.budget (at least {enough}), "
            "or smaller modules with method.rank, or a finer sweep with a smaller method.unit (the budget counts in that unit)"
        )
    return chosen


@dataclass(frozen=True, eq=False)
class Selection:
    """The weights trained besides class token and head. Everything else is computed from the two tensors."""

    candidates: tuple[Candidate, ...]
    rule: Rule
    structured: Tensor  # (T,) bool: matrices that get a module, vectors that are trained whole
    positions: Tensor  # (U,) int64, flat, ascending: entries of the other tensors that are trained one by one

    @classmethod
    def of(cls, candidates: Sequence[Candidate], rule: Rule, kept: Tensor) -> Selection:
        """Return a selection from the flat positions of all kept weights, in any order."""
        kept = kept.cpu().sort().values
        owners = _owners(candidates, kept)
        structured = owners.bincount(minlength=len(candidates)) >= _thresholds(candidates, rule)
        return cls(tuple(candidates), rule, structured, kept[~structured[owners]] if not rule.structured_only else kept[:0])

    @classmethod
    def for_budget(cls, candidates: Sequence[Candidate], rule: Rule, ranking: Tensor, budget: float) -> Selection:
        """The one that comes nearest to the budget (in units). ConfigError when none is small enough."""
        return cls.of(candidates, rule, ranking[: match(sweep(candidates, rule, ranking), rule, budget).kept])

    @property
    def module(self) -> Module:
        return self.rule.module

    @cached_property
    def tuned_matrices(self) -> Tensor:
        """(L, 6) bool, columns q, k, v, proj, fc1, fc2: which matrices get a module."""
        return self.structured[_is_matrix(self.candidates)].view(-1, len(MATRICES))

    @cached_property
    def tuned_vectors(self) -> tuple[str, ...]:
        """Names of the vectors that are trained whole, in candidate order."""
        return tuple(c.name for c, whole in zip(self.candidates, self.structured.tolist(), strict=True) if whole and not c.is_matrix)

    @cached_property
    def entries(self) -> dict[str, Tensor]:
        """Ascending int64 positions inside each flattened tensor of which single entries are kept; those of norms included."""
        starts = _ends(self.candidates) - _sizes(self.candidates)
        counts = _owners(self.candidates, self.positions).bincount(minlength=len(self.candidates))
        parts = self.positions.split(counts.tolist())
        found = zip(self.candidates, parts, starts.tolist(), strict=True)
        return {candidate.name: part - start for candidate, part, start in found if len(part)}

    @cached_property
    def unstructured(self) -> tuple[Candidate, ...]:
        """The tensors that are not trained as a whole, whether or not they keep an entry."""
        return tuple(c for c, whole in zip(self.candidates, self.structured.tolist(), strict=True) if not whole)

    @cached_property
    def unstructured_indexes(self) -> Tensor:
        """(U,) int64, ascending: the kept entries as positions in the concatenation of the flattened ``unstructured`` tensors."""
        skipped = (_sizes(self.candidates) * self.structured).cumsum(dim=0)  # weights of whole tensors up to each tensor
        return self.positions - skipped[_owners(self.candidates, self.positions)]

    @property
    def structured_params(self) -> int:
        """Modules and whole vectors."""
        return int(_costs(self.candidates, self.rule)[self.structured].sum())

    @property
    def unstructured_params(self) -> int:
        """Single entries, those of norms included."""
        return len(self.positions)

    @property
    def total(self) -> int:
        """Parameters that are matched to the budget: structured, unstructured and class token."""
        return self.structured_params + self.unstructured_params + self.rule.class_token

    @cached_property
    def kept_norm_entries(self) -> int:
        """Single entries of norms: the released code counts them and does not train them."""
        return sum(len(self.entries[c.name]) for c in self.candidates if c.is_norm and c.name in self.entries)

    def state(self) -> dict[str, Tensor]:
        """Both tensors, small: ``structured`` (T,) uint8 and ``positions`` (U,) int32 (int64 in a backbone of more than 2**31 weights)."""
        fits = int(_ends(self.candidates)[-1]) <= torch.iinfo(torch.int32).max
        return {"structured": self.structured.to(torch.uint8), "positions": self.positions.to(torch.int32 if fits else torch.int64)}

    @classmethod
    def from_state(cls, candidates: Sequence[Candidate], rule: Rule, state: dict[str, Tensor]) -> Selection:
        """Restore what :meth:`state` returned, for the same candidates and rule. CheckpointError when it does not fit them."""
        structured, positions = state["structured"].cpu(), state["positions"].cpu().long()
        if structured.shape != (len(candidates),) or not bool((structured <= 1).all()):
            raise CheckpointError(
                f"the selection's mask must hold 0 or 1 for each of {len(candidates)} tensors of the backbone, got {tuple(structured.shape)}"
            )
        structured, size = structured.bool(), int(_ends(candidates)[-1])
        rising = bool((positions.diff() > 0).all())
        if positions.ndim != 1 or not rising or bool(((positions < 0) | (positions >= size)).any()):
            raise CheckpointError(f"the selection's positions must rise and lie in [0, {size:,}), the weights of the backbone")
        if bool(structured[_owners(candidates, positions)].any()):
            raise CheckpointError("the selection keeps single entries of a tensor that is trained as a whole; make the file again")
        return cls(tuple(candidates), rule, structured, positions)


def _thresholds(candidates: Sequence[Candidate], rule: Rule) -> Tensor:
    return torch.tensor([rule.threshold(candidate) for candidate in candidates], dtype=torch.float64)


def _costs(candidates: Sequence[Candidate], rule: Rule) -> Tensor:
    return torch.tensor([rule.cost(candidate) for candidate in candidates])


def _is_matrix(candidates: Sequence[Candidate]) -> Tensor:
    return torch.tensor([candidate.is_matrix for candidate in candidates])


def _sizes(candidates: Sequence[Candidate]) -> Tensor:
    return torch.tensor([candidate.size for candidate in candidates])


def _ends(candidates: Sequence[Candidate]) -> Tensor:
    """(T,) flat position behind each tensor."""
    return _sizes(candidates).cumsum(dim=0)


def _owners(candidates: Sequence[Candidate], positions: Tensor) -> Tensor:
    """Index of the candidate that each flat position lies in."""
    return torch.bucketize(positions, _ends(candidates), right=True)
