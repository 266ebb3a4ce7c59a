"""The routes: what they answer, what they refuse and how they say so."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from petlbench.endpoint import Output, restrict
from petlbench.errors import ConfigError
from petlbench.serve.app import _Door, create_app
from petlbench.serve.refusal import Refusal
from petlbench.serve.service import Service
from petlbench.serve.settings import ServeConfig
from petlbench.testing.mocks import tiny_backbone
from petlbench.wire import TextsMessage, pack, unpack
from tests.serve.processes import serving

CPU = torch.device("cpu")
TEXTS = TextsMessage(captions=(("a cat.",), ("a dog.",), ("a newt.",)), context="a")
DIGEST = TEXTS.texts().digest
Open = Callable[..., TestClient]


@pytest.fixture
def opened() -> Iterator[Open]:
    """A server of a small random model, which knows TEXTS."""
    with ExitStack() as stack:

        def open_(token: str | None = None, with_text: bool = True, **settings: Any) -> TestClient:
            config = ServeConfig(**{"batch_delay_ms": 0, "threads": 1, **settings})
            service = Service(tiny_backbone(with_text=with_text), config, CPU)
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            client = stack.enter_context(TestClient(create_app(service, config, token), headers=headers, raise_server_exceptions=False))
            if with_text:
                assert client.post("/v1/texts", content=TEXTS.model_dump_json()).status_code == 200
            return client

        yield open_


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def scores_body(some: Tensor | None = None, **words: object) -> bytes:
    return pack({"images": images() if some is None else some}, **{"texts": DIGEST, "output": "logits", "k": 1, **words})


def contexts_body(count: int = 2, some: Tensor | None = None, **words: object) -> bytes:
    arrays = {"contexts": torch.ones(count, 1, 4)} | ({} if some is None else {"images": some})
    return pack(arrays, **{"texts": DIGEST, "output": "logits", "k": 1, **words})


def assert_refused(reply: Any, status: int, code: str, *expected: str) -> None:
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.json().keys() == {"error"} and reply.json()["error"].keys() == {"code", "message"}
    for text in expected:
        assert text in reply.json()["error"]["message"]
    assert "Traceback" not in reply.text and ".py" not in reply.text


def counter(client: TestClient, name: str) -> float:
    lines = [line.split() for line in client.get("/metrics").text.splitlines()]
    return sum(float(line[1]) for line in lines if line[0].partition("{")[0] == f"petlbench_{name}_total")


def test_the_model_is_described_without_its_weights(opened: Open) -> None:
    told = opened().get("/v1/model").json()
    assert told["sha256"] == tiny_backbone().checksum()
    assert (told["name"], told["input_size"], told["output"], told["has_text"], told["max_images"]) == ("tiny", 16, "logits", True, 256)


@pytest.mark.parametrize("output", Output)
def test_an_answer_holds_what_was_asked_for_and_no_more(output: Output, opened: Open) -> None:
    client = opened()
    ask = {kind: unpack(client.post("/v1/scores", content=scores_body(output=kind.label, k=2)).content)[0] for kind in Output}
    expected = restrict(ask[Output.LOGITS]["logits"], output, 2)
    assert ask[output].keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ask[output][name], tensor)


def test_a_server_gives_no_more_than_it_was_told_to(opened: Open) -> None:
    client = opened(output="top_k", top_k=1)
    assert client.get("/v1/model").json()["output"] == "top_k"
    for output in ("logits", "probabilities"):
        assert_refused(client.post("/v1/scores", content=scores_body(output=output)), 403, "output_not_offered", "top_k")
    answer, _ = unpack(client.post("/v1/scores", content=scores_body(output="top_k", k=3)).content)
    assert answer["classes"].shape == (2, 1)  # asking for all of them does not get round it


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/scores", b"", "bad_body"),
        ("/v1/scores", b"\xff" * 99, "bad_body"),
        ("/v1/scores", scores_body()[:-4], "bad_body"),
        ("/v1/scores", pack({"images": images()}), "bad_message"),
        ("/v1/scores", scores_body(texts="../../etc/passwd"), "bad_message"),
        ("/v1/scores", scores_body(output="weights"), "bad_message"),
        ("/v1/scores", scores_body(k=0), "bad_message"),
        ("/v1/scores", scores_body(images().half()), "bad_images"),
        ("/v1/scores", scores_body(images()[..., :8]), "bad_images"),
        ("/v1/scores", scores_body(images()[0]), "bad_images"),
        ("/v1/scores", scores_body(images(0)), "bad_images"),
        ("/v1/scores", pack({"pictures": images()}, texts=DIGEST, output="logits", k=1), "bad_images"),
        ("/v1/features", pack({"images": torch.zeros(2, 3, 8, 8)}), "bad_images"),
        ("/v1/images", pack({}), "bad_images"),
        ("/v1/contexts", scores_body(), "bad_contexts"),
        ("/v1/contexts", pack({"contexts": torch.ones(2, 3, 4), "images": images()}, texts=DIGEST, output="logits", k=1), "bad_contexts"),
        ("/v1/contexts", contexts_body(), "bad_images"),
        ("/v1/contexts", contexts_body(stored="latest"), "bad_message"),
        ("/v1/contexts", contexts_body(some=images(), normalised=False), "not_offered"),
        ("/v1/texts", b"{}", "bad_message"),
        ("/v1/texts", b"[", "bad_message"),
        ("/v1/texts", b'{"captions": [[]]}', "bad_message"),
        ("/v1/texts", b'{"captions": [["' + b"a" * 1001 + b'"]]}', "bad_message"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_json(path: str, body: bytes, code: str, opened: Open) -> None:
    assert_refused(opened().post(path, content=body), 400, code)


def test_limits_on_size_are_kept_and_named(opened: Open) -> None:
    client = opened(max_images=3, max_contexts=2, max_texts=3, max_body_mb=1)
    assert_refused(client.post("/v1/scores", content=scores_body(images(4))), 413, "too_many_images", "at most 3 images", "max_images")
    assert_refused(client.post("/v1/contexts", content=contexts_body(3, images())), 413, "too_many_contexts", "at most 2 contexts")
    four = TextsMessage(captions=(("a", "b"), ("c", "d")))
    assert_refused(client.post("/v1/texts", content=four.model_dump_json()), 413, "too_many_texts", "at most 3 captions")
    assert_refused(client.post("/v1/scores", content=bytes(2**20 + 1)), 413, "body_too_large", "at most 1 MiB")


def test_what_a_question_asks_for_is_limited_before_anything_is_computed(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened(max_prompts=6, keep_images=5)
    digest = unpack(client.post("/v1/images", content=pack({"images": images(2)})).content)[1]["digest"]
    monkeypatch.setattr("torch.cat", lambda *_: 1 // 0)
    assert_refused(client.post("/v1/contexts", content=contexts_body(3, images())), 413, "too_many_prompts", "at most 6", "got 9")
    many = contexts_body(1, stored=" ".join([digest] * 3))
    assert_refused(client.post("/v1/contexts", content=many), 413, "too_many_images", "at most 5 uploaded images", "6 named")
    monkeypatch.setattr("petlbench.serve.service.MAX_SCORES", 11)
    many = contexts_body(1, stored=" ".join([digest] * 2))
    assert_refused(client.post("/v1/contexts", content=many), 413, "too_many_scores", "at most 11 scores", "12 asked for")


def test_one_context_is_answered_with_any_number_of_classes(opened: Open) -> None:
    assert opened(max_prompts=1).post("/v1/contexts", content=contexts_body(1, images())).status_code == 200


@pytest.mark.parametrize("change", ["text", "scale", "top_k"])
def test_another_text_tower_scale_or_number_of_classes_is_another_model(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def etag(k: int = 5) -> str:
        service = Service(backbone, ServeConfig(top_k=k), CPU)
        service.worker.close()
        return service.model.etag

    backbone = tiny_backbone()
    before = etag()
    assert etag() == before
    if change == "text":
        monkeypatch.setattr("petlbench.testing.mocks._HashedText.embed", lambda self, captions: torch.ones(len(captions), 8))
    if change == "scale":
        backbone.logit_scale = 11.0
    assert etag(6 if change == "top_k" else 5) != before


def test_a_body_without_a_declared_length_is_limited_too(opened: Open) -> None:
    chunks = (bytes(2**19) for _ in range(8))
    assert_refused(opened(max_body_mb=1).post("/v1/scores", content=chunks), 413, "body_too_large")


def test_a_body_that_is_announced_too_large_is_not_read(opened: Open) -> None:
    reply = opened(max_body_mb=1).post("/v1/scores", content=scores_body(), headers={"Content-Length": str(2**20 + 1)})
    assert_refused(reply, 413, "body_too_large")


def test_an_answer_about_too_many_contexts_is_refused(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.serve.service.MAX_SCORES", 2 * 2 * 3 - 1)
    assert_refused(opened().post("/v1/contexts", content=contexts_body(2, images())), 413, "too_many_scores", "at most 11 scores")


def test_body_size_bounds_the_images_that_are_offered(opened: Open) -> None:
    assert opened(max_body_mb=1).get("/v1/model").json()["max_images"] == 2**20 * 3 // 4 // (4 * 3 * 16 * 16)


def test_what_was_forgotten_is_said_with_its_code(opened: Open) -> None:
    client = opened(keep_texts=1)
    assert_refused(client.post("/v1/contexts", content=contexts_body(stored="0" * 64)), 404, "unknown_images")
    client.post("/v1/texts", content=TextsMessage(captions=(("other",),)).model_dump_json())
    assert_refused(client.post("/v1/scores", content=scores_body()), 404, "unknown_texts", DIGEST[:12])


def test_texts_without_a_context_have_none_to_replace(opened: Open) -> None:
    client, plain = opened(), TextsMessage(captions=TEXTS.captions)
    assert unpack(client.post("/v1/texts", content=plain.model_dump_json()).content)[0] == {}
    assert_refused(client.post("/v1/contexts", content=contexts_body(texts=plain.texts().digest)), 400, "no_context")


def test_a_model_without_text_gives_features_only(opened: Open) -> None:
    client = opened(with_text=False)
    assert unpack(client.post("/v1/features", content=pack({"images": images()})).content)[0]["features"].shape == (2, 32)
    assert_refused(client.post("/v1/texts", content=TEXTS.model_dump_json()), 400, "no_text_tower")


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic secret", "secret", "Bearer secrets", "Bearer sécret"])
def test_without_its_token_nothing_is_told_but_that_the_server_is_well(authorization: str | None, opened: Open) -> None:
    client = opened(token="secret")
    del client.headers["Authorization"]
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    assert client.get("/health", headers=headers).json() == {"status": "ok"}
    for path in ("/metrics", "/v1/model"):
        assert_refused(client.get(path, headers=headers), 401, "unauthorised", "PETLBENCH_TOKEN")
    assert_refused(client.post("/v1/scores", content=scores_body(), headers=headers), 401, "unauthorised")


def test_with_its_token_the_server_answers(opened: Open) -> None:
    assert opened(token="secret").post("/v1/scores", content=scores_body()).status_code == 200


def test_a_query_for_another_model_is_refused_before_it_is_read(opened: Open) -> None:
    client = opened()
    etag = client.get("/v1/model").headers["etag"]
    assert client.post("/v1/scores", content=scores_body(), headers={"If-Match": etag}).status_code == 200
    assert_refused(client.post("/v1/scores", content=b"", headers={"If-Match": '"other"'}), 412, "other_model", "tiny")


def test_no_more_requests_than_allowed_are_let_in() -> None:
    door = _Door(2, 100)
    with door.place():
        with door.place(), pytest.raises(Refusal) as refused, door.place():
            pass
        with door.place():
            pass
    assert (refused.value.status, refused.value.code, refused.value.headers) == (429, "busy", {"Retry-After": "1"})


def test_no_more_bytes_than_there_is_room_for_are_let_in() -> None:
    door = _Door(9, 100)
    with door.place() as first:
        first.hold(60)
        first.hold(50)  # of the same body
        with door.place() as second:
            second.hold(40)
            with pytest.raises(Refusal) as refused, door.place() as third:
                third.hold(1)
    assert refused.value.status == 429
    with door.place() as place:
        place.hold(100)


@contextmanager
def stalled(url: str) -> Iterator[socket.socket]:
    """A query whose body is announced and does not come."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=10) as line:
        line.sendall(b"POST /v1/features HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 100")  # it is let in
        yield line


