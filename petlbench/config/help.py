"""Read help from the source of configuration dataclasses: the comment beside a field, or the lines of comment above it."""

from __future__ import annotations

import dataclasses
import inspect
import io
import tokenize
from dataclasses import dataclass
from functools import cache
from typing import Any, cast, get_type_hints

from petlbench.config.typed import describe


@dataclass(frozen=True)
class FieldHelp:
    """One setting."""

    key: str  # as a user types it, such as train.epochs
    type: str  # in words
    value: Any
    comment: str


def section_help(section: Any, prefix: str = "") -> list[FieldHelp]:
    """List the settings of an instance of a configuration dataclass, nested ones included, with their values."""
    kind, found = type(section), []
    hints, comments = get_type_hints(kind), field_comments(cast(Any, kind))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            found += section_help(value, f"{prefix}{field.name}.")
        else:
            found.append(FieldHelp(f"{prefix}{field.name}", describe(hints[field.name]), value, comments.get(field.name, "")))
    return found


@cache
def field_comments(kind: Any) -> dict[str, str]:
    """Map fields to comments, base classes included. Empty where there is no source, as for a class that was typed into a console."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            try:
                comments |= _comments(inspect.getsource(cast(type, base)))
            except (OSError, TypeError):
                continue
    return comments


def _comments(source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    above: list[str] = []  # comments on lines of their own since the last statement
    name = ""
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline):
        text = token.string.lstrip("# ")
        starts_line = previous in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)
        if token.type == tokenize.COMMENT and starts_line:
            above.append(text)
        elif token.type == tokenize.COMMENT:
            found[name] = " ".join(filter(None, (found.get(name, ""), text)))
        elif token.type == tokenize.NAME and starts_line:
            name = token.string
            if above:
                found[name] = " ".join(above)
            above = []
        previous = token.type
    return found
