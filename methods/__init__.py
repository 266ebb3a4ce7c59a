"""One plugin per method. A file ``NAME.py`` registers the method NAME; files that start with an underscore are not plugins."""

from petlbench.torchvision_ops import define_missing_schemas

define_missing_schemas()  # before a plugin imports timm