def test_a_request_too_many_is_told_to_come_back() -> None:
    with serving(tiny_backbone(), ServeConfig(port=0, batch_delay_ms=0, max_waiting=1)) as (url, _), stalled(url):
        reply = httpx.post(f"{url}/v1/features", content=pack({"images": images()}))
        assert_refused(reply, 429, "busy")
        assert reply.headers["retry-after"] == "1"


def test_a_body_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.serve.app.BODY_SECONDS", 0.05)
    with serving(tiny_backbone()) as (url, _), stalled(url) as line:
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_documents_of_many_arrays_are_refused_unread(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened()
    monkeypatch.setattr("petlbench.wire.load", lambda _: 1 // 0)
    many = pack({f"array{number}": torch.zeros(1) for number in range(17)})
    assert_refused(client.post("/v1/features", content=many), 400, "bad_body", "16 arrays")
    assert_refused(client.post("/v1/features", content=(2**20 + 1).to_bytes(8, "little") + bytes(2**21)), 400, "bad_body", "1,024 KiB")


def test_captions_that_are_too_many_by_far_are_refused_unread(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened(max_texts=3)
    monkeypatch.setattr("petlbench.serve.service._validated", lambda *_: 1 // 0)
    for body in (b'{"captions": [' + b"[]," * 2000, b" " * 80_000):
        assert_refused(client.post("/v1/texts", content=body), 413, "too_many_texts", "at most 3 captions")


def test_a_refusal_does_not_repeat_all_that_was_sent(opened: Open) -> None:
    reply = opened().post("/v1/features", content=pack({"x" * 9000: torch.zeros(1)}))
    assert_refused(reply, 400, "bad_images")
    assert len(reply.content) < 400


def test_places_are_free_again_after_refusals(opened: Open) -> None:
    client = opened(max_waiting=1)
    for _ in range(3):
        assert client.post("/v1/scores", content=b"").status_code == 400
    assert client.post("/v1/scores", content=scores_body()).status_code == 200


def test_a_query_that_is_sent_again_is_counted_once(opened: Open) -> None:
    client = opened()
    body, headers = scores_body(), {"Idempotency-Key": "one"}
    replies = [client.post("/v1/scores", content=body, headers=headers) for _ in range(3)]
    assert len({reply.content for reply in replies}) == 1
    assert [reply.headers["idempotent-replay"] for reply in replies] == ["false", "true", "true"]
    assert (counter(client, "images"), counter(client, "forward_batches"), counter(client, "replays")) == (2, 1, 2)
    client.post("/v1/scores", content=scores_body(), headers={"Idempotency-Key": "two"})
    assert counter(client, "images") == 4


def test_what_was_asked_is_counted_by_kind(opened: Open) -> None:
    client = opened()
    digest = unpack(client.post("/v1/images", content=pack({"images": images(3)})).content)[1]["digest"]
    client.post("/v1/contexts", content=contexts_body(5, stored=digest))
    client.post("/v1/contexts", content=contexts_body(2, images(1)))
    client.post("/v1/features", content=pack({"images": images(2)}))
    client.post("/nowhere")
    assert {name: counter(client, name) for name in ("images", "contexts", "texts")} == {"images": 6, "contexts": 7, "texts": 3}
    assert 'petlbench_requests_total{route="/v1/contexts",status="200"} 2' in client.get("/metrics").text
    assert 'petlbench_requests_total{route="other",status="404"} 1' in client.get("/metrics").text


def test_uploaded_images_answer_as_sent_ones(opened: Open) -> None:
    client = opened()
    digests = [unpack(client.post("/v1/images", content=pack({"images": part})).content)[1]["digest"] for part in images(4).split(2)]
    stored = unpack(client.post("/v1/contexts", content=contexts_body(stored=" ".join(digests))).content)[0]["logits"]
    sent = unpack(client.post("/v1/contexts", content=contexts_body(some=images(4))).content)[0]["logits"]
    assert stored.shape == (2, 4, 3)
    torch.testing.assert_close(stored, sent)


def test_a_fault_of_the_server_is_a_number_to_the_client_and_a_traceback_in_the_log(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = opened()
    monkeypatch.setattr("petlbench.serve.service.restrict", lambda *_: 1 // 0)
    with caplog.at_level(logging.ERROR):
        reply = client.post("/v1/scores", content=scores_body())
    assert_refused(reply, 500, "internal")
    number = reply.json()["error"]["message"].rpartition(" ")[2]
    assert "ZeroDivisionError" not in reply.text
    assert number in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_query_to_a_server_that_ends_is_told_so() -> None:
    config = ServeConfig(batch_delay_ms=0)
    service = Service(tiny_backbone(), config, CPU)
    with TestClient(create_app(service, config, None)) as client:
        service.worker.close()
        assert_refused(client.post("/v1/features", content=pack({"images": images()})), 503, "ending")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("GET", "/docs", 404), ("GET", "/v1/scores", 405)])
def test_other_addresses_are_refused_in_json(method: str, path: str, status: int, opened: Open) -> None:
    reply = opened().request(method, path)
    assert reply.status_code == status and reply.json()["error"]["message"]


def test_texts_that_do_not_share_the_context_are_refused_with_the_reason(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("the prompt 'b' does not begin with the tokens of 'a'")

    client = opened()
    monkeypatch.setattr("petlbench.testing.mocks._HashedText.in_context", refuse)
    other = TextsMessage(captions=(("a",), ("b",)), context="a")
    assert_refused(client.post("/v1/texts", content=other.model_dump_json()), 400, "refused", "the prompt 'b'")
