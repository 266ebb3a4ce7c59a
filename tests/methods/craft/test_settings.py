"""Hyper-parameters per dataset: ablations differ from CraFT only by the part that they leave out."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import pytest

from petlbench.config.files import load_yaml
from tests.words import resolve

LEFT_OUT = {
    "bbt": {"refine", "weight", "cutoff", "hidden", "head_learning_rate", "head_input", "context_from"},
    "craft_refine_only": {"generate", "intrinsic_dim", "population", "sigma", "bound", "projection_std", "head_input", "context_from"},
    "craft_no_collaboration": {"collaborate", "head_input"},
}
PHASES = {"craft_no_collaboration": 2}


@lru_cache(maxsize=4)
def settings(method: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The method and train sections, by task; ``default`` of those without a row."""
    values = load_yaml("methods", method)
    sections = {"default": [], "mini/digits": [values["suites"]["mini"]], "mini/textures": [values["suites"]["mini"]]}
    for task, row in values["tasks"].items():
        sections.setdefault(task, []).append(row)
    return {
        task: (
            {key: value for part in [values, *parts] for key, value in part.get("method", {}).items()},
            {key: value for part in [values, *parts] for key, value in part.get("train", {}).items()},
        )
        for task, parts in sections.items()
    }


@pytest.mark.parametrize("preset", LEFT_OUT)
def test_a_preset_has_crafts_settings_but_for_what_it_leaves_out(preset: str) -> None:
    assert settings(preset).keys() == settings("craft").keys()
    for task, (method, train) in settings(preset).items():
        whole, recipe = settings("craft")[task]
        assert {key for key in method.keys() | whole.keys() if method.get(key, "?") != whole.get(key, "?")} <= LEFT_OUT[preset], task
        if preset != "bbt":
            assert train["batch_size"] == recipe["batch_size"], task


@pytest.mark.parametrize("method", ["craft", *LEFT_OUT])
def test_the_epochs_are_as_many_as_the_budget_allows(method: str) -> None:
    for task, (values, train) in settings(method).items():
        assert train["epochs"] == PHASES.get(method, 1) * (values["budget"] // values.get("population", 40)), task


def test_a_dataset_without_a_row_has_the_default() -> None:
    assert resolve(["method=craft", "task=craft15/other"]).hyperparameters == "default"
    assert resolve(["method=craft", "task=craft15/dtd"]).hyperparameters == "task craft15/dtd"


@pytest.mark.parametrize("method", ["craft", *LEFT_OUT])
def test_a_single_epoch_is_accepted(method: str) -> None:
    assert resolve([f"method={method}", "task=craft15/dtd", "train.epochs=1"]).train.epochs == 1


ROWS = {  # CraFT released code, RN50, 16 shots: initial step, bound, spread of A, lambda, cut-off, batch of the network
    "caltech101": (1.0, 5.0, 0.2, 0.1, 4, 256),
    "dtd": (0.02, 5.0, 1.0, 0.001, 1, 256),
    "eurosat": (0.02, 5.0, 1.0, 0.01, 1, 256),
    "fgvc_aircraft": (0.02, None, 0.2, 0.1, 4, 256),
    "food101": (1.0, None, 0.2, 1.0, 1, 256),
    "oxford_flowers": (1.0, 5.0, 0.2, 0.1, 4, 256),
    "oxford_pets": (0.02, 5.0, 0.2, 0.1, 1, 64),
    "stanford_cars": (1.0, 5.0, 0.2, 0.1, 4, 256),
    "sun397": (1.0, 5.0, 0.2, 0.1, 4, 256),
    "ucf101": (1.0, 5.0, 0.2, 0.1, 4, 256),
    "imagenet": (1.0, None, None, 0.0, 1, 256),
    "other": (1.0, 5.0, 0.2, 0.1, 4, 256),
}
OF_THE_NETWORK = ("weight", "cutoff", "batch_size", "hidden", "head_learning_rate")
OF_THE_SEARCH = ("sigma", "bound", "projection_std", "intrinsic_dim", "population")


def published(task: str) -> dict[str, Any]:
    is_imagenet = task == "imagenet"
    row = dict(zip(("sigma", "bound", "projection_std", "weight", "cutoff", "batch_size"), ROWS[task], strict=True))
    common = {"intrinsic_dim": 512, "population": 40, "head_learning_rate": 1e-3, "template": "a photo of a {}."}
    return row | common | {"hidden": 512 if is_imagenet else 256, "budget": 4000 if is_imagenet else 8000}


def resolved(method: str, task: str) -> dict[str, Any]:
    config = resolve([f"method={method}", f"task=craft15/{task}"])
    return dataclasses.asdict(config.method_config) | {"batch_size": config.train.batch_size}


@pytest.mark.parametrize("task", ROWS)
@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("craft", OF_THE_SEARCH + OF_THE_NETWORK),
        ("craft_no_collaboration", OF_THE_SEARCH + OF_THE_NETWORK),
        ("craft_refine_only", OF_THE_NETWORK),
        ("bbt", OF_THE_SEARCH),
    ],
)
def test_the_settings_of_a_dataset_are_those_of_the_released_code(method: str, names: tuple[str, ...], task: str) -> None:
    expected, found = published(task), resolved(method, task)
    for name in (*names, "budget", "template"):
        assert found[name] == expected[name], name


@pytest.mark.parametrize("task", ROWS)
def test_the_context_is_that_of_the_scripts(task: str) -> None:
    of_craft = "best" if task == "imagenet" else "sample_mean"
    chosen = {"craft": of_craft, "craft_no_collaboration": of_craft, "bbt": "best"}
    assert {method: resolved(method, task)["context_from"] for method in chosen} == chosen
