"""What tells runs and protocols apart: hashes of resolved settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def run_id(config: dict[str, Any]) -> str:
    """16 hexadecimal digits that identify a resolved configuration, whatever the order of its keys."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def protocol_id(settings: dict[str, Any]) -> str:
    """A protocol's name and 8 hexadecimal digits of its settings; equal for protocols whose results may share a column."""
    return f"{settings.get('name')}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"
