"""Measure the cost of a run: seconds, memory, forward passes, floating-point operations."""

from __future__ import annotations

import ctypes
import gc
import re
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

_CLEAR_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Stopwatch:
    """Seconds per named stage of a run. The device is synchronised at the end of a stage only."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class ImageCounter:
    """Counts the images that enter modules, by hooks."""

    def __init__(self) -> None:
        self.images = 0
        self._handles: list[RemovableHandle] = []

    def watch(self, tower: nn.Module) -> None:
        """Count what enters this module from now on; of a vision transformer, what enters its patch embedding."""
        self._handles.append(getattr(tower, "patch_embed", tower).register_forward_pre_hook(self._count))

    def _count(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images += Tensor.size(inputs[0], 0)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class AddedMemory:
    """The rise of the memory of this process, or of a GPU, above what is held now. Unused memory is returned first, so that the result does not depend on
    what the process did before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            _fill_workspaces(device)
        _settle()
        self._held = _held_mb(device)
        self._is_new_peak = reset_peak_memory(device)

    @property
    def mb(self) -> float | None:
        """Return it in units of 2^20 bytes; None where the system does not report it, or where the peak may be an earlier one."""
        if self._held is None or not self._is_new_peak:
            return None
        return max(0.0, peak_memory_mb(self._device) - self._held)


def reset_peak_memory(device: torch.device) -> bool:
    """Start a new peak and return True, where possible. On a CPU only Linux can; elsewhere the peak is that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if not _CLEAR_PEAK.exists():
        return False
    try:
        _CLEAR_PEAK.write_text("5")
    except OSError:  # not permitted in some containers
        return False
    return True


def peak_memory_mb(device: torch.device) -> float:
    """Device memory on a GPU, resident set of this process on a CPU, in units of 2^20 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    from_status = _status_mb("VmHWM")
    if from_status is not None:
        return from_status
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def settled_memory_mb() -> float:
    """Return what this process holds and cannot give back, in units of 2^20 bytes; its peak where only that is known."""
    _settle()
    held = _status_mb("VmRSS")
    return peak_memory_mb(torch.device("cpu")) if held is None else held


def _settle() -> None:
    """Free what nothing refers to, and return it to the system."""
    gc.collect()
    _return_freed_memory()


def _held_mb(device: torch.device) -> float | None:
    return torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else _status_mb("VmRSS")


def _status_mb(name: str) -> float | None:
    """Read a memory size of this process from Linux; None on other systems."""
    if not _STATUS.exists():
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), flags=re.MULTILINE)
    return None if found is None else int(found[1]) / 1024


def _return_freed_memory() -> None:
    """Return memory that C has freed but keeps to the system; glibc only."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _fill_workspaces(device: torch.device) -> None:
    """Allocate cuBLAS's workspace, which it keeps per thread from its first product on, so that the first run is not charged with it."""
    matrix = torch.zeros(8, 8, device=device, requires_grad=True)
    with torch.enable_grad():
        (matrix @ matrix).sum().backward()


def flops_per_image(model: nn.Module, image: Tensor) -> float:
    """Return the floating-point operations of one forward pass of (1, 3, S, S), a multiplication and an addition counted as two.

    With gradients enabled: torch's counter fails on views of parameters without. With attention as plain products: it does not know the CPU's
    fused kernel.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    return float(counter.get_total_flops())
