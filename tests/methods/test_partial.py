"""Partial-k: which blocks train."""

from __future__ import annotations

import pytest

from petlbench.errors import ConfigError
from petlbench.methods.partial import PartialConfig
from tests.methods.networks import configured, frozen, small, trainable


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_last_blocks_and_the_final_norm_train(count: int) -> None:
    expected = [
        name for name in dict(frozen().named_parameters()) if name.startswith(("norm.", *(f"blocks.{3 - k}." for k in range(1, count + 1))))
    ]
    assert list(trainable(small("partial", f"method.blocks={count}"))) == expected


def test_more_blocks_than_there_are_is_refused() -> None:
    method, _ = configured("partial", "method.blocks=4")
    with pytest.raises(ConfigError, match=r"method\.blocks must be at most 3, the depth of this backbone, got 4"):
        method.adapt(frozen())


def test_no_block_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks must be an int >= 1, got 0"):
        PartialConfig(blocks=0)
