"""Start ``petlbench serve`` from the command line: strict words, and one line for every mistake."""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path

import pytest

from petlbench.cli.words import settings_of, split_words
from petlbench.remote.connection import RetryPolicy
from petlbench.remote.server.settings import ServeConfig
from tests.conftest import Call


@pytest.fixture(autouse=True)
def nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)


def test_words_are_read_into_typed_settings() -> None:
    config = settings_of(
        ServeConfig, split_words(["port=0", "output=label", "batch_delay_ms=2", "backbone=timm:vit_tiny", "checkpoint=a.npz"])
    )
    assert (config.port, config.output, config.batch_delay_ms, config.backbone, config.checkpoint) == (
        0,
        "label",
        2.0,
        "timm:vit_tiny",
        "a.npz",
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("prot=8000", "unknown key 'prot'. Did you mean 'port'? (command line)"),
        ("task=mini/digits", "unknown key 'task'."),
        ("port=http", "port must be an int, got 'http' (command line)"),
        ("port=70000", "port must be an int in [0, 65536), got 70000"),
        ("output=all", "output must be one of logits, probabilities, top_k, label, got 'all'"),
        ("hosts=[models.example:80]", "hosts must be names or addresses without a port, such as [models.example], got 'models.example:80'"),
        ("hosts=models.example", "hosts must be a list such as [a,b], got 'models.example'"),
        ("origins=['*']", "origins must be of the form [https://app.example], got '*'"),
        ("origins=[null]", "origins must be of the form [https://app.example], got 'null'"),
        ("max_connections=0", "max_connections must be an int >= 1, got 0"),
        ("max_images=0", "max_images must be an int >= 1, got 0"),
        ("batch_delay_ms=-1", "batch_delay_ms must be >= 0, got -1.0"),
        ("threads=0", "threads must be an int >= 1 or null, got 0"),
        ("8000", "'8000' is not of the form key=value"),
        ("backbone=mini_clap", "no backbone 'mini_clap'. Did you mean 'mini_clip'?"),
        ("backbone=remote", "serve needs a model in this process, got backbone=remote"),
        ("token_file=missing", "token_file=missing cannot be read: "),
        ("device=tpu", "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("host=256.1.1.1", "cannot listen at 256.1.1.1 port 0"),
    ],
)
def test_a_mistake_is_one_line(word: str, expected: str, call: Call) -> None:
    code, out, err = call("serve", *([] if word.startswith("port") else ["port=0"]), word)
    assert (code, out) == (2, "")
    assert err.startswith("petlbench: ") and err.count("\n") == 1 and expected in err


def test_an_empty_token_file_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    assert "token_file=token is empty" in call("serve", "port=0", "token_file=token")[2]


def test_a_port_that_is_taken_is_named(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call("serve", f"port={port}")
    assert code == 2 and f"cannot listen at 127.0.0.1 port {port}: " in err and "choose another" in err


def test_a_server_whose_model_is_busy_ends_all_the_same(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("petlbench.remote.server.worker.Worker.is_alive", True)
    assert "stopped during a forward pass" in call("serve", "port=0", "threads=1")[2]
    assert ended == [0]


def test_the_ready_line_names_model_and_address(call: Call) -> None:
    code, out, err = call("serve", "port=0", "output=label", "threads=1")
    assert code == 0 and err == ""
    assert out.startswith("serving mini_clip (sha256 ") and "fp32, answers label) at http://127.0.0.1:" in out and out.count("\n") == 1


def test_an_open_door_is_warned_of(call: Call, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    words = ("serve", "port=0", "host=0.0.0.0", "threads=1")
    assert "warning: anyone who reaches 0.0.0.0 can query this model; set PETLBENCH_TOKEN" in call(*words)[2]
    assert call(*words, "token_file=token")[2] == ""


def test_without_its_extra_the_command_says_what_to_install(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("petlbench.remote.server.server", "petlbench.remote.server.app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = call("serve", "port=0")
    assert code == 2 and err == "petlbench: petlbench serve needs fastapi; install it with: pip install 'petlbench[serve]'\n"


def test_a_run_against_no_server_is_one_line_and_leaves_nothing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.remote.connection.RetryPolicy", partial(RetryPolicy, first_contact_seconds=0.0))
    code, _, err = call("run", "method=zero_shot", "task=mini/digits", "threads=1", "backbone=remote", "url=http://127.0.0.1:9")
    assert code == 2 and err.count("\n") == 1 and not Path("results").exists()
    assert "petlbench: http://127.0.0.1:9: no answer to GET /v1/model" in err and "petlbench serve backbone=NAME port=PORT" in err


def test_without_its_extra_a_remote_run_says_what_to_install(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "petlbench.remote.connection", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    _, _, err = call("run", "method=zero_shot", "task=mini/digits", "threads=1", "backbone=remote", "url=http://127.0.0.1:9")
    assert "backbone=remote needs httpx; install it with: pip install 'petlbench[remote]'" in err


def test_the_list_of_backbones_says_how_to_reach_a_served_one(call: Call) -> None:
    assert "backbone=remote url=http://HOST:PORT" in call("backbones", "--json")[1]
