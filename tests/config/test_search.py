"""Search spaces: what every method declares, what a user may say instead, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest

from petlbench.cli.words import parse_words
from petlbench.config.files import ConfigPackage, load_suite, load_yaml, names
from petlbench.config.resolve import load_method, method_names, resolve
from petlbench.config.search import Choice, Range, Space, default_point, grid, load_space, plain
from petlbench.config.typed import Text
from petlbench.errors import ConfigError
from petlbench.registry import METHODS

TASK = "mini/digits"
BLACK_BOX = ("blackvip", "bar", "vp_spsa", "craft", "bbt", "craft_no_collaboration", "craft_refine_only", "zero_shot")


def tasks_of(method: str) -> list[str]:
    """One task of each suite, and those that the method has settings for."""
    of_suites = [load_suite(suite).tasks[0] for suite in names("suites")]
    return [*of_suites, *load_yaml("methods", method).get("tasks", {})]


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Its extreme points, at most 64."""
    ends = [axis.values if isinstance(axis, Choice) else (axis.low, axis.high) for axis in space.values()]
    return (dict(zip(space, point, strict=True)) for point in islice(product(*((end[0], end[-1]) for end in ends)), 64))


def message(*words: str, method: str = "lora", task: str = TASK, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_space(method, task, given or parse_words(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", method_names())
def test_every_method_declares_a_space_that_resolves(method: str) -> None:
    for task in [TASK, "vtab/dtd"]:
        space = load_space(method, task)
        assert bool(space) == load_method(method)[0].learns
        runs = [resolve({"method": method, "task": task, **point}) for point in corners(space)]
        assert len({run.run_id for run in runs}) == len(runs)


@pytest.mark.parametrize("method", method_names())
def test_a_space_holds_the_settings_without_tuning(method: str) -> None:
    """Those of every paper's rows too: otherwise tuning could not find what is published."""
    for task in tasks_of(method):
        space = load_space(method, task)
        point = default_point(space, resolve({"method": method, "task": task}))
        assert {key: value for key, value in point.items() if value not in space[key]} == {}, task


@pytest.mark.parametrize("recipe", names("recipes"))
def test_a_recipe_has_rates_for_its_optimiser(recipe: str) -> None:
    for method in method_names():
        given = {"recipe": recipe}
        space = load_space(method, TASK, given)
        assert space.keys() == load_space(method, TASK).keys()
        point = default_point(space, resolve({"method": method, "task": TASK, **given}))
        assert all(point[key] in axis for key, axis in space.items() if key.startswith("train.")), method


def test_all_that_learn_by_gradients_search_rate_and_decay_and_no_other_does() -> None:
    searched = {method: load_space(method, TASK).keys() for method in method_names()}
    assert {method for method, keys in searched.items() if {"train.learning_rate", "train.weight_decay"} <= keys} == set(searched) - {
        *BLACK_BOX
    }
    assert not any(key.startswith("train.") for method in BLACK_BOX for key in searched[method])


def test_what_the_papers_tuned() -> None:
    assert list(load_space("blackvip", "blackvip16/svhn")) == [
        *("method.spsa.step", "method.spsa.step_decay", "method.p_eps", "method.spsa.momentum", "method.spsa.perturbation")
    ], "the order in which its authors tune"
    assert load_space("spt", "vtab/dtd")["method.budget"] == Choice((0.2, 0.4, 0.6, 0.8, 1.0))
    assert load_space("vpt", "vtab/dtd")["train.learning_rate"] == Range(0.05, 50.0, log=True)
    assert load_space("craft", "craft15/dtd")["method.bound"] == Choice((None, 5.0))


def test_a_preset_changes_the_space_of_its_plugin() -> None:
    adapter, houlsby = load_space("adapter", "vtab/dtd"), load_space("adapter_houlsby", "vtab/dtd")
    assert {**adapter, "method.bottleneck": Choice((4, 8, 16, 32))} == houlsby
    assert "method.weight" in load_space("craft", TASK) and "method.weight" not in load_space("bbt", TASK)
    assert load_space("lora_all6", "vtab/dtd") == load_space("lora", "vtab/dtd")


def test_a_run_ignores_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id and where its settings come from are those without."""
    changed = resolve({"method": "lora", "task": TASK})
    values = {**load_yaml("methods", "lora"), "search": {"no": "sense"}}
    values["suites"]["vtab"] = {"search": {"train.learning_rate": {"low": 1e-3}}}
    monkeypatch.setattr("petlbench.config.resolve.load_yaml", lambda folder, name: {**values, "suites": dict(values["suites"])})
    assert resolve({"method": "lora", "task": TASK}) == changed
    assert resolve({"method": "lora", "task": "vtab/dtd"}).hyperparameters == "default"


def test_a_user_changes_single_settings() -> None:
    words = [
        "search.train.learning_rate=1e-3..1e-2",
        "search.method.rank=[4, 8]",
        "search.train.weight_decay=null",
        "search.method.scale=linear:0.5..2",
    ]
    space = load_space("lora", TASK, parse_words(words))
    assert space == {
        "train.learning_rate": Range(1e-3, 1e-2, log=True),  # a range over a range keeps its scale
        "method.rank": Choice((4, 8)),
        "method.scale": Range(0.5, 2.0),
    }
    given = {"train.learning_rate": {"low": 0.1, "high": 1, "log": False}, "method": {"rank": {"low": 2, "high": 8, "step": 2}}}
    from_python = load_space("lora", TASK, {"search": given})
    assert from_python["train.learning_rate"] == Range(0.1, 1.0) and from_python["method.rank"] == Range(2, 8, kind=int, step=2)
    assert load_space("lora", TASK, parse_words(["search.train.learning_rate.high=1e-2"]))["train.learning_rate"] == Range(
        1e-3, 1e-2, log=True
    )
    assert load_space("blackvip", TASK, parse_words(["search.method.spsa.step=log:1..50"]))["method.spsa.step"] == Range(
        1.0, 50.0, log=True
    )
    assert load_space("craft", TASK, parse_words(["search.method.bound=[null,2]"]))["method.bound"] == Choice((None, 2.0))


def test_a_setting_that_is_fixed_is_not_searched() -> None:
    assert load_space("lora", TASK, parse_words(["method.rank=3"])).keys() == load_space("lora", TASK).keys() - {"method.rank"}
    assert "method.rank is set and searched" in message("method.rank=3", "search.method.rank=[4,8]")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search.method.rnk=[4]"], "unknown key 'search.method.rnk'. Did you mean 'rank'?"),
        (["search.budget.calls=[4]"], "unknown key 'search.budget'. Known: method, train"),
        (["search.train=[4]"], "search.train is a section; set what is in it, such as search.train.epochs=…"),
        (["search=4"], "search is a section"),
        (
            ["search.method.rank=4"],
            "search.method.rank must be a range such as 1..16 or log:1e-4..1e-1, a list such as [4,8], or null, got '4'",
        ),
        (["search.method.rank=[0,4]"], "search.method.rank: method.rank must be an int >= 1, got 0"),
        (["search.method.rank=[4,x]"], "search.method.rank: method.rank must be an int, got 'x'"),
        (["search.method.rank=1..4.5"], "search.method.rank.high must be an int, got 4.5"),
        (["search.method.rank=8..4"], "search.method.rank: low must be < high, got 8 and 4"),
        (["search.train.weight_decay=log:0..1"], "search.train.weight_decay.log must be true or false; true needs low > 0"),
        (["search.train.optimizer=1..2"], "search.train.optimizer: only a number has a range; give a list of values"),
        (["search.train.optimizer=[adam]"], "search.train.optimizer: train.optimizer must be one of adamw, sgd, got 'adam'"),
        (["search.train.learning_rate=inf..2"], "search.train.learning_rate.low must be a number"),
        (["search.train.learning_rate.low=2"], "search.train.learning_rate: low must be < high, got 2 and 0.1"),
        (["search.train.learning_rate.lo=2"], "unknown key 'search.train.learning_rate.lo'. Did you mean 'low'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words: list[str], said: str) -> None:
    text = message(*words)
    assert said in text and "(command line)" in text


def test_a_mistake_in_a_file_names_file_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "methods").mkdir()
    monkeypatch.setattr("petlbench.config.files.packages", lambda: (ConfigPackage(tmp_path, "configs/"),))
    for search, said in {
        "{method.rank: {low: 0, high: 4}}": "search.method.rank: method.rank must be an int >= 1, got 0",
        "{method.rank: {low: 1}}": "search.method.rank.high must be an int, got None",
        "{method.rank: {low: 1, high: 4, logg: true}}": "unknown key 'search.method.rank.logg'. Did you mean 'log'?",
        "{method.rank: [[1]]}": "search.method.rank must be {low: …, high: …} or a list of numbers",
        "{method.rank: []}": "search.method.rank must be {low: …, high: …} or a list of numbers",
        "[method.rank]": "search is a section",
    }.items():
        (tmp_path / "methods" / "lora.yaml").write_text(f"search: {search}")
        text = message()
        assert said in text and "(configs/methods/lora.yaml)" in text


def test_a_plugin_without_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient method is tuned by rate and decay; of another nobody knows."""
    monkeypatch.setattr("petlbench.config.search.exists", lambda folder, name: False)
    assert list(load_space("lora", TASK)) == ["train.learning_rate", "train.weight_decay"]
    assert load_space("zero_shot", TASK) == {}
    assert "method=bar declares no search space. Add one to configs/methods/bar.yaml" in message(method="bar")


def test_a_grid_has_both_ends_and_is_never_larger_than_asked_for() -> None:
    space: Space = {"a": Range(1e-4, 1e-1, log=True), "b": Choice((None, 1, 2, 3)), "c": Range(1, 3, kind=int)}
    for most in range(1, 60):
        points = grid(space, most)
        assert len(points) == len({tuple(point.items()) for point in points}) <= most
        assert all(point[key] in axis for point in points for key, axis in space.items())
    assert len(grid(space, 20)) == 18 and [point["a"] for point in grid({"a": space["a"]}, 4)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert grid({"b": space["b"], "c": space["c"]}, 100)[-1] == {"b": 3, "c": 3} and grid({}, 5) == [{}]


def test_a_range_with_steps_holds_these_alone() -> None:
    ranges: Space = {"a": Range(1, 8, kind=int), "b": Range(0.0, 1.0, step=0.1)}
    assert [len(axis.spread(100)) for axis in ranges.values()] == [8, 11] and 0.3 in ranges["b"] and 0.35 not in ranges["b"]


def test_a_space_is_read_back_from_a_record_and_from_its_text() -> None:
    for method in method_names():
        space = load_space(method, TASK)
        assert load_space(method, TASK, {"search": plain(space)}) == space
        typed: Mapping[str, Any] = {f"search.{key}": Text(axis) for key, axis in space.items()}
        assert load_space(method, TASK, typed) == space


def test_the_names_of_methods_are_all_there() -> None:
    assert set(METHODS.known()) <= set(method_names())
