"""``key=value`` words, read once: what comes out is nested settings whose leaves are texts as they were typed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from petlbench.config.resolve import nested
from petlbench.config.typed import Text
from petlbench.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_][\w.]*")


def split_words(words: Sequence[str]) -> dict[str, str]:
    """Keys and texts. ConfigError for a word of another form."""
    texts: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"'{word}' is not of the form key=value, such as method=lora or train.epochs=20")
        texts[key] = Text(text)
    return texts


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """Settings for ``petlbench.config.resolve.resolve``."""
    return nested(split_words(words))
