"""The selection files of the released code, ``param_req_<budget>.pth``: read without unpickling anything but numbers and names, and written."""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petlbench.errors import CheckpointError
from petlbench.records.store import write_atomically

from .candidates import MATRICES, Candidate
from .selection import Rule, Selection

_KEYS = (
    "tuned_matrices",  # a list per block of six 0 or 1
    "tuned_vectors",  # names
    "unstructured_name_shapes",  # of every tensor that is not trained as a whole, in candidate order, also those without an entry
    "unstructured_name_shapes_int",  # the same, numbers of weights
    "unstructured_indexes",  # int64, positions in the concatenation of those tensors
    "unstructured_params",
    "structured_params",
    "params",  # float32, the total in budget units
)
_SCALAR = np.float32(0).__reduce__()[0]  # the function that numpy pickles a scalar as
_NUMPY_SCALARS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 calls it, with which the released files were written
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64")),
]


def read(path: Path, candidates: Sequence[Candidate], rule: Rule) -> Selection:
    """The selection in a file, whose module and rank must be those of the rule. CheckpointError when it is no such file or does not fit."""
    content = _load(path)
    try:
        return _checked(content, candidates, rule)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not in the layout of a selection file of the SPT release ({error})") from None


def write(path: Path, selection: Selection) -> None:
    """Write a selection so that :func:`read` and the released code can read it.

    ``params`` is a Python number rounded to float32: a numpy scalar written by numpy 2 could not be read in the environment of the released code.
    """
    unstructured = selection.unstructured
    values = (
        selection.tuned_matrices.int().tolist(),
        list(selection.tuned_vectors),
        OrderedDict((candidate.name, torch.Size(candidate.shape)) for candidate in unstructured),
        OrderedDict((candidate.name, candidate.size) for candidate in unstructured),
        selection.unstructured_indexes,
        selection.unstructured_params,
        selection.structured_params,
        float(np.float32(selection.total / selection.rule.unit)),
    )
    buffer = io.BytesIO()
    torch.save(dict(zip(_KEYS, values, strict=True)), buffer)
    write_atomically(path, buffer.getvalue())


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # foreign bytes make torch's reader raise errors of many kinds
        raise CheckpointError(
            f"{path}: not a selection file of the SPT release, or one that holds more than numbers, names and tensors, which is not loaded"
        ) from None
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(f"{path}: not a selection file of the SPT release: it lacks {', '.join(missing)}")
    return content


def _checked(content: dict[str, Any], candidates: Sequence[Candidate], rule: Rule) -> Selection:
    structured = _structured(content, candidates)
    rest = [candidate for candidate, whole in zip(candidates, structured.tolist(), strict=True) if not whole]
    for key, expected in (
        ("unstructured_name_shapes", [(candidate.name, candidate.shape) for candidate in rest]),
        ("unstructured_name_shapes_int", [(candidate.name, (candidate.size,)) for candidate in rest]),
    ):
        found = [(name, tuple(np.atleast_1d(shape).tolist())) for name, shape in content[key].items()]
        if found != expected:
            at = next(
                (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), min(len(found), len(expected))
            )
            got, wanted = (f"{pairs[at][0]} {pairs[at][1]}" if at < len(pairs) else "no more" for pairs in (found, expected))
            raise CheckpointError(f"{key} does not fit this backbone and the file's own masks: entry {at} is {got}, expected {wanted}")
    state = {"structured": structured, "positions": _positions(content["unstructured_indexes"], candidates, structured)}
    selection = Selection.from_state(candidates, rule, state)
    _check_counts(content, selection)
    return selection


def _structured(content: dict[str, Any], candidates: Sequence[Candidate]) -> Tensor:
    """(T,) bool, from the file's masks and names."""
    masks = [[int(flag) for flag in row] for row in content["tuned_matrices"]]
    depth = sum(candidate.is_matrix for candidate in candidates) // len(MATRICES)
    if len(masks) != depth or any(len(row) != len(MATRICES) or not set(row) <= {0, 1} for row in masks):
        raise CheckpointError(
            f"tuned_matrices must be {depth} lists, one per block of this backbone, of {len(MATRICES)} zeros or ones; got {len(masks)} lists"
        )
    vectors = set(content["tuned_vectors"])
    unknown = vectors - {candidate.name for candidate in candidates if not candidate.is_matrix}
    if unknown:
        raise CheckpointError(f"tuned_vectors names {min(unknown)}, which is no bias or norm of this backbone")
    flags = iter(flag for row in masks for flag in row)
    return torch.tensor([bool(next(flags)) if candidate.is_matrix else candidate.name in vectors for candidate in candidates])


def _positions(indexes: Tensor, candidates: Sequence[Candidate], structured: Tensor) -> Tensor:
    """Positions among all weights, ascending, from positions among the weights of tensors that are not trained as a whole."""
    sizes = torch.tensor([candidate.size for candidate in candidates])
    starts, rest = sizes.cumsum(dim=0) - sizes, sizes[~structured]
    ends = rest.cumsum(dim=0)
    count = int(rest.sum())
    if indexes.ndim != 1 or indexes.dtype != torch.int64 or bool(((indexes < 0) | (indexes >= count)).any()):
        raise CheckpointError(
            f"unstructured_indexes must be int64 numbers in [0, {count:,}), the weights of tensors that are not trained whole"
        )
    owners = torch.bucketize(indexes, ends, right=True)
    return (indexes + (starts[~structured] - (ends - rest))[owners]).sort().values


def _check_counts(content: dict[str, Any], selection: Selection) -> None:
    rule = selection.rule
    for key in ("structured_params", "unstructured_params"):
        if content[key] != getattr(selection, key):
            raise CheckpointError(
                f"{key} is {content[key]} in the file and {getattr(selection, key)} by its own masks for {rule.module} modules of "
                f"rank {rule.rank}; set method.module and method.rank to what the file was made for"
            )
    if not math.isclose(float(content["params"]), selection.total / rule.unit, rel_tol=1e-6):
        raise CheckpointError(
            f"params is {float(content['params']):.6f} in the file and {selection.total / rule.unit:.6f} by its own masks with a class token of "
            f"{rule.class_token} and a unit of {rule.unit:,.0f}; set method.unit to what the file was made for"
        )
