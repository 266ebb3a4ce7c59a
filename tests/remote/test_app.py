"""The server's routes: their answers, and their errors for refused requests."""

from __future__ import annotations

import logging

import pytest
import torch
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from petlbench.access.endpoint import Output, restrict
from petlbench.errors import ConfigError
from petlbench.remote.server.app import create_app
from petlbench.remote.server.service import Service
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import TextsMessage, pack, unpack
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near
from tests.remote.bodies import CPU, DIGEST, TEXTS, Open, assert_refused, contexts_body, counter, images, scores_body


def test_the_model_is_described_without_its_weights(opened: Open) -> None:
    told = opened().get("/v1/model").json()
    assert told["sha256"] == tiny_backbone().checksum()
    facts = told["facts"]
    assert (facts["name"], facts["input_size"], facts["output"], facts["has_text"]) == ("tiny", 16, "logits", True)
    assert facts["limits"]["max_images"] == 256


@pytest.mark.parametrize("output", Output)
def test_an_answer_holds_what_was_asked_for_and_no_more(output: Output, opened: Open) -> None:
    client = opened()
    ask = {kind: unpack(client.post("/v1/scores", content=scores_body(output=kind.value, k=2)).content)[0] for kind in Output}
    expected = restrict(ask[Output.LOGITS]["logits"], output, 2)
    assert ask[output].keys() == expected.keys()
    for name, tensor in expected.items():
        assert_near(ask[output][name], tensor)


def test_a_server_gives_no_more_than_it_was_told_to(opened: Open) -> None:
    client = opened(output="top_k", top_k=1)
    assert client.get("/v1/model").json()["facts"]["output"] == "top_k"
    for output in ("logits", "probabilities"):
        assert_refused(client.post("/v1/scores", content=scores_body(output=output)), 403, "output_not_offered", "top_k")
    answer, _ = unpack(client.post("/v1/scores", content=scores_body(output="top_k", k=3)).content)
    assert answer["classes"].shape == (2, 1)  # requesting all of them does not bypass the limit


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


@pytest.mark.parametrize("change", ["text", "scale", "top_k"])
def test_another_text_tower_scale_or_number_of_classes_is_another_model(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def etag(k: int = 5) -> str:
        service = Service(backbone, ServeConfig(output="top_k", top_k=k), CPU)
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


def test_metrics_are_text_that_prometheus_reads_and_each_server_has_its_own(opened: Open) -> None:
    client, other = opened(), opened()
    for count in (1, 2):
        client.post("/v1/features", content=pack({"images": images(count)}))
    reply = client.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    read = {metric.name: metric for metric in text_string_to_metric_families(reply.text)}
    assert (read["petlbench_images"].type, read["petlbench_images"].samples[0].value) == ("counter", 3)
    assert (read["petlbench_forward_batch_images"].type, read["petlbench_forward_batch_images"].samples[0].value) == ("gauge", 1.5)
    assert counter(other, "images") == 0


def test_uploaded_images_answer_as_sent_ones(opened: Open) -> None:
    client = opened()
    digests = [unpack(client.post("/v1/images", content=pack({"images": part})).content)[1]["digest"] for part in images(4).split(2)]
    stored = unpack(client.post("/v1/contexts", content=contexts_body(stored=" ".join(digests))).content)[0]["logits"]
    sent = unpack(client.post("/v1/contexts", content=contexts_body(some=images(4))).content)[0]["logits"]
    assert stored.shape == (2, 4, 3)
    assert_near(stored, sent)


def test_a_fault_of_the_server_is_a_number_to_the_client_and_a_traceback_in_the_log(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = opened()
    monkeypatch.setattr("petlbench.remote.server.service.restrict", lambda *_: 1 // 0)
    with caplog.at_level(logging.ERROR):
        reply = client.post("/v1/scores", content=scores_body())
    assert_refused(reply, 500, "internal")
    number = reply.json()["error"]["message"].rpartition(" ")[2]
    assert "ZeroDivisionError" not in reply.text
    assert number in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_query_to_a_server_that_ends_is_told_so() -> None:
    config = ServeConfig(batch_delay_ms=0)
    service = Service(tiny_backbone(), config, CPU)
    with TestClient(create_app(service, config, None), "http://localhost") as client:
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
