"""Layers that methods share."""

from petlbench.nn.deltas import LINEARS, PLACES, Delta, attach, merge, tuned_linear, widths
from petlbench.nn.linear import TunedLinear
from petlbench.nn.prompts import Prompts, insert

__all__ = ["LINEARS", "PLACES", "Delta", "Prompts", "TunedLinear", "attach", "insert", "merge", "tuned_linear", "widths"]
