"""Errors that a user can act on. The command line prints them as one line; anything else is a bug and shows a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What a terminal obeys (C0 without the line break, DEL, C1), what reorders or breaks a line unseen, and what no stream can encode
UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 2000  # characters of a plugin's error


class PetlbenchError(Exception):
    """Base of all errors with a message for the user: it names the key, file or value, what was expected and what to do."""


class ConfigError(PetlbenchError):
    """A configuration key, name or value is wrong."""


class DataError(PetlbenchError):
    """A dataset, split or image is missing or not what its task declares."""


class CheckpointError(PetlbenchError):
    """A weight file does not fit the model that it is loaded into."""


class RecordError(PetlbenchError):
    """A record file cannot be read or written, or breaks the schema."""


class NewerRecord(RecordError):
    """A record was written by a newer petlbench: this one cannot read it, and must not replace it."""


class TuningError(PetlbenchError):
    """A study of tuning is missing, not finished, or not what was asked for."""


class TableError(PetlbenchError):
    """A table of published numbers, or the description of one, breaks its rules."""


class AccessError(PetlbenchError):
    """A method needs or asked for more of a backbone than this one, or its rung of the access ladder, gives."""


class EndpointError(PetlbenchError):
    """A model behind HTTP does not answer, or refuses to."""


class BudgetExceeded(PetlbenchError):
    """The next query would exceed the run's budget; it was not sent."""


class Diverged(PetlbenchError):
    """The training loss is no longer finite."""


class Pruned(PetlbenchError):
    """A trial was ended early: others of its study are better."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that there is nothing of that name among what ``petlbench ls`` lists, with the nearest name."""
    return f"no {kind} '{name}'.{did_you_mean(name, known)} (petlbench ls {kind}s lists all)"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of the known names, or nothing when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def is_unicode(text: str) -> bool:
    """Return False for text with half of a surrogate pair, which Python makes of bytes that are not UTF-8, and which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Return text from outside as a terminal may show it: characters that it would obey, such as ESC, as their escapes in Python; line breaks stay."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def message_of(error: BaseException) -> str:
    """Return the message of an error of a plugin, whose text is the plugin's own code, as a record may hold it: printable and not endless."""
    try:
        message = str.__str__(str(error))  # of a text with methods of its own the characters
    except BaseException:
        message = "(its text cannot be read)"
    return printable(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…")


def described(error: BaseException) -> str:
    """Return kind and message of an error, such as ``ValueError: no such rank``."""
    return f"{printable(type(error).__name__)}: {message_of(error)}"
