"""Reuse results that many runs share: only under the same circumstances."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from petlbench.data.cache import Cache

SETTINGS = {"seed": 0, "images": 5}


@pytest.fixture
def compute() -> Callable[[], dict[str, Tensor]]:
    """Returns how often it was called, as a tensor."""
    calls: list[int] = []

    def count() -> dict[str, Tensor]:
        calls.append(1)
        return {"calls": torch.tensor(len(calls))}

    return count


def test_the_second_request_is_answered_from_disk(cache: Path, compute: Callable[[], dict[str, Tensor]]) -> None:
    answers = [Cache("a").get_or_compute("scores", SETTINGS, compute)["calls"].item() for _ in range(2)]
    assert answers == [1, 1]
    assert len(list((cache / "computed" / "scores").glob("*.sealed"))) == 1


@pytest.mark.parametrize(
    ("identity", "name", "settings"), [("b", "scores", SETTINGS), ("a", "other", SETTINGS), ("a", "scores", {"seed": 1})]
)
@pytest.mark.usefixtures("cache")
def test_other_circumstances_are_computed_anew(
    identity: str, name: str, settings: dict[str, int], compute: Callable[[], dict[str, Tensor]]
) -> None:
    Cache("a").get_or_compute("scores", SETTINGS, compute)
    assert Cache(identity).get_or_compute(name, settings, compute)["calls"] == 2


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no seal": lambda path: path.write_bytes(b"not safetensors"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "a pipe": lambda path: [path.unlink(), os.mkfifo(path)],
    "another's": lambda path: [
        Cache("b").get_or_compute("scores", SETTINGS, lambda: {"calls": torch.tensor(7)}),
        next(other for other in path.parent.iterdir() if other != path).replace(path),
    ],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_computed_anew_and_replaced(
    damage: Callable[[Path], object], cache: Path, compute: Callable[[], dict[str, Tensor]], caplog: pytest.LogCaptureFixture
) -> None:
    Cache("a").get_or_compute("scores", SETTINGS, compute)
    [path] = (cache / "computed" / "scores").iterdir()
    damage(path)
    assert [Cache("a").get_or_compute("scores", SETTINGS, compute)["calls"].item() for _ in range(2)] == [2, 2]
    assert [record.message for record in caplog.records] == [f"{path} is damaged; what it held is computed again"]


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(cache: Path, compute: Callable[[], dict[str, Tensor]]) -> None:
    cache.write_text("a file where the folder should be")
    assert Cache("a").get_or_compute("scores", SETTINGS, compute)["calls"] == 1


def test_without_an_identity_nothing_is_kept(cache: Path, compute: Callable[[], dict[str, Tensor]]) -> None:
    assert [Cache().get_or_compute("scores", SETTINGS, compute)["calls"].item() for _ in range(2)] == [1, 2]
    assert not cache.exists()
