"""What an object leads to."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator

from torch import Tensor


def reachable(root: object) -> Iterator[object]:
    """Everything that code holding ``root`` can get at through attributes, containers, closures, defaults and bound methods.

    Modules, others' classes and the globals of functions are not followed: behind those lies all of Python.
    """
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or _is_a_stop(found):
            continue
        seen.add(id(found))
        yield found
        waiting += _following(found)


def of_the_graph(answer: Tensor) -> Iterator[object]:
    """Every node of an autograd graph and what it holds, the graphs of tensors that are held included."""
    waiting, seen = [answer.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if not name.startswith("__") and name != "saved_variables":  # the deprecated name of saved_tensors
                for thing in reachable(getattr(node, name, None)):
                    yield thing
                    if isinstance(thing, Tensor):
                        waiting.append(thing.grad_fn)
        waiting += [following for following, _ in node.next_functions]


def _is_a_stop(found: object) -> bool:
    if isinstance(found, type):
        return found.__module__.partition(".")[0] != "petlbench"
    return isinstance(found, types.ModuleType)


def _following(found: object) -> list[object]:
    if isinstance(found, type):
        return [*vars(found).values(), *found.__bases__]
    if isinstance(found, types.FunctionType):
        cells = [cell.cell_contents for cell in found.__closure__ or () if _is_filled(cell)]
        return [*cells, *(found.__defaults__ or ()), *(found.__kwdefaults__ or {}).values(), found.__dict__]
    return [*gc.get_referents(found), type(found)]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
