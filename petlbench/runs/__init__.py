"""One run told from top to bottom (``execute``), and a grid of runs: what is done, what is missing (``plan``)."""
