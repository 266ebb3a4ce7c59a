"""The client of a served model: the same answers as in process, one payment per query, and patience with limits."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from petlbench.access import Access, Meter, QueryModel, grant
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.connection import Connection, RetryPolicy, retry_after
from petlbench.backbones.remote import RemoteBackbone
from petlbench.endpoint import ClassTexts, Endpoint, Output, digest_of
from petlbench.errors import AccessError, ConfigError, EndpointError
from petlbench.serve.settings import ServeConfig
from petlbench.settings import Answers
from petlbench.testing.mocks import tiny_backbone
from petlbench.wire import PROTOCOL, ServedModel, pack
from tests.object_graph import reachable
from tests.serve.processes import serving

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "newt")
TEXTS = ClassTexts(tuple((f"a photo of a {name}.",) for name in NAMES), "a photo of a")
QUICK = RetryPolicy(patience_seconds=5.0, first_contact_seconds=0.05, backoff_seconds=0.001, longest_backoff_seconds=0.01)
SERVED = ServedModel(
    name="tiny",
    sha256="0" * 64,
    source="random",
    parameters=9,
    input_size=16,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    feature_width=32,
    output="logits",
    has_text=True,
    precision="fp32",
    max_images=4,
    max_contexts=4,
    max_prompts=100,
    max_body=2**20,
    top_k=5,
    text_sha256="0" * 64,
)
Handler = Callable[[httpx.Request], httpx.Response]


def images(count: int) -> Tensor:
    return torch.randn(count, 16, 16, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)  # as they lie in a run


@contextmanager
def granted(endpoint: Endpoint, rung: Access, answers: Answers | None = None) -> Iterator[tuple[QueryModel, Meter]]:
    meter = Meter()
    with grant(rung, endpoint, NAMES, TEXTS, meter, answers or Answers(batch=16)) as model:
        yield model, meter


@pytest.fixture(scope="module")
def local() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def remote(local: Backbone) -> Iterator[RemoteBackbone]:
    config = ServeConfig(port=0, batch_images=1, batch_delay_ms=0, max_images=16, max_contexts=3)
    with serving(local, config) as (url, _):
        yield RemoteBackbone(url, QUICK)


def test_a_remote_backbone_is_known_by_what_the_server_says(local: Backbone, remote: RemoteBackbone) -> None:
    assert remote.checksum() == local.checksum()
    assert (remote.name, remote.parameter_count, remote.feature_width) == (
        f"remote:tiny@{local.checksum()[:8]}",
        local.parameter_count,
        local.feature_width,
    )
    assert (remote.card.input_size, remote.card.mean, remote.card.std) == (local.card.input_size, local.card.mean, local.card.std)
    assert remote.card.source.startswith("tiny at http://127.0.0.1:")


@pytest.mark.parametrize("output", Output)
def test_scores_are_those_in_process_in_the_order_asked(output: Output, local: Backbone, remote: RemoteBackbone) -> None:
    answers = Answers(output=output.label, top_k=2, batch=16)  # type: ignore[arg-type]
    found = []
    for backbone in (local, remote):
        with granted(backbone.endpoint(CPU), Access.SCORES, answers) as (model, meter):
            found.append((model.scores(images(100)), meter.counts))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_features_are_those_in_process(local: Backbone, remote: RemoteBackbone) -> None:
    found = []
    for backbone in (local, remote):
        with granted(backbone.endpoint(CPU), Access.FEATURES) as (model, _):
            found.append(model.features(images(40)))
    assert torch.equal(*found)


@pytest.mark.parametrize("are_stored", [False, True])
def test_scores_in_contexts_are_those_in_process_with_any_number_of_images(
    are_stored: bool, local: Backbone, remote: RemoteBackbone
) -> None:
    found = []
    for backbone in (local, remote):
        with granted(backbone.endpoint(CPU), Access.CONTEXT) as (model, _):
            contexts = model.context + torch.arange(5.0).view(5, 1, 1)
            asked = model.upload(images(40)) if are_stored else images(40)
            found.append(model.context_scores(asked, contexts))
    assert found[1].shape == (5, 40, 3)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)  # 40 images in parts of 16 there, at once here


def test_contexts_go_in_as_many_calls_as_the_server_wants(local: Backbone) -> None:
    with serving(local, ServeConfig(port=0, batch_delay_ms=0, max_prompts=7)) as (url, _):
        for backbone, calls in ((local, 1), (RemoteBackbone(url, QUICK), 3)):  # two contexts with three classes, and one
            with granted(backbone.endpoint(CPU), Access.CONTEXT) as (model, meter):
                stored = model.upload(images(2))
                before = meter.counts["train"]["calls"]
                assert model.context_scores(stored, model.context + torch.zeros(5, 1, 1)).shape == (5, 2, 3)
                assert meter.counts["train"]["calls"] - before == calls


def test_contexts_are_as_many_as_a_body_holds() -> None:
    wide = torch.zeros(10, 1024)  # 40 KiB, of which a quarter of a body of 1 MiB holds three, with room for the header

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=pack({"context": wide}))

    endpoint = backbone(answer).endpoint(CPU)
    assert endpoint.facts.max_contexts == 4
    endpoint.describe(TEXTS)
    assert endpoint.facts.max_contexts == 3


def test_images_that_look_alike_are_asked_about_as_often_as_they_come(local: Backbone, remote: RemoteBackbone) -> None:
    repeated = images(16).repeat(2, 1, 1, 1)  # two equal parts of 16
    for are_stored in (False, True):
        with granted(remote.endpoint(CPU), Access.CONTEXT) as (model, _):
            asked = model.upload(repeated) if are_stored else repeated
            assert model.context_scores(asked, model.context[None]).shape == (1, 32, 3)


def test_only_uploaded_images_are_kept_to_be_sent_again(remote: RemoteBackbone) -> None:
    endpoint = remote.endpoint(CPU)
    with granted(endpoint, Access.CONTEXT) as (model, _):
        model.context_scores(images(40), model.context[None])
        assert not [found for found in reachable(endpoint) if isinstance(found, Tensor) and found.ndim == 4]
        model.upload(images(40))
        kept = [found for found in reachable(endpoint) if isinstance(found, Tensor) and found.ndim == 4]
    assert sum(len(part) for part in kept) == 40


def test_nothing_passes_through_a_model_of_this_process(remote: RemoteBackbone) -> None:
    endpoint = remote.endpoint(CPU)
    with granted(endpoint, Access.SCORES) as (model, _):
        model.scores(images(2))
    assert endpoint.images_forwarded == 0


@pytest.mark.parametrize("rung", [Access.SCORES, Access.CONTEXT, Access.FEATURES])
def test_the_handle_leads_to_no_connection(rung: Access, remote: RemoteBackbone) -> None:
    with granted(remote.endpoint(CPU), rung) as (model, _):
        verb = {Access.SCORES: "scores", Access.CONTEXT: "upload", Access.FEATURES: "features"}[rung]
        getattr(model, verb)(images(2))
        assert not [found for found in reachable(model) if isinstance(found, (Tensor, Connection, RemoteBackbone, httpx.Client))]


@pytest.mark.parametrize("caption", ["a" * 1001, "a \ud800."])
def test_a_caption_that_cannot_be_sent_is_one_line(caption: str, remote: RemoteBackbone) -> None:
    texts = ClassTexts((("a cat.",), (caption,)))
    with (
        pytest.raises(ConfigError, match=r"at most 1,000 characters") as refused,
        grant(Access.SCORES, remote.endpoint(CPU), ("a", "b"), texts, Meter(), Answers()),
    ):
        pass
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_what_no_api_gives_is_refused(remote: RemoteBackbone) -> None:
    endpoint = remote.endpoint(CPU)
    with granted(endpoint, Access.CONTEXT) as (model, _), pytest.raises(AccessError, match="normalised embeddings only"):
        model.context_scores(images(2), model.context[None], normalised=False)
    with pytest.raises(AccessError, match="gives no gradients"):
        endpoint.graded_scores(images(2), TEXTS)


def test_another_number_format_than_the_servers_is_refused(remote: RemoteBackbone) -> None:
    with pytest.raises(ConfigError, match=r"computes in fp32, this run would be recorded as bf16; set precision=fp32"):
        remote.endpoint(CPU, "bf16")


def test_what_a_server_has_forgotten_is_sent_again(local: Backbone) -> None:
    with serving(local, ServeConfig(port=0, keep_texts=1, keep_images=1)) as (url, _):
        endpoint = RemoteBackbone(url, QUICK).endpoint(CPU)
        with granted(endpoint, Access.CONTEXT) as (model, meter):
            stored = model.upload(images(4))
            expected = model.context_scores(stored, model.context[None])
            before = json.dumps(meter.counts)
            endpoint.describe(ClassTexts((("something else",),)))
            endpoint.upload({digest_of(images(5)): images(5)})
            assert json.dumps(meter.counts) == before
            assert torch.equal(model.context_scores(stored, model.context[None]), expected)
            assert meter.counts["train"]["images"] == 4


def test_a_server_that_remembers_nothing_is_not_told_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/texts":
            return httpx.Response(200, content=pack({}))
        return httpx.Response(404, json={"error": {"code": "unknown_texts", "message": "what?"}})

    endpoint = backbone(forgetful).endpoint(CPU)
    with pytest.raises(EndpointError, match="tiny at http://server forgets at once what it is told"):
        endpoint.scores([images(1)], TEXTS, Output.LOGITS, 1)


def test_the_token_is_sent(local: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(local, token="secret") as (url, _):
        with pytest.raises(EndpointError, match=r"does not let this client in .* put its token into PETLBENCH_TOKEN"):
            RemoteBackbone(url, QUICK)
        monkeypatch.setenv("PETLBENCH_TOKEN", "secret")
        assert RemoteBackbone(url, QUICK).endpoint(CPU).features([images(1)])[0].shape == (1, 32)


@pytest.mark.parametrize("token", ["top\rsecret", "top secret", "topsécret", "top\nsecret"])
def test_what_is_no_token_is_refused_without_showing_it(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLBENCH_TOKEN", token)
    for read in (lambda: RemoteBackbone("http://server", QUICK), ServeConfig().token):
        with pytest.raises(ConfigError, match="PETLBENCH_TOKEN holds no token: expected printable ASCII") as refused:
            read()
        assert "secret" not in str(refused.value)


def test_spaces_around_a_token_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLBENCH_TOKEN", " secret\r\n")
    seen: list[str] = []

    def model(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json=SERVED.model_dump())

    RemoteBackbone("http://server", QUICK, httpx.MockTransport(model))
    assert seen == ["Bearer secret"] and ServeConfig().token() == "secret"


def test_what_cannot_be_sent_is_neither_repeated_nor_shown() -> None:
    script = Script(httpx.LocalProtocolError("Illegal header value b'Bearer topsecret'"))
    with pytest.raises(EndpointError) as refused:
        backbone(script).endpoint(CPU).features([images(1)])
    assert "secret" not in str(refused.value) and len(script.requests) == 1


def test_a_server_that_comes_back_with_another_model_ends_the_run() -> None:
    with serving(tiny_backbone()) as (url, service):
        endpoint = RemoteBackbone(url, QUICK).endpoint(CPU)
        service.model = service.model.model_copy(update={"sha256": "1" * 64})
        with pytest.raises(EndpointError, match="has another model now"):
            endpoint.features([images(1)])


def backbone(handler: Handler, policy: RetryPolicy = QUICK) -> RemoteBackbone:
    """A backbone behind a server that is a function of the requests after the first, which is answered."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=SERVED.model_dump()) if request.url.path == "/v1/model" else handler(request)

    return RemoteBackbone("http://server", policy, httpx.MockTransport(handle))


