"""Register a task for each dataset and suite in the facts, as far as they name a layout for it."""

from __future__ import annotations

from petlbench.data.task import register_task

from .disk_task import disk_task
from .facts import datasets

for _dataset in datasets().values():
    for _entry in _dataset.suites.values() if _dataset.layouts else ():
        _names = (_dataset.name, *_dataset.aliases)
        register_task(disk_task(_dataset, _entry), __name__, aliases=[f"{_entry.suite}/{name}" for name in _names])
