"""Tune hyper-parameters on validation images: studies of trials, which are runs, and the runs of their winners."""
