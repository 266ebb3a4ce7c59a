"""Checks that every plot has to pass."""

from __future__ import annotations

from matplotlib.figure import Figure


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Check that everything drawn is inside the figure."""
    figure.draw_without_rendering()
    inches = figure.get_tightbbox()
    assert inches is not None
    assert inches.x0 >= 0
    assert inches.y0 >= 0
    assert inches.x1 <= figure.get_figwidth() + 0.01
    assert inches.y1 <= figure.get_figheight() + 0.01
