"""Turn names into parts of paths: bounded, harmless, and unique."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.records.file_names import file_part, slug


@pytest.mark.parametrize(("name", "part"), [("mini/digits", "mini-digits"), ("vpt_deep", "vpt_deep"), ("a.b", "a.b")])
def test_a_plain_name_stays_readable(name: str, part: str) -> None:
    assert file_part(name) == part


def test_what_is_dropped_is_made_up_for_by_a_hash() -> None:
    names = ["a/b", "a-b", "a:b", "a b", "a+b", "a_b", "a//b", ".a/b", "ä", "ö", "猫", "犬", "", ".", "..", "\udce4", "x" * 300, "x" * 301]
    assert len({file_part(name) for name in names}) == len(names)
    assert file_part("a+b/c").startswith("a_b-c-")


@given(st.text(), st.integers(1, 300))
def test_no_name_is_too_long_or_leads_elsewhere(text: str, times: int) -> None:
    for part in (file_part(text * times), slug(text * times)):
        assert 0 < len(part.encode()) <= 89 and part.isascii()
        assert Path(part).name == part and part not in (".", "..")
