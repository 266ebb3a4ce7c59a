"""The code and the machine that produced a record."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import torch

from petlbench.records.schema import Code, Environment

_SOURCES = ("petlbench", "petlbench.methods", "petlbench.datasets", "petlbench.configs")
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
def source_digest() -> str:
    """Return the SHA-256 of this package's Python and YAML files, plugins included: code may change without its version, and differ between machines."""
    digest = hashlib.sha256()
    for package in _SOURCES:
        for name, content in sorted(_sources(files(package), package)):
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for inner in folder.iterdir():
        if inner.is_dir():
            yield from _sources(inner, f"{name}/{inner.name}")
        elif inner.name.endswith((".py", ".yaml")):
            yield f"{name}/{inner.name}", inner.read_bytes()


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    """Read the metadata of packages once: it takes 10 ms."""
    return tuple((package, version(package)) for package in _PACKAGES)


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
