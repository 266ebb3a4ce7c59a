"""Decide which images stay on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from petlbench.data import windows
from petlbench.data.batches import Batches
from petlbench.data.split import Split
from petlbench.data.transforms import Form, Transform

CPU = torch.device("cpu")


@pytest.mark.parametrize(("free", "stays"), [(4 * 300, True), (4 * 299, False)])
def test_images_stay_on_a_gpu_where_they_take_up_a_quarter_of_what_is_free(free: int, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 10**9))
    assert windows._fits(torch.zeros(300, dtype=torch.uint8), torch.device("cuda")) is stays
    assert not windows._fits(torch.zeros(300, dtype=torch.uint8), CPU)


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_only_images_that_are_read_many_times_are_to_stay_on_a_gpu(
    generator: torch.Generator | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    pixels = np.zeros((5, 9, 9, 3), np.uint8)
    monkeypatch.setattr(windows, "_fits", lambda flat, device: bool(asked.append(flat.nbytes)))
    list(Batches(Split(pixels, np.arange(5), "digest"), Transform(Form("squash", 9, cut=9), (0.0,) * 3, (1.0,) * 3), 2, CPU, generator))
    assert asked == ([] if generator is None else [pixels.nbytes])
