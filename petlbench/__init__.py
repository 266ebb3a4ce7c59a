"""petlbench: parameter-efficient transfer learning for vision, from black box to white box, on one harness.

Names are resolved on first use, so that ``import petlbench`` and the command line's help do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petlbench.access.endpoint import Output
    from petlbench.access.handle import Access, QueryModel
    from petlbench.data.batches import TrainingData
    from petlbench.method import GradientMethod, QueryMethod, register_method

_EXPORTS = {
    "Access": "petlbench.access.handle",
    "QueryModel": "petlbench.access.handle",
    "Output": "petlbench.access.endpoint",
    "TrainingData": "petlbench.data.batches",
    "GradientMethod": "petlbench.method",
    "QueryMethod": "petlbench.method",
    "register_method": "petlbench.method",
}
__all__ = ["Access", "GradientMethod", "Output", "QueryMethod", "QueryModel", "TrainingData", "register_method"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'petlbench' has no attribute '{name}'")
