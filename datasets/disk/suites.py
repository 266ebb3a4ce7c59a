"""The tasks of the suites ``vtab fgvc blackvip16 craft15 pgn12`` over datasets on a disk, as far as facts/datasets.yaml names a layout for them."""

from __future__ import annotations

from petlbench.data.task import register_task

from .disk_task import disk_task
from .facts import datasets

for _dataset in datasets().values():
    for _entry in _dataset.suites.values() if _dataset.layouts else ():
        _names = (_dataset.name, *_dataset.aliases)
        register_task(disk_task(_dataset, _entry), __name__, aliases=[f"{_entry.suite}/{name}" for name in _names])
