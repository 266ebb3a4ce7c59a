"""Frozen pretrained models: the embedded one, timm's, open_clip's and local checkpoint files."""

from petlbench.torchvision_ops import define_missing_schemas

define_missing_schemas()  # before anything in here imports timm, open_clip or torchvision
