"""Numbers that refer to objects which the harness does not hand out: a method holds the number, a running block of the harness holds the object.

Numbers are drawn by chance from so many that none is found by trying. Tables hold objects weakly, so neither a number nor a table leads to them by
attributes, containers, closures or module globals, and nothing outlives its block. This module imports little of the package, since its globals can be
reached by whoever holds a number.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from petlbench.errors import AccessError

T = TypeVar("T")
P = ParamSpec("P")


class Tickets(Generic[T]):
    """A table of objects that are lent by number; it holds weak references only."""

    def __init__(self) -> None:
        self._lent: dict[int, weakref.ref[T]] = {}

    @contextmanager
    def issued(self, lent: T) -> Iterator[int]:
        """Yield a number for an object. The number is invalid after the block."""
        number = secrets.randbits(128)
        self._lent[number] = weakref.ref(lent)
        try:
            yield number
        finally:
            del self._lent[number]

    def redeem(self, number: int) -> T | None:
        """Return the object; None after its block."""
        lent = self._lent.get(number)
        return None if lent is None else lent()


_functions: Tickets[Callable[..., Any]] = Tickets()


@contextmanager
def lent(function: Callable[P, None]) -> Iterator[Callable[P, None]]:
    """Yield a function that calls ``function`` without holding it. The call raises AccessError after the block."""
    with _functions.issued(function) as number:
        yield partial(_call, number)


def _call(number: int, *arguments: Any) -> None:
    function = _functions.redeem(number)
    if function is None:
        raise AccessError("data.log_epoch, data.evaluate_curve and data.steps can be called only while the method trains")
    function(*arguments)
