"""A run in a process of its own that is killed at a chosen moment: ``python -m tests.runs.killed MOMENT NUMBER WORDS…``.

MOMENT: ``step`` (before the NUMBERth state is offered), ``write`` (in the middle of writing a state), ``rename`` (before it is put in place), ``section``
(after it, before anything follows), ``test`` or ``record`` (when the test or the writing of results begins); ``never``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from petlbench import api
from petlbench.cli.words import parse_words
from petlbench.records import store
from petlbench.runs import execute, unfinished


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def before(owner: Any, name: str, number: int, act: Callable[..., Any] = die) -> None:
    """Call ``act`` in place of the NUMBERth call."""
    former, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        return act(*arguments, **named) if calls[0] == number else former(*arguments, **named)

    setattr(owner, name, counted)


def half_written(path: Path, content: bytes) -> NoReturn:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".tmp-{os.getpid()}-{path.name}").write_bytes(content[: len(content) // 2])
    die()


def written(path: Path, content: bytes) -> NoReturn:
    store.write_atomically(path, content)
    die()


def main(moment: str, number: int, words: list[str]) -> None:
    if moment == "step":
        before(unfinished.Unfinished, "offer", number)
    elif moment == "write":
        before(unfinished, "write_atomically", number, half_written)
    elif moment == "rename":
        before(Path, "replace", number)
    elif moment == "section":
        before(unfinished, "write_atomically", number, written)
    elif moment == "test":
        before(execute, "mask_classes", number)
    elif moment == "record":
        before(execute.RunLog, "write", number)
    api.run(**parse_words(words))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
