"""What a run costs: seconds, memory, forward passes, floating-point operations."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

_CLEAR_PEAK = Path("/proc/self/clear_refs")


class Stopwatch:
    """Seconds per named part of a run, without waiting for the device inside a part."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


class ImageCounter:
    """Counts the images that enter vision towers, by watching their patch embeddings."""

    def __init__(self) -> None:
        self.images = 0
        self._handles: list[RemovableHandle] = []

    def watch(self, vit: nn.Module) -> None:
        """Count what enters this tower from now on."""
        self._handles.append(vit.patch_embed.register_forward_pre_hook(self._count))  # type: ignore[union-attr]

    def _count(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak. On a CPU only Linux can; elsewhere the peak is that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_PEAK.exists():
        try:
            _CLEAR_PEAK.write_text("5")
        except OSError:  # not permitted in some containers: the peak is then that of the process
            return


def peak_memory_mb(device: torch.device) -> float:
    """Device memory on a GPU, resident set of this process on a CPU, in units of 2^20 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def flops_per_image(model: nn.Module, image: Tensor) -> float:
    """Floating-point operations of one forward pass of (1, 3, S, S), a multiplication and an addition counted as two.

    With gradients enabled: torch's counter fails on views of parameters without. With attention as plain products: it does not know the CPU's
    fused kernel.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    return float(counter.get_total_flops())
