"""The loop of a method's training, which a rerun enters where an interrupted run left it.

A method names once what changes while it trains, and iterates its passes through ``Steps``. After any step the harness may ask for the state of all of
it: nested dicts, lists and tuples of tensors and JSON values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

State = Any  # dicts with texts or ints as keys, lists and tuples of tensors and JSON values
Load = Callable[[State], None]


@runtime_checkable
class Stateful(Protocol):
    """What can be kept and restored, such as a torch optimiser."""

    def state_dict(self) -> Mapping[Any, Any]: ...

    def load_state_dict(self, state_dict: Any) -> object: ...


Held = Stateful | Tensor | torch.Generator | Mapping[str, "Held"]


@runtime_checkable
class Restartable(Protocol):
    """Batches whose passes can begin in the middle."""

    device: torch.device

    @property
    def generator(self) -> torch.Generator | None:
        """What decides the order and the views of a pass."""
        ...

    def begin(self, at: int = 0) -> Iterator[Any]:
        """Yield the batches of a new pass from this one on, without preparing those before it."""
        ...


class Pass:
    """A pass over the training examples. Iterate it for its batches; on a rerun those that were used before are left out."""

    def __init__(self, examples: Any, offer: Callable[[int], None] | None) -> None:
        self.number = 0  # of the pass, from 0
        self._examples, self._offer = examples, offer  # None: nothing is kept
        self._is_resumed = False  # in the middle
        self._kept: dict[str, Any] = {}  # what ``tally`` begins with
        self._begin()

    def _begin(self) -> None:
        self.step = 0  # of the batch in use, from 0
        self._done = 0  # batches
        self._was_iterated = False
        self._start: Tensor | None = None  # state of the generator when the pass began
        self._sums = SimpleNamespace()

    def tally(self, **start: Any) -> SimpleNamespace:
        """Return what the pass adds up, as attributes: tensors, numbers and lists with these values at its start, or those that were kept."""
        self._sums = SimpleNamespace(**(start | self._kept))
        self._kept = {}
        return self._sums

    def __iter__(self) -> Iterator[Any]:
        self._was_iterated = True
        generator = getattr(self._examples, "generator", None)
        if self._is_resumed and generator is not None:
            generator.set_state(self._start)
        elif self._offer is not None and generator is not None:
            self._start = generator.get_state()
        self._is_resumed = False
        batches = self._examples.begin(self._done) if isinstance(self._examples, Restartable) else iter(self._examples)
        for batch in batches:
            self.step = self._done
            yield batch
            self._done = self.step + 1
            if self._offer is not None:
                self._offer(1)

    def finish(self) -> int:
        """Go on to the next pass. Returns the steps that this one was, beside those over its batches."""
        steps = 0 if self._was_iterated else 1
        self.number += 1
        self._begin()
        return steps

    def state_dict(self) -> dict[str, State]:
        generator = getattr(self._examples, "generator", None)
        data = self._start if self._was_iterated or generator is None else generator.get_state()
        return {"number": self.number, "done": self._done, "is_begun": self._was_iterated, "data": data, "sums": vars(self._sums)}

    def load_state_dict(self, state: State) -> None:
        self.number, self._done, self._is_resumed = state["number"], state["done"], state["is_begun"]
        generator, device = getattr(self._examples, "generator", None), getattr(self._examples, "device", None)
        self._start = state["data"] if self._is_resumed else None
        if generator is not None:
            generator.set_state(state["data"])
        self._kept = {name: _placed(value, device) for name, value in state["sums"].items()}


@dataclass(frozen=True)
class Steps:
    """What the harness lends for the loop of a training. Without anything lent the loop starts from its beginning, and nothing is kept.

    ``resume`` is told how to load a state, and does so if there is one. ``offer`` is told after a step how to get the state, and the number of steps
    since the last time.
    """

    resume: Callable[[Load], None] | None = None
    offer: Callable[[Callable[[], State], int], None] | None = None

    def epochs(self, count: int, examples: Any = None, **held: Held) -> Iterator[Pass]:
        """Yield the passes that are left of ``count`` over the examples.

        ``held``: all that changes while the method trains, beside the sums of a pass (``Pass.tally``) and the global generators: modules, optimisers,
        tensors, generators, and whatever has ``state_dict`` and ``load_state_dict``. Queries that precede the loop are sent before this is called:
        what changes them is not restored. A pass that is not iterated counts as one step.
        """
        resume, offer = self.resume, self.offer
        if resume is None or offer is None or not (examples is None or isinstance(examples, Restartable)):
            current = Pass(examples, None)
            while current.number < count:
                yield current
                current.finish()
            return

        def state() -> State:
            return {"held": state_of(held), "pass": current.state_dict()}

        def load(kept: State) -> None:
            restore(held, kept["held"])
            current.load_state_dict(kept["pass"])

        current = Pass(examples, lambda steps: offer(state, steps))
        resume(load)
        while current.number < count:
            yield current
            offer(state, current.finish())


def state_of(held: Held) -> State:
    """Return the state of something as nested containers of tensors, which are not copied."""
    if isinstance(held, Tensor):
        return held
    if isinstance(held, torch.Generator):
        return held.get_state()
    if isinstance(held, nn.Module):
        return {"tensors": dict(held.state_dict()), "generators": [one.get_state() for one in generators_of(held)]}
    if isinstance(held, Mapping):
        return {name: state_of(one) for name, one in held.items()}
    return dict(held.state_dict())


def restore(held: Held, state: State) -> None:
    """Put a state back, in place. ValueError when it is not one of this thing."""
    if isinstance(held, Tensor):
        if held.shape != state.shape or held.dtype != state.dtype:
            raise ValueError(f"expected {held.dtype} of shape {tuple(held.shape)}, got {state.dtype} of shape {tuple(state.shape)}")
        with torch.no_grad():
            held.copy_(state)
    elif isinstance(held, torch.Generator):
        held.set_state(state)
    elif isinstance(held, nn.Module):
        held.load_state_dict(state["tensors"])
        for generator, kept in zip(generators_of(held), state["generators"], strict=True):
            generator.set_state(kept)
    elif isinstance(held, Mapping):
        if held.keys() != state.keys():
            raise ValueError(f"expected {', '.join(held)}, got {', '.join(map(str, state))}")
        for name, one in held.items():
            restore(one, state[name])
    else:
        held.load_state_dict(state)


def generators_of(module: nn.Module) -> list[torch.Generator]:
    """Return the random generators that modules have as attributes, or in dicts and lists there."""
    attributes = chain.from_iterable(vars(part).values() for part in module.modules())
    nested = chain.from_iterable(_members(value) for value in attributes)
    return [value for value in nested if isinstance(value, torch.Generator)]


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def _placed(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [_placed(one, device) for one in value] if isinstance(value, list) else value
