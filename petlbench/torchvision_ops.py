"""Lets torchvision be imported beside a CPU-only torch.

The torchvision wheels of some registries are built for CUDA. Beside a CPU build of torch their compiled library does not load,
and the import fails at the first fake-tensor registration ("operator torchvision::nms does not exist"). No operator of that
library is used here; defining the missing schemas is enough. Call :func:`define_missing_schemas` before the first import of
torchvision, timm or open_clip.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[object] = []  # a torch.library.Library takes its definitions along when it is collected


def define_missing_schemas() -> None:
    """Define the schemas that torchvision's import expects, but only where its compiled library cannot be loaded."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or _libraries:
        return
    for folder in spec.submodule_search_locations or ():
        _load_compiled_library(Path(folder))
    missing = [schema for name, schema in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in missing:
            library.define(schema)
        _libraries.append(library)


def _load_compiled_library(folder: Path) -> None:
    """Load torchvision's own operators where they fit this torch: schemas defined twice would be an error."""
    import torch

    for path in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
        with contextlib.suppress(OSError, RuntimeError):
            torch.ops.load_library(path)
