"""The recipes of published work: complete, distinct, and as documented."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from petlbench.config.files import load_recipe, names
from petlbench.config.resolve import RunConfig, method_names, restore
from petlbench.config.settings import Protocol, Train
from tests.words import resolve

RECIPES = names("recipes")
PROTOCOLS = Path(__file__).parents[2] / "docs" / "protocols.md"


def with_recipe(recipe: str, method: str = "lora", task: str = "mini/digits") -> RunConfig:
    return resolve([f"method={method}", f"task={task}", f"recipe={recipe}"])


def test_what_the_papers_call_for_is_there() -> None:
    assert set(RECIPES) == {"noah", "spt", "spt_release", "vpt_paper", "osu", "ssf", "adaptformer"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_every_method_alike(recipe: str) -> None:
    """The recipe overrides a method's YAML for the suite: two rows of one protocol differ only by the method."""
    configs = [with_recipe(recipe, method) for method in method_names()]
    assert all(config.train == configs[0].train and config.protocol == configs[0].protocol for config in configs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_every_setting_that_its_numbers_depend_on(recipe: str) -> None:
    """A suite or a method could set whatever the recipe leaves out."""
    _, values = load_recipe(recipe)
    not_of_the_paper = {"score_on", "shots", "shortage", "split_seed", "compile", "checkpoint_activations"}
    only_of_sgd = {"momentum"} if values["train"]["optimizer"] != "sgd" else set()
    for section, kind in (("protocol", Protocol), ("train", Train)):
        assert {field.name for field in dataclasses.fields(kind)} - values[section].keys() <= not_of_the_paper | only_of_sgd


def test_every_recipe_has_a_protocol_of_its_own() -> None:
    protocols = {recipe: with_recipe(recipe).protocol_id for recipe in RECIPES}
    assert all(protocol.startswith(f"{recipe}-") for recipe, protocol in protocols.items())
    assert len({*protocols.values(), resolve(["method=lora", "task=mini/digits"]).protocol_id}) == len(RECIPES) + 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stored_run_of_a_recipe_resolves_to_itself(recipe: str) -> None:
    config = resolve(["method=lora", "task=mini/digits", f"recipe={recipe}", "train.label_smoothing=0.2"])
    assert config.recipe == recipe
    assert restore(config.identity).identity == config.identity


@pytest.mark.parametrize("recipe", ["vpt_paper", "spt"])
def test_fine_grained_tasks_are_cropped_and_leave_the_validation_part_alone(recipe: str) -> None:
    protocol = with_recipe(recipe, task="fgvc/cub200_2011").protocol
    assert (protocol.resize, protocol.augment, protocol.train_on) == (256, "crop + flip", "train")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_documentation_says_what_a_recipe_sets(recipe: str) -> None:
    config = with_recipe(recipe)
    train, protocol = config.train, config.protocol
    images = train.batch_size * train.accumulate
    expected = [
        f"{protocol.resize_mode}, {protocol.interpolation}",
        f"`{protocol.normalise}`",
        f"{train.optimizer} {train.peak_learning_rate:g} / {train.weight_decay:g}",
        f"{train.epochs} / {train.warmup_epochs:g} / {images}",
        f"{train.schedule}, {train.warmup_learning_rate:g} to {train.min_learning_rate:g}",
        f"{train.drop_path:g}",
    ]
    (row,) = (line for line in PROTOCOLS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{recipe}` |"))
    cells = [cell.strip().partition(" (")[0] for cell in row.split("|")[2:-1]]
    assert cells[:-1] == expected
    assert ("test" in cells[-1]) == (protocol.selection == "oracle_test")
