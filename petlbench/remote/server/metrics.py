"""Counters of the server since its start, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

disable_created_metrics()  # else each counter has a second series beside it: when it began


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, namespace="petlbench", registry=self._registry)
        self.requests = counter("requests", "requests by route and status", ["route", "status"])
        self.request_seconds = counter("request_seconds", "time from a request's arrival to its reply", ["route"])
        self.images = counter("images", "images asked about or uploaded")
        self.contexts = counter("contexts", "prompt contexts asked about")
        self.texts = counter("texts", "captions described")
        self.forward_batches = counter(
            "forward_batches", "forward passes of the vision tower, of one request or of several that were merged"
        )
        self.forward_images = counter("forward_images", "images in these forward passes")
        self.replays = counter(
            "replays",
            "requests that were answered with the reply to an earlier one of the same idempotency key; counted in none of the above but requests",
        )
        mean = Gauge("forward_batch_images", "images per forward pass, mean", namespace="petlbench", registry=self._registry)
        mean.set_function(lambda: total(self.forward_images) / max(1.0, total(self.forward_batches)))

    def text(self) -> bytes:
        return generate_latest(self._registry)


def total(counter: Counter) -> float:
    """Return a counter's sum over all its labels."""
    return sum(sample.value for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total"))
