"""The rungs of the access ladder, the box that each belongs to, and the look of a box: said here for tables, pictures and the page.

``petlbench.access.handle`` has the rungs as the type that the harness enforces; this module is for those that only read records and imports nothing.
"""

BOXES = {
    "SCORES": "black box",
    "CONTEXT": "black box",
    "FEATURES": "black box",
    "GRADIENTS": "grey box",
    "WEIGHTS": "white box",
}  # lowest first

# Colour and matplotlib's marker. Colours of Okabe and Ito, told apart by all common kinds of colour vision; the markers differ as well.
STYLES = {"black box": ("#000000", "o"), "grey box": ("#E69F00", "D"), "white box": ("#0072B2", "^")}

# The same hues on the page's light and dark ground, where small marks need more contrast than on paper.
PAGE_COLOURS = {"black box": ("#1c2024", "#f2f3f4"), "grey box": ("#c47f00", "#f0b030"), "white box": ("#0072b2", "#56b4e9")}


def hyphenated(box: str) -> str:
    """``black-box``: what published numbers and classes of the page's style call a box."""
    return box.replace(" ", "-")
