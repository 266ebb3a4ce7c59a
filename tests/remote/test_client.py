"""The client of a served model: same answers as in process, every query counted once, and limited waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import torch
from torch import Tensor

from petlbench.access.endpoint import CallLimits, ClassTexts, Endpoint, Output, digest_of
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.config.settings import QueryConfig
from petlbench.errors import AccessError, ConfigError, EndpointError
from petlbench.remote.client import RemoteBackbone
from petlbench.remote.connection import Connection
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import pack
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near
from tests.object_graph import reachable_by_path
from tests.remote.processes import serving
from tests.remote.scripted import CPU, NAMES, QUICK, SERVED, TEXTS, Script, images, scripted


@contextmanager
def granted(endpoint: Endpoint, rung: Access, answers: QueryConfig | None = None) -> Iterator[tuple[QueryModel, Meter]]:
    meter = Meter()
    with grant(rung, endpoint, NAMES, TEXTS, meter, answers or QueryConfig(batch=16)) as model:
        yield model, meter


@pytest.fixture(scope="module")
def local() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def remote(local: Backbone) -> Iterator[RemoteBackbone]:
    config = ServeConfig(port=0, batch_images=1, batch_delay_ms=0, max_images=16, max_contexts=3)
    with serving(local, config) as (url, _), RemoteBackbone(url, QUICK) as remote:
        yield remote


def test_a_remote_backbone_is_known_by_what_the_server_says(local: Backbone, remote: RemoteBackbone) -> None:
    assert remote.checksum() == local.checksum()
    assert (remote.name, remote.parameter_count) == (f"remote:tiny@{local.checksum()[:8]}", local.parameter_count)
    assert remote.facts.source.startswith("tiny at http://127.0.0.1:")
    assert replace(remote.facts, name="tiny", source="random", limits=CallLimits()) == local.facts


@pytest.mark.parametrize("output", Output)
def test_scores_are_those_in_process_in_the_order_asked(output: Output, local: Backbone, remote: RemoteBackbone) -> None:
    answers = QueryConfig(output=output.value, top_k=2, batch=16)  # type: ignore[arg-type]
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
    assert_near(*found)  # 40 images in parts of 16 there, at once here


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

    endpoint = scripted(answer).endpoint(CPU)
    assert endpoint.facts.limits.max_contexts == 4
    endpoint.describe(TEXTS)
    assert endpoint.facts.limits.max_contexts == 3


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
        assert not [path for path, found in reachable_by_path(endpoint) if isinstance(found, Tensor) and found.ndim == 4]
        model.upload(images(40))
        kept = [found for _, found in reachable_by_path(endpoint) if isinstance(found, Tensor) and found.ndim == 4]
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
        assert not [
            path for path, found in reachable_by_path(model) if isinstance(found, (Tensor, Connection, RemoteBackbone, httpx.Client))
        ]


@pytest.mark.parametrize("caption", ["a" * 1001, "a \ud800."])
def test_a_caption_that_cannot_be_sent_is_one_line(caption: str, remote: RemoteBackbone) -> None:
    texts = ClassTexts((("a cat.",), (caption,)))
    with (
        pytest.raises(ConfigError, match=r"at most 1,000 characters") as refused,
        grant(Access.SCORES, remote.endpoint(CPU), ("a", "b"), texts, Meter(), QueryConfig()),
    ):
        pass
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_what_no_api_gives_is_refused(remote: RemoteBackbone) -> None:
    endpoint = remote.endpoint(CPU)
    with granted(endpoint, Access.CONTEXT) as (model, _), pytest.raises(AccessError, match="normalised embeddings only"):
        model.context_scores(images(2), model.context[None], normalised=False)
    with pytest.raises(AccessError, match="gives no gradients"):
        endpoint.forward_with_vjp(images(2), None, TEXTS)


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

    endpoint = scripted(forgetful).endpoint(CPU)
    with pytest.raises(EndpointError, match="tiny at http://server keeps forgetting texts or images"):
        endpoint.scores([images(1)], TEXTS, Output.LOGITS, 1)


def test_the_token_is_sent(local: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(local, token="secret") as (url, _):
        with pytest.raises(EndpointError, match=r"refuses this client .* put the token into PETLBENCH_TOKEN"):
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
        return httpx.Response(200, json=SERVED.model_dump(mode="json"))

    RemoteBackbone("http://server", QUICK, httpx.MockTransport(model))
    assert seen == ["Bearer secret"] and ServeConfig().token() == "secret"


def test_what_cannot_be_sent_is_neither_repeated_nor_shown() -> None:
    script = Script(httpx.LocalProtocolError("Illegal header value b'Bearer topsecret'"))
    with pytest.raises(EndpointError) as refused:
        scripted(script).endpoint(CPU).features([images(1)])
    assert "secret" not in str(refused.value) and len(script.requests) == 1


def test_a_server_that_comes_back_with_another_model_ends_the_run() -> None:
    with serving(tiny_backbone()) as (url, service):
        endpoint = RemoteBackbone(url, QUICK).endpoint(CPU)
        service.model = service.model.model_copy(update={"sha256": "1" * 64})
        with pytest.raises(EndpointError, match="has another model now"):
            endpoint.features([images(1)])
