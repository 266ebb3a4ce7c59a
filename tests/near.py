"""Compare numbers that another processor, library or number of threads may round differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

# What a different order of summation may change, relative to the largest entry: a hundred roundings of the type, as in sums of some thousand terms
# through a few layers. A wrong formula is off by far more.
ROUNDINGS = 100
REORDERED = "the same terms summed in another order"


def assert_near(got: Any, wanted: Any, bound: float | None = None, why: str = REORDERED) -> None:
    """Assert that tensors, arrays or numbers, or lists or mappings of them, differ by at most ``bound`` times the largest entry of ``wanted``.

    Entries are not compared relative to themselves: one that is nearly cancelled keeps the rounding of the large terms that it is the sum of. ``bound``:
    by default a hundred roundings of the type; ``why`` says where another bound comes from, and is printed when it is missed.
    """
    found, expected = _named(got), _named(wanted)
    assert found.keys() == expected.keys(), f"other entries: {sorted(found.keys() ^ expected.keys())}"
    largest = max((float(tensor.abs().max()) for tensor in expected.values() if tensor.numel()), default=0.0)
    for name, tensor in expected.items():
        other = found[name]
        assert (other.shape, other.dtype) == (tensor.shape, tensor.dtype), (
            f"{name}: {other.dtype} {tuple(other.shape)}, {tuple(tensor.shape)}"
        )
        limit = ROUNDINGS * torch.finfo(tensor.dtype).eps if bound is None else bound
        difference = float((other.double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        # not "difference > limit", which would pass NaN
        assert difference <= limit * largest, (
            f"{name} differs by {difference:.3g} where the largest is {largest:.3g}, bound {limit:.1g}: {why}"
        )


def _named(values: Any) -> dict[str, torch.Tensor]:
    """Name every tensor of a nested list or mapping by its place."""
    if isinstance(values, Mapping):
        return _joined(values.items())
    if isinstance(values, list | tuple):
        return _joined(enumerate(values))
    tensor = torch.as_tensor(values).detach()
    return {"value": tensor if tensor.is_floating_point() else tensor.double()}


def _joined(items: Iterable[tuple[Any, Any]]) -> dict[str, torch.Tensor]:
    return {f"{key}.{name}": tensor for key, value in items for name, tensor in _named(value).items()}
