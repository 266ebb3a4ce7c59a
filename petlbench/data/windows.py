"""Square windows of images in one array: a batch is cut by one gather, on the device that holds the array.

Letters in shapes: N images, P pixels of all of them, B images of a batch, S side of a window.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petlbench.data.split import Ragged
from petlbench.data.transforms import crop_offsets, to_device

_SHARE = 0.25  # of a GPU's free memory, at most, for images that stay there


class Windows:
    """Windows of stored images. ``stay``: keep the images on the device when they fit, for many passes."""

    def __init__(self, images: NDArray[np.uint8] | Ragged, size: int, device: torch.device, stay: bool) -> None:
        ragged = images if isinstance(images, Ragged) else _flat(images)
        pixels = _as_tensor(ragged.pixels).view(-1)
        self._pixels = pixels.to(device) if stay and _fits(pixels, device) else pixels  # (3 P,)
        self._device = device
        self._shapes, self._starts = torch.from_numpy(ragged.shapes), torch.from_numpy(ragged.starts)
        self._size = size

    def centre(self, indices: Tensor) -> Tensor:
        """Return the windows (B, S, S, 3) at the centre of the images (B,)."""
        return self._cut(indices, ((self._shapes[indices] - self._size) / 2).round().long())  # half to even, as CenterCrop rounds

    def random(self, indices: Tensor, drawn: Tensor) -> Tensor:
        """Return the windows (B, S, S, 3) at positions (B, 2) drawn from [0, 1)."""
        return self._cut(indices, crop_offsets(drawn, self._shapes[indices], self._size))

    def _cut(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """Gather the rows of the windows: the pixels of a row lie side by side."""
        widths, side = self._shapes[indices, 1], self._size
        corners = self._starts[indices] + offsets[:, 0] * widths + offsets[:, 1]
        starts = 3 * (corners[:, None] + torch.arange(side) * widths[:, None]).flatten()  # (B S,)
        rows = self._pixels.unfold(0, 3 * side, 1).index_select(0, to_device(starts, self._pixels.device))
        return to_device(rows.view(-1, side, side, 3), self._device)


def _flat(images: NDArray[np.uint8]) -> Ragged:
    count, height, width = images.shape[:3]
    return Ragged(images.reshape(-1, 3), np.full((count, 2), (height, width), dtype=np.int64))


def _fits(pixels: Tensor, device: torch.device) -> bool:
    return device.type == "cuda" and pixels.nbytes <= _SHARE * torch.cuda.mem_get_info(device)[0]


def _as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Return a tensor over the same memory, without torch's warning of read-only memory maps, which are not written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)
