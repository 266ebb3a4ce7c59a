"""Open one connection to a server per client and close it, whatever happens in between."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from torch import Tensor

from petlbench.access.handle import QueryModel
from petlbench.access.rungs import Access
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.pixels import export_artifact
from petlbench.config.executor import ExecutorChoice
from petlbench.data.batches import TrainingData
from petlbench.errors import ConfigError, EndpointError
from petlbench.executors.executor import Unwatched, open_executor
from petlbench.method import QueryMethod
from petlbench.remote.connection import RetryPolicy
from petlbench.runs.execute import execute
from tests.conftest import Call
from tests.deployed import CPU, SIZES, learned
from tests.remote.processes import serving
from tests.words import plan, resolve

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(load_backbone_cached("mini_clip", None, CPU)[0]) as (address, _):
        yield address


@pytest.fixture
def words(url: str, tmp_path: Path) -> list[str]:
    """Return the words of a run that queries the server."""
    return ["method=zero_shot", "task=mini/digits", "threads=1", "backbone=remote", f"url={url}", f"out={tmp_path}/results"]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Counter[str]]:
    """Count opened and closed connections; none may be left to the garbage collector."""
    counted: Counter[str] = Counter()
    real = {"opened": httpx.HTTPTransport.__init__, "closed": httpx.HTTPTransport.close}

    def count(what: str, transport: httpx.HTTPTransport, *args: object, **options: object) -> None:
        counted[what] += 1
        real[what](transport, *args, **options)  # type: ignore[operator]

    monkeypatch.setattr(httpx.HTTPTransport, "__init__", lambda self, *args, **options: count("opened", self, *args, **options))
    monkeypatch.setattr(httpx.HTTPTransport, "close", lambda self: count("closed", self))
    monkeypatch.setattr("petlbench.remote.connection.RetryPolicy", partial(RetryPolicy, first_contact_seconds=0.01))
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield counted
        gc.collect()
    assert not [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]


def test_a_run_opens_one_and_closes_it(words: list[str], connections: Counter[str]) -> None:
    record, _ = execute(resolve(words), reraise=True)
    assert record.has_result and record.backbone.transport == "http"
    assert connections == {"opened": 1, "closed": 1}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_fails_closes_it(
    failure: type[BaseException], words: list[str], connections: Counter[str], plugin: Callable[..., type]
) -> None:
    class Failing(QueryMethod):
        access = Access.SCORES

        def fit(self, model: QueryModel, data: TrainingData) -> None:
            model.scores(next(iter(data.train))[0])
            raise failure

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.scores(images)

    plugin("failing", Failing)
    with pytest.raises(failure):
        execute(resolve([*words, "method=failing"]), reraise=True)
    assert connections == {"opened": 1, "closed": 1}


def test_a_run_that_finds_another_model_closes_it(words: list[str], connections: Counter[str]) -> None:
    record, _ = execute(resolve([*words, "backbone=remote:other@01234567"]))
    assert record.status == "failed" and "the run needs remote:other@01234567" in str(record.error)
    assert connections == {"opened": 1, "closed": 1}


def test_a_run_that_cannot_begin_closes_it(words: list[str], connections: Counter[str]) -> None:
    with pytest.raises(ConfigError, match="device must be"):
        execute(resolve([*words, "device=abacus"]))
    assert connections == {"opened": 1, "closed": 1}


def test_where_nobody_answers_it_is_closed(words: list[str], connections: Counter[str]) -> None:
    with pytest.raises(EndpointError, match="is a model served there"):
        execute(resolve([*words, f"url={NOWHERE}"]))
    assert connections == {"opened": 1, "closed": 1}


@pytest.mark.parametrize("key", ["backbone", "backbone.name"])
def test_a_bench_asks_once_for_the_name_and_every_run_opens_its_own(key: str, words: list[str], connections: Counter[str]) -> None:
    asking = [word.replace("backbone=", f"{key}=") for word in words]
    runs = plan([*asking, "seeds=0,1,2"])
    assert connections == {"opened": 1, "closed": 1}
    with open_executor(ExecutorChoice(jobs=1)) as executor:
        records = [outcome.record for outcome in executor.carry_out(runs.runs, Unwatched())]
    assert [record.status for record in records] == ["ok"] * 3
    assert connections == {"opened": 4, "closed": 4}
    assert [run.state for run in plan([*asking, "seeds=0,1,2"]).runs] == ["done"] * 3


def test_a_plan_opens_one_and_closes_it(words: list[str], connections: Counter[str], call: Call) -> None:
    assert call("plan", *words)[0] == 0
    assert connections == {"opened": 1, "closed": 1}


def test_evaluating_a_checkpoint_opens_one_and_closes_it(words: list[str], connections: Counter[str], call: Call, tmp_path: Path) -> None:
    record, _ = execute(resolve([*words, "save=true"]), reraise=True)
    connections.clear()
    code, out, err = call("evaluate", f"{tmp_path}/results/{record.checkpoint}", *words[2:5])
    assert code == 0, out + err
    assert connections == {"opened": 1, "closed": 1}


def test_evaluating_what_was_exported_opens_one_and_closes_it(
    words: list[str], connections: Counter[str], call: Call, tmp_path: Path
) -> None:
    export_artifact(learned(*SIZES), tmp_path / "artifact")
    code, out, err = call("evaluate", f"{tmp_path}/artifact", *words[2:5])
    assert code == 0, out + err
    assert connections == {"opened": 1, "closed": 1}


def test_preparing_data_for_a_served_model_opens_one_and_closes_it(
    words: list[str], connections: Counter[str], call: Call, tmp_path: Path
) -> None:
    code, out, err = call("data", "prepare", "mini/digits", f"data_root={tmp_path}/data", *words[2:5])
    assert code == 0, out + err
    assert connections == {"opened": 1, "closed": 1}
