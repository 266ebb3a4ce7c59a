"""Layers that methods share, and how they are put into timm's vision transformer."""
# ruff: noqa: E402 (the call has to come first)

from petlbench.torchvision_ops import define_missing_schemas

define_missing_schemas()  # before anything in here imports timm

from petlbench.nn.deltas import LINEARS, PLACES, Delta, attach, merge, tuned_linear, widths
from petlbench.nn.linear import TunedLinear
from petlbench.nn.prompts import Prompts, insert

__all__ = ["LINEARS", "PLACES", "Delta", "Prompts", "TunedLinear", "attach", "insert", "merge", "tuned_linear", "widths"]
