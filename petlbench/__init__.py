"""petlbench: parameter-efficient transfer learning for vision, from black box to white box, on one harness.

Names are resolved on first use, so that ``import petlbench`` and the command line's help do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petlbench.access.endpoint import Output
    from petlbench.access.handle import QueryModel
    from petlbench.access.rungs import Access
    from petlbench.api import Result, Results, bench, evaluate, plan, reproduce, results, run, tune
    from petlbench.config.identity import File, added
    from petlbench.data.batches import TrainingData
    from petlbench.method import GradientMethod, QueryMethod, register_method

_EXPORTS = {
    "Access": "petlbench.access.rungs",
    "QueryModel": "petlbench.access.handle",
    "Output": "petlbench.access.endpoint",
    "TrainingData": "petlbench.data.batches",
    **dict.fromkeys(("File", "added"), "petlbench.config.identity"),
    **dict.fromkeys(("GradientMethod", "QueryMethod", "register_method"), "petlbench.method"),
    **dict.fromkeys(("Result", "Results", "bench", "evaluate", "plan", "reproduce", "results", "run", "tune"), "petlbench.api"),
}
__all__ = [
    "Access",
    "File",
    "GradientMethod",
    "Output",
    "QueryMethod",
    "QueryModel",
    "Result",
    "Results",
    "TrainingData",
    "added",
    "bench",
    "evaluate",
    "plan",
    "register_method",
    "reproduce",
    "results",
    "run",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'petlbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
