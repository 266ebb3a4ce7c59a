"""docs/house.md lists the modules as tests/test_rooms.py orders them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_rooms import FLOOR

PAGE = (Path(__file__).parents[2] / "docs" / "house.md").read_text(encoding="utf-8")


def test_every_module_is_listed_above_those_that_it_may_import() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(FLOOR)
    floors = [FLOOR[room] for room in listed]
    assert floors == sorted(floors, reverse=True)
