"""The hyper-parameters per dataset: ablations differ from CraFT in what they leave out and in nothing else."""

from __future__ import annotations

import pytest

from petlbench.config import load_yaml, resolve

TASKS = [
    "craft15/other",
    *(task for task in load_yaml("methods", "craft")["tasks"] if task.startswith("craft15/")),
    "mini/digits",
    "mini/textures",
]
LEFT_OUT = {
    "bbt": {"refine", "weight", "cutoff", "hidden", "context_from"},
    "craft_refine_only": {"generate", "intrinsic_dim", "sigma", "bound", "projection_std", "context_from"},
    "craft_no_collaboration": {"collaborate"},
}


@pytest.mark.parametrize("preset", LEFT_OUT)
def test_a_preset_has_crafts_settings_but_for_what_it_leaves_out(preset: str) -> None:
    for task in TASKS:
        whole, part = (vars(resolve([f"method={name}", f"task={task}"]).method_config) for name in ("craft", preset))
        assert {key for key in whole if whole[key] != part[key]} <= LEFT_OUT[preset], task


@pytest.mark.parametrize("method", ["craft", *LEFT_OUT])
def test_the_epochs_that_progress_counts_are_those_of_the_budget(method: str) -> None:
    for task in TASKS:
        config = resolve([f"method={method}", f"task={task}"])
        assert config.train.epochs == len(config.method_config.turns()), task


def test_a_dataset_without_a_row_has_the_default() -> None:
    assert resolve(["method=craft", "task=craft15/other"]).hyperparameters == "default"
    assert resolve(["method=craft", "task=craft15/dtd"]).hyperparameters == "task craft15/dtd"
