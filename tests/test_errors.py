"""Texts from outside on a terminal."""

from __future__ import annotations

import pytest

from petlbench.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Müller – 猫 🐈\nnext line", "Müller – 猫 🐈\nnext line"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\tc\x00", "a\\rb\\tc\\x00"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\udcff", "\\udcff"),
        ("\\x1b", "\\x1b"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    shown.encode()
