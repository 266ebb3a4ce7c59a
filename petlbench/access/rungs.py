"""The rungs of the access ladder, the box of each rung, and how tables, plots and the page draw a box. Imports neither torch nor the package."""

from __future__ import annotations

from enum import IntEnum

BOXES = {
    "SCORES": "black box",
    "CONTEXT": "black box",
    "FEATURES": "black box",
    "GRADIENTS": "grey box",
    "WEIGHTS": "white box",
}  # rung -> box, lowest rung first

# Colour and matplotlib's marker. Colours of Okabe and Ito, told apart by all common kinds of colour vision; the markers differ as well.
STYLES = {"black box": ("#000000", "o"), "grey box": ("#E69F00", "D"), "white box": ("#0072B2", "^")}

# The same hues on the page's light and dark ground, where small marks need more contrast than on paper.
PAGE_COLOURS = {"black box": ("#1c2024", "#f2f3f4"), "grey box": ("#c47f00", "#f0b030"), "white box": ("#0072b2", "#56b4e9")}


class Access(IntEnum):
    """The rungs, lowest first. A method declares the lowest rung that suffices and gets that rung only."""

    SCORES = 1  # images in, class scores out
    CONTEXT = 2  # images and continuous prompt contexts in, class scores out
    FEATURES = 3  # images in, embeddings out
    GRADIENTS = 4  # pixels and tokens in, outputs that can be differentiated with respect to them
    WEIGHTS = 5  # everything

    @property
    def colour(self) -> str:
        """``black``, ``grey`` or ``white``, the colour of the rung's box."""
        return BOXES[self.name].removesuffix(" box")


def hyphenated(box: str) -> str:
    """Return a box as published numbers and the page's style classes name it, such as ``black-box``."""
    return box.replace(" ", "-")
