"""Numbers that stand for what the harness does not hand out: the code of a method holds the number, a running block of the harness the thing.

Tables hold things weakly, so neither a number nor a table leads to them by attributes, containers, closures or module globals, and nothing outlives
its block. This module imports little of the package, since its globals lie on the way of whoever holds a number.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from petlbench.errors import AccessError

T = TypeVar("T")
P = ParamSpec("P")


class Tickets(Generic[T]):
    """A table of things that are lent by number, which holds none of them."""

    def __init__(self) -> None:
        self._lent: dict[int, weakref.ref[T]] = {}
        self._numbers = itertools.count(1)

    @contextmanager
    def issued(self, thing: T) -> Iterator[int]:
        """A number for a thing, which is worth nothing after the block."""
        number = next(self._numbers)
        self._lent[number] = weakref.ref(thing)
        try:
            yield number
        finally:
            del self._lent[number]

    def redeem(self, number: int) -> T | None:
        """The thing; None after its block."""
        lent = self._lent.get(number)
        return None if lent is None else lent()


_functions: Tickets[Callable[..., Any]] = Tickets()


@contextmanager
def lent(function: Callable[P, None]) -> Iterator[Callable[P, None]]:
    """A function that calls another and leads to nothing of it. AccessError when it is called after the block."""
    with _functions.issued(function) as number:
        yield partial(_call, number)


def _call(number: int, *arguments: Any) -> None:
    function = _functions.redeem(number)
    if function is None:
        raise AccessError("data.log_epoch and data.evaluate_curve can be called only while the method trains")
    function(*arguments)
