"""What a plan of many runs does once: counts, whatever the number of runs, and no seconds."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from benchmarks.grid import fill
from petlbench.config import files
from petlbench.config import resolve as resolving
from petlbench.errors import ConfigError, Diverged
from petlbench.records import index, provenance, regular_file
from petlbench.runs import execute as execution
from petlbench.runs.execute import execute
from petlbench.runs.log import record_path, recorded
from tests.words import plan, resolve

GRID = ("method=linear,zero_shot,craft", "task=mini/digits,mini/textures")
SEEDS = "seeds=0,1,2,3"
RUNS = 3 * 2 * 4


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the record and the predictions of every run of the grid."""
    out = tmp_path_factory.mktemp("filled") / "results"
    assert fill(out, "linear,zero_shot,craft", "mini/digits,mini/textures", 4) == RUNS
    return out


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of a results folder is opened."""
    found: Counter[str] = Counter()
    original = regular_file._opened

    def spy(path: Path) -> Any:
        found[path.name] += 1
        return original(path)

    monkeypatch.setattr(regular_file, "_opened", spy)
    return found


def _counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The calls of a function from here on."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(owner, name)

    def spy(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **more)

    monkeypatch.setattr(owner, name, spy)
    return calls


@pytest.mark.usefixtures("cache")
def test_each_record_and_each_side_file_is_opened_once_and_by_the_next_plan_not_at_all(
    filled: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "is_settled", lambda found: True)
    for count in (1, 0):
        opened.clear()
        assert {run.state for run in plan([*GRID, SEEDS, f"out={filled}"]).runs} == {"done"}
        own = {name: times for name, times in opened.items() if "mini_clip" in name}
        assert own == dict.fromkeys(own, 1) and len(own) == count * 2 * RUNS


def test_a_run_looks_at_its_own_record_and_at_no_other(filled: Path, opened: Counter[str]) -> None:
    config = plan([*GRID, SEEDS, f"out={filled}"]).runs[5].config
    opened.clear()
    assert len(recorded(config)) == 1
    assert sorted(opened.values()) == [1, 1] and record_path(config).name in opened


def test_seeds_are_resolved_together_and_yaml_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files._parsed.cache_clear()
    parsed = _counted(monkeypatch, OmegaConf, "create")
    cells = _counted(monkeypatch, resolving, "_resolved")
    assert len(plan([*GRID, SEEDS, f"out={tmp_path / 'none'}"]).runs) == RUNS
    assert len(cells) == 3 * 2
    texts = [text for (text, *_) in parsed if isinstance(text, str)]
    assert len(texts) == len(set(texts)) > 0
    parsed.clear()
    plan([*GRID, SEEDS, f"out={tmp_path / 'none'}"])
    assert parsed == []


@pytest.mark.parametrize(
    "words", [("method=linear,zero_shot,craft",), ("method=lora", "protocol.split_seed=null", "precision=bf16")], ids=str
)
def test_a_seeded_run_is_the_one_that_is_resolved_with_the_seed(words: tuple[str, ...]) -> None:
    for method in words[0].partition("=")[2].split(","):
        base = [f"method={method}", "task=mini/digits", *words[1:]]
        other, wanted = resolve(base).seeded(7), resolve([*base, "seed=7"])
        assert (other, other.identity, other.run_id, other.execution) == (wanted, wanted.identity, wanted.run_id, wanted.execution)
        assert other.run_id != resolve(base).run_id


def test_a_seed_that_none_can_be_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^seed must be an int in \[0, 2\*\*32\), got -1$"):
        plan([*GRID, "seeds=0,-1"])


def test_what_a_plugin_does_to_its_settings_does_not_reach_other_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(log: Any, *_: Any) -> None:
        log.config.train.epochs = 999
        raise Diverged("on purpose")

    monkeypatch.setattr(execution, "_carry_out", change)
    first, second = plan([*GRID[:1], "task=mini/digits", "seeds=0,1", f"out={tmp_path}"]).runs[:2]
    before = second.config.train.epochs
    execute(first.config)
    assert first.config.train.epochs == second.config.train.epochs == before != 999


def test_git_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    provenance.code.cache_clear()
    asked = _counted(monkeypatch, subprocess, "run")
    assert provenance.code() == provenance.code()
    assert len(asked) <= 2  # for the commit and for changes