class Script:
    """Answers with one reply after the other, and takes down what came."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self._replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


GOOD = pack({"features": torch.ones(1, 32)})


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(200, content=GOOD[:-1]),
        httpx.Response(200, content=GOOD[:3]),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(429, json={"error": {"code": "busy", "message": "later"}}),
        httpx.Response(408),
        httpx.Response(500, content=b"oops"),
        httpx.Response(503),
    ],
    ids=lambda failure: type(failure).__name__ if isinstance(failure, Exception) else f"{failure.status_code}-{len(failure.content)}",
)
def test_a_query_is_repeated_with_its_key_until_it_is_answered(failure: httpx.Response | Exception) -> None:
    script = Script(failure, failure, httpx.Response(200, content=GOOD), httpx.Response(200, content=GOOD))
    endpoint = backbone(script).endpoint(CPU)
    for _ in range(2):
        assert torch.equal(endpoint.features([images(1)])[0], torch.ones(1, 32))
    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert len(set(keys[:3])) == 1 and keys[3] not in keys[:3]
    assert len({request.content for request in script.requests[:3]}) == 1
    assert {request.headers["if-match"] for request in script.requests} == {SERVED.etag}


@pytest.mark.parametrize("status", [400, 403, 404, 409, 412, 413, 302])
def test_a_refusal_is_not_repeated_and_says_why(status: int) -> None:
    script = Script(httpx.Response(status, json={"error": {"code": "some_code", "message": "this is why"}}))
    with pytest.raises(EndpointError, match="this is why"):
        backbone(script).endpoint(CPU).features([images(1)])
    assert len(script.requests) == 1


def test_after_its_patience_the_client_gives_up_in_one_sentence() -> None:
    policy = RetryPolicy(patience_seconds=0.05, backoff_seconds=0.001, longest_backoff_seconds=0.01)

    def dead(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with pytest.raises(
        EndpointError, match=r"^http://server: no answer to POST /v1/features in 0 s \(ConnectError: Connection refused\); when "
    ) as e:
        backbone(dead, policy).endpoint(CPU).features([images(1)])
    assert "\n" not in str(e.value) and "the same command runs this again" in str(e.value)


def test_a_query_of_a_step_that_is_refused_ends_the_others() -> None:
    attempts: list[str] = []

    def first_is_refused(request: httpx.Request) -> httpx.Response:
        attempts.append(request.headers["idempotency-key"])
        return httpx.Response(400 if b"[1,3" in request.content else 503, headers={"Retry-After": "2"})

    with pytest.raises(EndpointError, match="400"):
        backbone(first_is_refused).endpoint(CPU).features([images(1), images(2), images(3)])
    assert len(set(attempts)) == len(attempts)  # none was repeated


def test_the_first_failure_ends_the_other_questions_of_a_step() -> None:
    asked: list[bytes] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(400, json={"error": {"code": "bad", "message": "no"}})

    served = backbone(refuse, replace(QUICK, concurrency=1))
    with pytest.raises(EndpointError, match="no"):
        served.endpoint(CPU).features([images(1)] * 9)
    time.sleep(0.02)
    assert len(asked) == 1


def test_an_interrupted_step_does_not_wait_for_replies() -> None:
    begun, go = threading.Barrier(5), threading.Event()
    asked: list[bytes] = []

    def slow(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        begun.wait(10)
        go.wait(10)
        return httpx.Response(200, content=GOOD)

    def interrupt() -> None:
        begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    endpoint = backbone(slow).endpoint(CPU)
    with pytest.raises(KeyboardInterrupt):
        endpoint.features([images(1)] * 6)
    assert not go.is_set()  # the four that are under way have no reply yet
    assert all(
        thread.daemon for thread in threading.enumerate() if thread.name == "petlbench-question"
    )  # the interpreter ends without them
    go.set()
    for thread in threading.enumerate():
        if thread.name == "petlbench-question":
            thread.join(10)
    assert len(asked) == 4  # those that waited were not asked


def test_a_server_that_is_busy_is_waited_for_beyond_the_patience_with_failures() -> None:
    busy = httpx.Response(429)
    policy = RetryPolicy(patience_seconds=0.02, backoff_seconds=0.005, longest_backoff_seconds=0.005)
    script = Script(*[busy] * 20, httpx.Response(200, content=GOOD))
    assert len(backbone(script, policy).endpoint(CPU).features([images(1)])) == 1


@pytest.mark.parametrize(
    ("url", "is_bypassed"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.0.0.2:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://server", False),
    ],
)
def test_a_proxy_is_used_for_other_machines_only(url: str, is_bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Connection(url, None, QUICK)._client.trust_env is not is_bypassed


@pytest.mark.parametrize("scheme", ["socks5", "socks9"])
def test_a_proxy_that_cannot_be_used_is_one_line(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://proxy:1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigError, match=r"the proxy variables .* name a proxy that cannot be used") as refused:
        Connection("http://server", None, QUICK)
    assert "\n" not in str(refused.value)


def test_waits_grow_keep_to_their_limits_and_honour_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(*[httpx.Response(503)] * 6, httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, content=GOOD))
    policy = RetryPolicy(backoff_seconds=1.0, longest_backoff_seconds=8.0)
    served = backbone(script, policy)
    waits: list[float] = []
    monkeypatch.setattr(served._connection._is_abandoned, "wait", waits.append)
    served.endpoint(CPU).features([images(1)])
    for wait, whole in zip(waits[:6], (1, 2, 4, 8, 8, 8), strict=True):
        assert whole / 2 <= wait <= whole
    assert 7 + 4 <= waits[6] <= 7 + 8  # what was asked for, and not all clients at once


def test_a_server_that_asks_for_more_patience_than_there_is_ends_the_run_at_once() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "3600"}))
    with pytest.raises(EndpointError, match="asks to wait 3600 s"):
        backbone(script).endpoint(CPU).features([images(1)])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 12:00:30", None),
        ("-3", None),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str | None, seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert retry_after({} if text is None else {"retry-after": text}, now) == seconds


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (httpx.ConnectError("Connection refused"), "no answer to GET /v1/model .* is a model served there"),
        (httpx.Response(200, content=b"<html>"), "no answer to GET /v1/model"),
        (httpx.Response(200, json={"hello": 1}), "is no petlbench server: name: Field required"),
        (httpx.Response(200, json=[1]), "is no petlbench server"),
        (httpx.Response(404, json={"detail": "Not Found"}), "is no petlbench server"),
        (httpx.Response(301, headers={"Location": "http://elsewhere"}), "is no petlbench server"),
        (httpx.Response(200, json={**SERVED.model_dump(), "protocol": PROTOCOL + 1}), f"speaks version {PROTOCOL + 1} of the protocol"),
        (httpx.Response(403, json={"error": {"code": "x", "message": "no"}}), "does not let this client in"),
    ],
)
def test_an_address_where_no_model_is_served_is_one_sentence(reply: Any, expected: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)

    with pytest.raises(EndpointError, match=expected) as refused:
        RemoteBackbone("http://server", QUICK, httpx.MockTransport(answer))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://server", "http://", "server", "http://server:port", "http://me:secret@server"])
def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        RemoteBackbone(url, QUICK)
