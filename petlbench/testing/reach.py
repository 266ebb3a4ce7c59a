"""Walk everything that an object leads to, by any name, to check that a handle leads to nothing of the model."""

from __future__ import annotations

import gc
import types
from collections import deque
from collections.abc import Iterator, Mapping

_Step = tuple[str, object]  # how it is reached, and what it is


def reachable(root: object, name: str = "", modules: tuple[str, ...] = ()) -> Iterator[_Step]:
    """Everything that ``root`` leads to, each once with a shortest way: attributes, containers, closures, defaults, bound methods, classes, and the
    globals of functions and modules of petlbench and of ``modules``.

    Private names are followed like others. Not followed are weak references, which lead to nothing by themselves, and the globals and classes of
    other modules, since behind those lies all of Python.
    """
    seen: set[int] = set()
    kept: list[object] = []  # or an id might be given anew
    waiting: deque[_Step] = deque([(name, root)])
    while waiting:
        way, found = waiting.popleft()
        if id(found) in seen or _is_a_stop(found, modules):
            continue
        seen.add(id(found))
        kept.append(found)
        yield way, found
        waiting.extend((f"{way}{step}", next_one) for step, next_one in _following(found, modules))


def _is_ours(module: object, modules: tuple[str, ...]) -> bool:
    return isinstance(module, str) and (module.partition(".")[0] == "petlbench" or module in modules)


def _is_a_stop(found: object, modules: tuple[str, ...]) -> bool:
    if isinstance(found, type):
        return not _is_ours(found.__module__, modules)
    return isinstance(found, types.ModuleType) and not _is_ours(found.__name__, modules)


def _following(found: object, modules: tuple[str, ...]) -> list[_Step]:
    if isinstance(found, types.ModuleType):
        return [(f".{name}", value) for name, value in vars(found).items()]
    if isinstance(found, type):
        return [*((f".{name}", value) for name, value in vars(found).items()), *((".__bases__", base) for base in found.__bases__)]
    if isinstance(found, types.FunctionType):
        return list(_of_function(found, modules))
    if isinstance(found, dict):
        return [
            *((f"[{key!r}]" if isinstance(key, str) else "[]", value) for key, value in found.items()),
            *((".keys()", k) for k in found),
        ]
    if isinstance(found, (list, tuple)):
        return [(f"[{i}]", value) for i, value in enumerate(found)]
    attributes = getattr(found, "__dict__", None)
    named = [(f".{name}", value) for name, value in attributes.items()] if isinstance(attributes, Mapping) else []
    known = {id(attributes), *(id(value) for _, value in named)}
    others = [value for value in gc.get_referents(found) if id(value) not in known]
    return [*named, *(("…", value) for value in others), (".__class__", type(found))]


def _of_function(function: types.FunctionType, modules: tuple[str, ...]) -> Iterator[_Step]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _is_filled(cell):
            yield f"<{name}>", cell.cell_contents
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield "<default>", value
    yield from ((f".{name}", value) for name, value in vars(function).items())
    if _is_ours(function.__globals__.get("__name__"), modules):
        yield from (
            (f"<global {name}>", value) for name, value in function.__globals__.items() if not name.startswith("__")
        )  # not the loader, which leads to all that runs


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
