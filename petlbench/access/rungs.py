"""The rungs of the access ladder and the box of each rung. Imports neither torch nor the package."""

from __future__ import annotations

from enum import IntEnum

BOXES = {
    "SCORES": "black box",
    "CONTEXT": "black box",
    "FEATURES": "black box",
    "GRADIENTS": "grey box",
    "WEIGHTS": "white box",
}  # rung -> box, lowest rung first


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
