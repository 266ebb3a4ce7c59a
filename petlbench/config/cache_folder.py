"""The folder for what can be made again: stored images, results that several runs share, what is known of files that were read before."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``PETLBENCH_CACHE``, else the user's cache folder."""
    configured = os.environ.get("PETLBENCH_CACHE")
    return Path(configured) if configured else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petlbench"
