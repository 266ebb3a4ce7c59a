"""Find every object that another one references."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from petlbench.methods.blackvip.encoder import load_encoder
from petlbench.testing import reach as conformance_kit


def reachable_by_path(root: object) -> Iterator[tuple[str, object]]:
    """Find every object that code holding ``root`` can reach, with a path to it, as the conformance kit does.

    The encoders that blackvip has cached in this process are dropped first: the registry leads to every plugin, and they are no part of ``root``.
    """
    load_encoder.cache_clear()
    return conformance_kit.reachable(root)


def reachable(root: object) -> Iterator[object]:
    """Find every object that code holding ``root`` can reach."""
    return (found for _, found in reachable_by_path(root))


def of_the_graph(answer: Tensor) -> Iterator[object]:
    """Find what the nodes of an autograd graph reference, with the graphs of those tensors."""
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
