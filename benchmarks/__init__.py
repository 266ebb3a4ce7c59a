"""Measurements of speed and memory: scripts, not part of the package. ``python -m benchmarks.whitebox`` from the top of the repository."""

from petlbench.torchvision_ops import define_missing_schemas

define_missing_schemas()  # before anything in here imports timm
