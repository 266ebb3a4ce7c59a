"""How plots and the page draw: colours that all common kinds of colour vision tell apart, and the look of each box."""

from __future__ import annotations

# Of Okabe and Ito.
PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "black": "#000000",
}

# Colour and matplotlib's marker: the markers differ as well.
STYLES = {"black box": (PALETTE["black"], "o"), "grey box": (PALETTE["orange"], "D"), "white box": (PALETTE["blue"], "^")}

# The same hues on the page's light and dark ground, where small marks need more contrast than on paper.
PAGE_COLOURS = {
    "black box": ("#1c2024", "#f2f3f4"),
    "grey box": ("#c47f00", "#f0b030"),
    "white box": (PALETTE["blue"], PALETTE["sky blue"]),
}


def hyphenated(box: str) -> str:
    """Return a box as published numbers and the page's style classes name it, such as ``black-box``."""
    return box.replace(" ", "-")
