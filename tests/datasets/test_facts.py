"""The facts about datasets agree with one another and with the suites that use them."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import pytest
from pydantic import ValidationError

from petlbench.config.files import load_suite
from petlbench.datasets.disk import facts
from petlbench.datasets.disk.layouts import layout
from petlbench.registry import TASKS, normalise_name

ENTRIES = [(dataset, entry) for dataset in facts.datasets().values() for entry in dataset.suites.values()]
SUITES = {"vtab": 19, "fgvc": 5, "blackvip16": 14, "craft15": 15, "pgn12": 12}


@pytest.mark.parametrize(("dataset", "entry"), ENTRIES, ids=lambda one: getattr(one, "suite", None) or one.name)
def test_an_entry_is_complete(dataset: facts.Dataset, entry: facts.SuiteEntry) -> None:
    assert set(entry.sources) <= set(facts.sources())
    classes = dataset.class_count(entry)
    if entry.names is not None:
        named = len(facts.class_names(entry.names).names)
        assert named == (1000 if entry.scored else classes)
    if entry.scored is not None:
        assert len(facts.subset(entry.scored)) == classes
    if entry.trainval is not None and entry.train is not None:
        assert entry.trainval == entry.train + (entry.val or 0)
    if entry.trained_on is not None:
        assert entry.suite in facts.datasets()[entry.trained_on].suites


def test_only_the_two_tasks_without_names_refuse_methods_that_read_them() -> None:
    nameless = {f"{entry.suite}/{dataset.name}" for dataset, entry in ENTRIES if entry.names is None}
    assert nameless == {"vtab/sun397", "fgvc/nabirds"}


def test_names_and_aliases_of_datasets_are_unique() -> None:
    counted = Counter(form for one in facts.datasets().values() for form in {normalise_name(name) for name in (one.name, *one.aliases)})
    assert not [form for form, count in counted.items() if count > 1]


def test_aliases_of_suites_are_none_of_a_dataset() -> None:
    datasets = {normalise_name(name) for one in facts.datasets().values() for name in (one.name, *one.aliases)}
    assert not datasets & {normalise_name(name) for suite in SUITES for name in (suite, *load_suite(suite).aliases)}


@pytest.mark.parametrize("name", sorted({name for one in facts.datasets().values() for name in one.layouts}))
def test_a_layout_that_the_facts_name_can_be_read(name: str) -> None:
    assert callable(layout(name).read) and callable(layout(name).expected)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_lists_the_tasks_that_the_facts_have_for_it(name: str) -> None:
    known = {f"{entry.suite}/{dataset.name}" for dataset, entry in ENTRIES if entry.suite == name and dataset.layouts}
    suite = load_suite(name)
    assert len(known) == SUITES[name] and known <= set(suite.tasks)
    assert all(task in TASKS for task in suite.tasks)


def test_wordnet_ids_are_sorted_and_subsets_ascend() -> None:
    ids = facts.wordnet_ids()
    assert len(ids) == 1000 and list(ids) == sorted(ids)
    for key in ("imagenet_a", "imagenet_r"):
        chosen = facts.subset(key)
        assert len(chosen) == 200 and list(chosen) == sorted(set(chosen)) and chosen[-1] < 1000


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"template": "a photo"}, "belong together"),
        ({"template": "a photo", "names": "mnist"}, "has one {}"),
        ({"test": 0}, "greater than 0"),
        ({"shots": 16}, "Extra inputs"),
    ],
)
def test_a_wrong_entry_is_refused(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        facts.SuiteEntry.model_validate({"suite": "vtab", "test": 10, "sources": ["vtab"], **values})


@pytest.mark.parametrize("names", [("a", "b", "a"), ("a", "")])
def test_names_that_are_doubled_or_empty_have_to_be_marked(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        facts.NameList(source="here", names=names)


def test_the_facts_are_shipped() -> None:
    assert {"datasets.yaml", "classnames.yaml"} <= {file.name for file in files("petlbench.datasets.disk.facts").iterdir()}
