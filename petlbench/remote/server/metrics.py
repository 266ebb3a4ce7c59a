"""Counters in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import defaultdict

_HELP = {
    "requests": "requests by route and status",
    "request_seconds": "time from a request's arrival to its reply",
    "images": "images asked about or uploaded",
    "contexts": "prompt contexts asked about",
    "texts": "captions described",
    "forward_batches": "forward passes of the vision tower, of one request or of several that were merged",
    "forward_images": "images in these forward passes",
    "replays": "requests that were answered with the reply to an earlier one of the same idempotency key; counted in none of the above but requests",
}


class Metrics:
    """What the server has done since it started."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._lock = threading.Lock()  # the worker and the event loop count

    def add(self, name: str, amount: float = 1, **labels: object) -> None:
        assert name in _HELP
        written = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._values[name, f"{{{written}}}" if written else ""] += amount

    def value(self, name: str) -> float:
        """A counter, over all its labels."""
        with self._lock:
            return sum(value for (of, _), value in self._values.items() if of == name)

    def text(self) -> str:
        with self._lock:
            values = dict(self._values)
        lines = []
        for name, help_text in _HELP.items():
            lines += [f"# HELP petlbench_{name}_total {help_text}", f"# TYPE petlbench_{name}_total counter"]
            samples = {labels: value for (of, labels), value in sorted(values.items()) if of == name} or {"": 0}
            lines += [f"petlbench_{name}_total{labels} {value:.17g}" for labels, value in samples.items()]
        mean = self.value("forward_images") / max(1.0, self.value("forward_batches"))
        lines += ["# HELP petlbench_forward_batch_images images per forward pass, mean", "# TYPE petlbench_forward_batch_images gauge"]
        return "\n".join([*lines, f"petlbench_forward_batch_images {mean:.17g}", ""])
