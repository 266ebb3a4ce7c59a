"""What a run shares with its process, and a plugin may change: put back when the run ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_STREAMS = ("stdin", "stdout", "stderr")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TORCH: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
)
_CUDNN = ("benchmark", "deterministic", "allow_tf32")


@contextmanager
def surroundings_kept() -> Iterator[None]:
    """Put back the working folder, the standard streams, filters of warnings, handlers of signals and torch's switches, however the block ends.

    So a record is written where it belongs, and the next run of the process starts as this one did.
    """
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError):  # a folder that was deleted cannot be returned to
            undo.callback(_return_to, Path.cwd())
        for name in _STREAMS:
            undo.callback(setattr, sys, name, getattr(sys, name))
        for get, change in _TORCH:
            undo.callback(_put_back, get, change, get())
        for name in _CUDNN:
            undo.callback(setattr, torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
        undo.callback(_filter_warnings, list(warnings.filters))
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in _SIGNALS:
                if (handler := signal.getsignal(number)) is not None:  # None: not Python's
                    undo.callback(signal.signal, number, handler)
        yield


def _put_back(get: Callable[[], Any], change: Callable[[Any], Any], former: Any) -> None:
    if get() != former:
        change(former)


def _return_to(folder: Path) -> None:
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _filter_warnings(filters: list[Any]) -> None:
    if warnings.filters != filters:  # else nothing: a reset forgets which warnings were shown
        warnings.resetwarnings()
        warnings.filters[:] = filters  # type: ignore[index]
