"""The one thread that runs the model, and merges waiting jobs into batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from petlbench.remote.server.metrics import Metrics
from petlbench.remote.wire import Refusal

T = TypeVar("T")
CLOSING_SECONDS = 2.0  # how long a running forward pass is awaited when the server ends
Tower = Callable[..., Tensor]  # images (B, 3, S, S), and patches (B, K, 3, P, P) where there are any, to one row each


@dataclass(frozen=True, eq=False)
class Job:
    """Images to forward through a tower, and ``finish``, called with their rows; without images with None."""

    tower: str
    images: Tensor | None
    finish: Callable[[Tensor | None], Any]
    patches: Tensor | None = None  # beside the images
    future: Future[Any] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[str, torch.Size | None]:
        """The tower and the shape of patches, equal for jobs in one forward pass."""
        return self.tower, None if self.patches is None else self.patches.shape[1:]


class Worker:
    """Carries jobs out one batch after the other. Waiting jobs that need the same tower go through it together, oldest first."""

    def __init__(self, towers: Mapping[str, Tower], batch_images: int, delay_seconds: float, metrics: Metrics) -> None:
        self._towers = towers
        self._batch_images = batch_images
        self._delay_seconds = delay_seconds
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="petlbench-model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def through(self, tower: str, images: Tensor, finish: Callable[[Tensor], T], patches: Tensor | None = None) -> Future[T]:
        """Send images, with patches beside them, through a tower, then ``finish`` with their rows, both on the worker's thread."""
        return self._put(Job(tower, images, finish, patches))  # type: ignore[arg-type]

    def compute(self, work: Callable[[], T]) -> Future[T]:
        """Run other work on the worker's thread."""
        return self._put(Job("", None, lambda _: work()))

    def close(self) -> None:
        """Refuse waiting jobs and end the thread; a forward pass is awaited for CLOSING_SECONDS at most."""
        with self._changed:
            self._is_closing = True
            given_up, self._waiting = self._waiting, deque()
            self._changed.notify()
        for job in given_up:
            _give_up(job)
        self._thread.join(CLOSING_SECONDS)

    def _put(self, job: Job) -> Future[Any]:
        with self._changed:
            if self._is_closing:
                _give_up(job)
            else:
                self._waiting.append(job)
                self._changed.notify()
        return job.future

    def _work(self) -> None:
        while batch := self._next_batch():
            self._carry_out(batch)

    def _next_batch(self) -> list[Job]:
        """Wait for the next batch of jobs; empty when the worker is closed."""
        with self._changed:
            while not self._waiting:
                if self._is_closing:
                    return []
                self._changed.wait()
            deadline = time.monotonic() + self._delay_seconds
            while self._waiting:  # until it is closed
                batch, is_full = companions(self._waiting, self._batch_images)
                left = deadline - time.monotonic()
                if is_full or left <= 0:
                    for job in batch:
                        self._waiting.remove(job)
                    return batch
                self._changed.wait(left)
            return []

    def _carry_out(self, batch: Sequence[Job]) -> None:
        batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
        try:
            rows = self._forward(batch)
        except Exception as error:
            for job in batch:
                job.future.set_exception(error)
            return
        for job, its_rows in zip(batch, rows, strict=True):
            try:
                job.future.set_result(job.finish(its_rows))
            except Exception as error:
                job.future.set_exception(error)

    def _forward(self, batch: Sequence[Job]) -> Sequence[Tensor | None]:
        images = [job.images for job in batch if job.images is not None]
        if not images:
            return [None] * len(batch)
        sizes = [len(part) for part in images]
        patches = [job.patches for job in batch if job.patches is not None]  # of all or of none
        rows = self._towers[batch[0].tower](torch.cat(images), *([torch.cat(patches)] if patches else []))
        self._metrics.forward_batches.inc()
        self._metrics.forward_images.inc(sum(sizes))
        return rows.split(sizes)


def _give_up(job: Job) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(Refusal(503, "ending", "this server is ending"))


def companions(waiting: Sequence[Job], limit: int) -> tuple[list[Job], bool]:
    """The oldest job and those that can share its forward pass of at most ``limit`` images; and True if waiting for more would not help."""
    first = waiting[0]
    if first.images is None:
        return [first], True
    batch, total = [first], len(first.images)
    for job in list(waiting)[1:]:
        if job.images is None or job.kind != first.kind:
            continue
        if total + len(job.images) > limit:
            return batch, True
        batch.append(job)
        total += len(job.images)
    return batch, total >= limit
