"""What passes between a method and the harness becomes the harness's own here: a plain tensor, whose size decides what is counted.

A method may hand over any object that calls itself a tensor. What such an object says of itself decides nothing: its functions are not called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from petlbench.errors import AccessError

P = ParamSpec("P")
T = TypeVar("T")


def on_our_side(function: Callable[P, T]) -> Callable[P, T]:
    """Carry out a function without the ``__torch_function__`` of the caller's tensors and modes, which could answer in the place of torch."""

    @functools.wraps(function)
    def carried_out(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return carried_out


@on_our_side
def own(name: str, given: object) -> Tensor:
    """Return a copy of a dense tensor as ``torch.Tensor`` itself, through which gradients lead. AccessError for anything that holds no numbers in the
    memory of a device, such as a list, a lazy, sparse or nested tensor, or one inside ``torch.func``."""
    if not issubclass(type(given), Tensor) or not _is_dense(given):  # type: ignore[arg-type]
        raise AccessError(f"{name} must be a dense torch.Tensor, got {_kind(given)}; convert it first, for example with torch.tensor")
    plain: Tensor = Tensor.as_subclass(given, Tensor)  # type: ignore[arg-type]
    return plain.clone(memory_format=torch.contiguous_format)


@on_our_side
def plain(name: str, given: object, shape: tuple[int | str, ...]) -> Tensor:
    """Return a copy as :func:`own` does, in float32. A letter in ``shape`` stands for any size. AccessError for another type of numbers,
    ValueError for another shape."""
    tensor = own(name, given)
    if not tensor.is_floating_point():
        raise AccessError(f"{name} must hold floating-point numbers, got {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.ndim != len(shape) or any(size not in (found, str(size)) for found, size in zip(tensor.shape, shape, strict=True)):
        raise ValueError(f"{name} must have shape ({', '.join(map(str, shape))}), got {tuple(tensor.shape)}")
    return tensor.float()


@on_our_side
def entries(tensors: Iterable[Tensor]) -> int:
    """Count the numbers in tensors, whatever their classes say."""
    return sum(Tensor.numel(tensor) for tensor in tensors)


def _is_dense(given: Tensor) -> bool:
    layout, device, is_nested = (getattr(Tensor, name).__get__(given) for name in ("layout", "device", "is_nested"))
    is_lazy = torch._C._functorch.is_functorch_wrapped_tensor(given) or torch._C._dispatch_keys(given).has(torch._C.DispatchKey.Python)
    return layout is torch.strided and device.type != "meta" and not is_nested and not is_lazy


def _kind(given: object) -> str:
    return f"an object of class {type(given).__module__}.{type(given).__qualname__}"
