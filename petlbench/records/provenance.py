"""The code and the machine that produced a record."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from petlbench.records.schema import Code, Environment

_PACKAGES = ("torch", "timm", "open_clip_torch", "numpy", "safetensors")


@cache
def code() -> Code:
    """Return the version of this package, and its commit if it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return Code(version=version("petlbench"))
    commit = _git(root, "rev-parse", "HEAD")
    return Code(version=version("petlbench"), commit=commit or None, is_dirty=bool(_git(root, "status", "--porcelain")))


def environment(device: torch.device, precision: str) -> Environment:
    """Return everything besides code and configuration that a number may depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()}, {os.cpu_count()} cores)"
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()}",
        device=name,
        threads=torch.get_num_threads(),
        precision=precision,
        packages=dict(_packages()),
    )


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    """Read the metadata of packages once: it takes 10 ms."""
    return tuple((package, version(package)) for package in _PACKAGES)


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
