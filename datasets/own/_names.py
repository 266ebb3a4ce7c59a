"""The rule for names of classes in folders, tables and ``names.txt``: which are the same, which are none, and their order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from petlbench.errors import DataError

from ..disk.layouts._lists import text_of

NOT_A_CLASS = "__MACOSX"  # beside the class folders in archives that a Mac packed
_NUMBER = re.compile(r"-?\d+")
_LEADING_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")
_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, bytes that are not UTF-8, separators of lines


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names: as numbers when all are whole numbers, else by their characters' code points."""
    listed = sorted(set(names))
    return sorted(listed, key=Decimal) if all(_NUMBER.fullmatch(name) for name in listed) else listed


def has_control(name: str) -> bool:
    """Return True when a name has characters that no terminal or file of results can hold: control characters and bytes that are not UTF-8."""
    return any(unicodedata.category(character) in _CONTROL for character in name)


def check_names(named: Iterable[tuple[str, str]]) -> None:
    """Check names, each with the place where it is written. DataError for one that cannot be a class, and for two that a reader takes for the same."""
    first: dict[str, tuple[str, str]] = {}
    for name, where in named:
        if name.startswith(".") or name == NOT_A_CLASS:
            raise DataError(f"{where}: '{name}' is no name of a class, since folders of such names are passed over; choose another")
        if has_control(name):
            raise DataError(f"{where}: the name {name!a} has control characters or bytes that are not UTF-8; write it without them")
        other, elsewhere = first.setdefault(_folded(name), (name, where))
        if other != name:
            raise DataError(
                f"{where}: the class {name!a} differs from {other!a} ({elsewhere}) in case, blanks, leading zeros or Unicode form only; "
                "spell one class in one way, or give two classes names that differ in more"
            )


def read_names(file: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Read the names of classes for prompts, one per line in the order of ``classes``; blank lines and blanks around names do not count."""
    try:
        lines = list(enumerate(text_of(file).split("\n"), start=1))
    except ValueError as error:
        raise DataError(f"{file}: cannot be read ({error}); it needs one name per line, in UTF-8") from None
    named = [(name, f"{file}, line {number}") for number, line in lines if (name := line.strip())]
    names, order = tuple(name for name, _ in named), ", ".join(classes)
    if len(names) != len(classes):
        raise DataError(f"{file} has {len(names)} names, and there are {len(classes)} classes; write one per line, in the order {order}")
    check_names(named)
    seen: dict[str, str] = {}
    for name, where in named:
        if (before := seen.setdefault(name, where)) != where:
            raise DataError(
                f"{where}: '{name}' is the name of the class of {before} already; every class needs its own, in the order {order}"
            )
    if sorted(names) == sorted(classes) and names != tuple(classes):
        raise DataError(f"{file} has the names of the classes in another order; write them in the order {order}")
    return names


def _folded(name: str) -> str:
    """Return what remains of a name without case, Unicode form, invisible characters, kinds of blanks and leading zeros."""
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    visible = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    digits = re.sub(r"\d", lambda found: str(unicodedata.decimal(found[0])), visible)
    return _LEADING_ZEROS.sub("", " ".join(digits.replace("_", " ").split()))  # prompts have blanks for underscores
