"""The types of a record's fields. They hold only what a run can have measured, and what every table can show."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from petlbench.errors import is_unicode

_DEEPEST = 30  # nested settings
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"  # what would break a line, steer a terminal, or is no Unicode


def _checked_time(text: str) -> str:
    try:
        if datetime.fromisoformat(text).utcoffset() == timedelta():
            return text
    except ValueError:
        pass
    raise ValueError("expected a time in UTC, such as 2026-01-31T12:00:00+00:00")


def _checked_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse what JSON cannot hold, and nesting that could exhaust the stack of whoever walks through it."""
    if reason := _unwritable(settings):
        raise ValueError(reason)
    return settings


def _unwritable(value: Any, depth: int = 0) -> str | None:
    """Return why a value cannot be stored as JSON and read back; None if it can."""
    if depth > _DEEPEST:
        return f"expected settings nested {_DEEPEST} deep at most"
    if isinstance(value, dict | list | tuple):
        return _unwritable_inside(value, depth)
    if isinstance(value, str):
        return None if is_unicode(value) else "expected text in Unicode"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected finite numbers"
    return None if value is None or isinstance(value, int | float) else f"expected plain values, not a {type(value).__name__}"


def _unwritable_inside(value: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> str | None:
    if isinstance(value, dict):
        for key in value:
            if not (isinstance(key, str) and key.isprintable()):
                return "expected names of settings in one line, without control characters"
    for one in value.values() if isinstance(value, dict) else value:
        if reason := _unwritable(one, depth + 1):
            return reason
    return None


def _checked_text(text: str) -> str:
    if not is_unicode(text):
        raise ValueError("expected text in Unicode")
    return text


def _checked_below(name: str) -> str:
    """Refuse a file name that could lead out of its folder."""
    if not set(PurePosixPath(name).parts).isdisjoint({"..", "/"}) or "\\" in name:
        raise ValueError("expected the name of a file below the results folder")
    return name


def _matching(pattern: str, expected: str, longest: int = 1_000) -> AfterValidator:
    compiled = re.compile(pattern)

    def checked(text: str) -> str:
        if len(text) > longest:
            raise ValueError(f"expected at most {longest:,} characters, got {len(text):,}")
        if not compiled.fullmatch(text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(checked)


Text = Annotated[str, AfterValidator(_checked_text)]
Line = Annotated[str, _matching(rf"[^{_CONTROL}]*", "text in one line, without control characters", 10_000)]
Name = Annotated[str, _matching(rf"[^{_CONTROL}]+", "a name in one line, without control characters")]
TaskName = Annotated[str, _matching(rf"[^{_CONTROL}/:]+[/:][^{_CONTROL}]+", "a task such as suite/task or folder:place", 10_000)]
FileName = Annotated[str, _matching(rf"[^{_CONTROL}/\\]*[^{_CONTROL}/\\.]", "the name of a file, without a folder")]
FileBelow = Annotated[Name, AfterValidator(_checked_below)]
Hash = Annotated[str, _matching(r"([0-9a-f]{64})?", "a SHA-256 in hexadecimal digits")]  # empty: not known
Hashes = Annotated[str, _matching(r"([0-9a-f]{64}(\+[0-9a-f]{64})*)?", "SHA-256 in hexadecimal digits, joined by +", 100_000)]
Time = Annotated[str, AfterValidator(_checked_time)]  # ISO 8601, UTC
Place = Annotated[
    str, _matching(r"([0-9]{1,3}\.)?[a-z]\w{0,50}", "a place in a network such as 3.q or embed")
]  # see petlbench.nn.allocation
Rung = Literal["SCORES", "CONTEXT", "FEATURES", "GRADIENTS", "WEIGHTS"]  # of the access ladder, lowest first
Settings = Annotated[dict[str, Any], AfterValidator(_checked_settings)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Percent = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0, le=1e30)]  # of seconds, MB or operations; a sum of them is finite
