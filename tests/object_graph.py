"""What an object leads to."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from petlbench.testing import reach as conformance_kit


def reachable(root: object) -> Iterator[object]:
    """Everything that code holding ``root`` can get at, as the conformance kit walks it."""
    return (found for _, found in conformance_kit.reachable(root))


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
