"""Send patches of pixels over HTTP: same answers as in process, limits, and a clear error if the model takes no patches."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
import torch
from torch import Tensor

from petlbench.access.handle import grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.errors import AccessError, EndpointError
from petlbench.remote.client import RemoteBackbone
from petlbench.remote.server.metrics import Metrics, total
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.server.worker import Job, Worker, companions
from petlbench.remote.wire import PROTOCOL, pack
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near
from tests.remote.bodies import DIGEST, Open, assert_refused
from tests.remote.processes import serving
from tests.remote.scripted import CPU, NAMES, QUICK, TEXTS, images


def patches(images: int = 2, count: int = 3, side: int = 8) -> Tensor:
    return torch.randn(images, count, 3, side, side, generator=torch.Generator().manual_seed(5))


def body(beside: Tensor, **words: object) -> bytes:
    return pack({"images": images(2), "patches": beside}, **{"texts": DIGEST, "output": "logits", "k": 1, **words})


@pytest.fixture(scope="module")
def local() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def remote(local: Backbone) -> Iterator[RemoteBackbone]:
    with (
        serving(local, ServeConfig(port=0, batch_images=1, batch_delay_ms=0, max_patches=4)) as (url, _),
        RemoteBackbone(url, QUICK) as remote,
    ):
        yield remote


@pytest.mark.parametrize(("rung", "verb"), [(Access.SCORES, "scores"), (Access.FEATURES, "features")])
def test_answers_and_counts_are_those_in_process(rung: Access, verb: str, local: Backbone, remote: RemoteBackbone) -> None:
    found = []
    for backbone in (local, remote):
        meter = Meter()
        with grant(rung, backbone.endpoint(CPU), NAMES, TEXTS, meter, QueryConfig(batch=16)) as model:
            found.append((getattr(model, verb)(images(40), patches=patches(40)), meter.counts, model.patch_size, model.token_width))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_a_client_keeps_to_the_number_that_the_server_names(remote: RemoteBackbone) -> None:
    meter = Meter()
    with (
        grant(Access.SCORES, remote.endpoint(CPU), NAMES, TEXTS, meter, QueryConfig()) as model,
        pytest.raises(AccessError, match="takes at most 4 patches per image, got 5"),
    ):
        model.scores(images(2), patches=patches(2, 5))
    assert meter.counts["train"]["calls"] == 0


def test_calls_are_as_large_as_a_body_allows(local: Backbone) -> None:
    with serving(local, ServeConfig(port=0, batch_delay_ms=0, max_body_mb=1)) as (url, _):
        meter = Meter()
        with grant(Access.SCORES, RemoteBackbone(url, QUICK).endpoint(CPU), NAMES, TEXTS, meter, QueryConfig()) as model:
            model.scores(images(40), patches=patches(40, 40))  # 33 KiB each, 768 KiB a call: 23
    assert meter.counts["train"]["calls"] == 2


@pytest.mark.parametrize("path", ["/v1/scores", "/v1/features"])
@pytest.mark.parametrize(
    "beside",
    [patches(1), patches(side=4), patches()[0], patches().half(), patches()[:, :, :2]],
    ids=lambda beside: str(tuple(beside.shape)),
)
def test_patches_that_fit_no_image_are_refused(path: str, beside: Tensor, opened: Open) -> None:
    assert_refused(opened().post(path, content=body(beside)), 400, "bad_patches", "float32 of shape (2, K, 3, 8, 8)")


def test_more_patches_than_allowed_are_refused(opened: Open) -> None:
    assert_refused(opened(max_patches=2).post("/v1/scores", content=body(patches())), 413, "too_many_patches", "at most 2", "got 3")


def test_no_patch_at_all_is_the_plain_image(opened: Open) -> None:
    client = opened()
    plain = client.post("/v1/scores", content=pack({"images": images(2)}, texts=DIGEST, output="logits", k=1))
    assert client.post("/v1/scores", content=body(patches(count=0))).content == plain.content


def test_a_model_that_takes_no_patches_says_so(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.backbones.backbone.patch_size", lambda vit: None)
    client = opened()
    assert client.get("/v1/model").json()["facts"]["patch_size"] is None
    assert_refused(client.post("/v1/scores", content=body(patches())), 400, "no_patches", "tiny takes no extra patches")


def test_a_server_from_before_there_were_patches_is_told_by_its_protocol() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"protocol": 1, "name": "tiny", "input_size": 16})

    message = f"speaks protocol version 1, this petlbench speaks version {PROTOCOL}; install the same petlbench version on both ends"
    with pytest.raises(EndpointError, match=message):
        RemoteBackbone("http://server", QUICK, httpx.MockTransport(answer))


def test_only_questions_with_as_many_patches_share_a_forward_pass() -> None:
    counts = (None, 3, None, 2, 3)
    waiting = [Job("a", images(1), lambda rows: rows, None if count is None else patches(1, count)) for count in counts]
    assert companions(waiting, 8)[0] == [waiting[0], waiting[2]]
    assert companions(waiting[1:], 8)[0] == [waiting[1], waiting[4]]


def test_questions_that_share_a_forward_pass_get_the_rows_of_their_own_patches() -> None:
    gate, metrics = threading.Event(), Metrics()
    worker = Worker({"a": lambda images, beside: images.flatten(1).sum(dim=1) + beside.flatten(1).sum(dim=1)}, 8, 0.0, metrics)
    try:
        worker.compute(gate.wait)
        asked = [(images(count), factor * patches(count)) for count, factor in ((1, 1.0), (2, 2.0))]
        futures = [worker.through("a", part, lambda rows: rows.clone(), beside) for part, beside in asked]
        gate.set()
        for (part, beside), future in zip(asked, futures, strict=True):
            assert_near(future.result(10), part.flatten(1).sum(dim=1) + beside.flatten(1).sum(dim=1))
    finally:
        gate.set()
        worker.close()
    assert (total(metrics.forward_batches), total(metrics.forward_images)) == (1, 3)
