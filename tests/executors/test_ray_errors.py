"""What stands in the way of a cluster is one line before anything starts. No cluster is needed for these."""

from __future__ import annotations

import sys

import pytest

from petlbench.config.executor import ExecutorChoice
from petlbench.errors import ConfigError
from petlbench.executors.cluster import RayExecutor
from petlbench.executors.executor import open_executor
from petlbench.executors.machines import Share


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", r"^no Ray cluster answers at 127\.0\.0\.1:1 \(.*\); look whether it runs .*address="),
        ("somewhere", r"^address must be auto or HOST:PORT, such as address=10\.0\.0\.1:6379, got 'somewhere'$"),
        ("ray://head:10001", r"^address=ray://head:10001: run bench on a machine of the cluster"),
    ],
)
def test_an_address_where_no_cluster_answers_is_one_line(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said), open_executor(ExecutorChoice(executor="ray", address=address)):
        pass


def test_without_a_cluster_on_this_machine_auto_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda _: None)
    with pytest.raises(ConfigError, match=r"^address=auto: no Ray cluster runs on this machine; start one"):
        open_executor(ExecutorChoice(executor="ray", address="auto")).__enter__()


def test_a_ray_that_is_not_installed_is_one_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'petlbench\[ray\]'"):
        open_executor(ExecutorChoice(executor="ray"))


def test_one_and_a_half_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_run above 1 must be a whole number, got 1\.5"):
        RayExecutor(ExecutorChoice(executor="ray", gpus_per_run=1.5))


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "runs"),
    [
        (1, 0, {"CPU": 4}, 4),
        (1, 0.25, {"CPU": 64, "GPU": 2}, 8),
        (1, 0.4, {"CPU": 64, "GPU": 2}, 4),  # two on each GPU: a share is of one GPU
        (1, 0.1, {"CPU": 64, "GPU": 1}, 10),
        (8, 0.25, {"CPU": 16, "GPU": 8}, 2),
        (1, 2, {"CPU": 64, "GPU": 5}, 2),
        (1, 1, {"CPU": 64}, 0),
    ],
)
def test_a_machine_has_room_for_as_many_runs_as_its_cpus_and_gpus_hold(
    cpus: float, gpus: float, resources: dict[str, float], runs: int
) -> None:
    assert Share(cpus, gpus).fits(resources) == runs
