"""Count how the images of each class use the tokens of a library; computed after a run and kept beside its record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from petlbench.access.border import plain
from petlbench.data.batches import Batches
from petlbench.errors import RecordError
from petlbench.method import Method, QueryMethod


@dataclass(frozen=True)
class TokenUsage:
    """Mean coefficients (C, N) of N tokens by class, over the images of the class and the prompts of an image; rows of classes without images are 0."""

    coefficients: Tensor
    class_names: tuple[str, ...]


@torch.no_grad()
def token_usage(method: Method, batches: Batches, class_names: tuple[str, ...]) -> TokenUsage | None:
    """Return the usage of a method that mixes the tokens of a library, in evaluation mode; None for others."""
    deployed = method.deployable() if isinstance(method, QueryMethod) else None
    if deployed is None:
        return None
    totals = torch.zeros(len(class_names), len(deployed.library), device=batches.device)
    for images, labels in batches.in_order():
        coefficients = plain("the coefficients of tokens", deployed.coefficients(images), (len(images), "K", totals.shape[1]))
        totals.index_add_(0, labels, coefficients.mean(dim=1))
    counts = batches.labels.bincount(minlength=len(class_names)).clamp_min(1)
    return TokenUsage((totals / counts[:, None]).cpu(), class_names)


def packed_usage(usage: TokenUsage) -> bytes:
    """Return the content of the usage file."""
    return save({"coefficients": usage.coefficients.contiguous()}, {"class_names": json.dumps(usage.class_names)})


def read_usage(path: Path) -> TokenUsage:
    """Read a file of :func:`packed_usage`. RecordError when it is missing or broken."""
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        with safe_open(path, framework="pt") as file:
            usage = TokenUsage(file.get_tensor("coefficients"), tuple(json.loads(file.metadata()["class_names"])))
        _check(usage)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: the token usage of a run cannot be read ({error}); run it again") from None
    return usage


def _check(usage: TokenUsage) -> None:
    """ValueError unless every class has a row of coefficients."""
    coefficients, names = usage.coefficients, usage.class_names
    if coefficients.ndim != 2 or coefficients.shape[0] != len(names) or not coefficients.numel() or not torch.isfinite(coefficients).all():
        raise ValueError(f"expected finite coefficients, a row for each of {len(names)} classes, got {tuple(coefficients.shape)}")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("expected names of classes")
