"""Layers that methods share."""

from petlbench.nn.deltas import LINEARS, PLACES, Delta, attach, widths
from petlbench.nn.prompts import Prompts, insert

__all__ = ["LINEARS", "PLACES", "Delta", "Prompts", "attach", "insert", "widths"]
