"""The hyper-parameters per dataset: ablations differ from CraFT in what they leave out and in nothing else."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from petlbench.config import load_yaml, resolve

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
