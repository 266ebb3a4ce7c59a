"""Compare numbers that another processor, library or number of threads may round differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

# Relative to the largest entry. A hundred roundings of float32 (6e-8), as sums of some thousand terms through a few layers collect when they are summed in
# another order; in float64 more than any such sum and less than any wrong formula.
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
REORDERED = "the same terms may be summed in another order"


def assert_near(got: Any, wanted: Any, bound: float | None = None, why: str = REORDERED) -> None:
    """Assert that tensors, arrays or numbers, or lists or mappings of them, differ by at most ``bound`` times the largest entry of ``wanted``.

    Entries are not compared relative to themselves: one that is nearly cancelled keeps the rounding of the large terms that it is the sum of. ``bound``:
    by default ``BOUNDS`` of the type; ``why`` says where another bound comes from, and is printed when it is missed.
    """
    found, expected = _named(got), _named(wanted)
    assert found.keys() == expected.keys(), f"other entries: {sorted(found.keys() ^ expected.keys())}"
    finite = [tensor[tensor.isfinite()] for tensor in expected.values()]  # an infinite entry is compared as it is
    largest = max((float(tensor.abs().max()) for tensor in finite if tensor.numel()), default=0.0)
    for name, tensor in expected.items():
        other = found[name]
        shapes = f"{other.dtype} {tuple(other.shape)} instead of {tensor.dtype} {tuple(tensor.shape)}"
        assert (other.shape, other.dtype) == (tensor.shape, tensor.dtype), f"{name}: {shapes}"
        share = BOUNDS[tensor.dtype] if bound is None else bound
        apart = other != tensor  # true for NaN
        difference = float((other[apart].double() - tensor[apart].double()).abs().max()) if apart.any() else 0.0
        missed = f"{name} differs by {difference:.3g}; the largest entry is {largest:.3g}, and {share:.1g} of it is allowed: {why}"
        assert difference <= share * largest, missed  # false for NaN


def _named(values: Any) -> dict[str, torch.Tensor]:
    """Name every tensor of a nested list or mapping by its place."""
    if isinstance(values, Mapping):
        return _joined(values.items())
    if isinstance(values, list | tuple):
        return _joined(enumerate(values))
    tensor = torch.as_tensor(np.asarray(values) if isinstance(values, float | np.generic) else values).detach()
    return {"value": tensor if tensor.is_floating_point() else tensor.double()}


def _joined(items: Iterable[tuple[Any, Any]]) -> dict[str, torch.Tensor]:
    return {f"{key}.{name}": tensor for key, value in items for name, tensor in _named(value).items()}
