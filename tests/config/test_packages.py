"""Installed packages ship presets, suites, recipes, backbone cards, tables and facts; a bad package is named and disturbs no other."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from petlbench.config import files
from petlbench.config.files import load_recipe, load_suite, load_yaml, names, origin, suite_name
from petlbench.config.resolve import method_names, resolve
from petlbench.datasets.disk import facts
from petlbench.errors import ConfigError
from petlbench.registry import NameTaken
from tests.datasets.miniature import coop

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Pretend that a package is installed: its name, and the text of each of its files by path."""
    entries: list[EntryPoint] = []
    caches = (files.packages, facts._datasets, facts._class_names, facts._downloads, facts.suite_data)
    monkeypatch.setattr(files, "entry_points", lambda group: [entry for entry in entries if entry.group == group])
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, **texts: str) -> str:
        entries.append(EntryPoint(package, package, files.GROUP))
        for name, text in {"__init__.py": "", **texts}.items():
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        for cached in caches:
            cached.cache_clear()
        return package

    yield install
    for cached in caches:
        cached.cache_clear()
    for entry in entries:
        sys.modules.pop(entry.value, None)


def test_every_folder_of_a_package_is_read(install: Install) -> None:
    texts = {f"{folder}/theirs.yaml": "{}" for folder in ("backbones", "tables")}
    texts |= {"methods/theirs.yaml": "plugin: lora", "recipes/theirs.yaml": "title: A paper"}
    install("their_configs", **texts, **{"suites/theirs.yaml": "tasks: [mini/digits]\naliases: [their-suite]"})
    assert all("theirs" in names(folder) for folder in ("methods", "suites", "recipes", "backbones", "tables"))
    assert "theirs" in method_names() and "lora" in method_names()
    assert load_recipe("theirs")[0] == "A paper" and load_suite("theirs").tasks == ("mini/digits",)
    assert suite_name("Their Suite") == "theirs" and resolve({"method": "theirs", "task": "mini/digits"}).plugin == "lora"


@pytest.mark.parametrize(("folder", "words"), [("methods", {"method": "theirs"}), ("recipes", {"method": "lora", "recipe": "theirs"})])
def test_an_error_names_the_package_of_the_file(install: Install, folder: str, words: dict[str, str]) -> None:
    install(
        "their_configs", **{f"{folder}/theirs.yaml": "{plugin: lora, train: {epoch: 3}}" if folder == "methods" else "train: {epoch: 3}"}
    )
    with pytest.raises(ConfigError, match=rf"their_configs:{folder}/theirs\.yaml"):
        resolve({**words, "task": "mini/digits"})


def test_the_origin_of_our_files_is_their_path() -> None:
    assert origin("methods", "lora") == "configs/methods/lora.yaml"


def test_a_name_that_two_packages_claim_is_an_error_that_names_both_where_it_is_used(install: Install) -> None:
    install("their_configs", **{"methods/lora.yaml": "{}", "methods/mine.yaml": "plugin: lora"})
    install("other_configs", **{"methods/mine.yaml": "plugin: lora"})
    with pytest.raises(NameTaken, match=r"'lora' is defined by configs/methods/lora\.yaml and by their_configs:methods/lora\.yaml; rename"):
        resolve({"method": "lora", "task": "mini/digits"})
    with pytest.raises(NameTaken, match=r"other_configs:methods/mine\.yaml and by their_configs:methods/mine\.yaml"):
        load_yaml("methods", "mine")
    assert resolve({"method": "linear", "task": "mini/digits"}).plugin == "linear"


@pytest.mark.parametrize("text", ["raise OSError('no disk')", "import no_such_package", "def ("])
def test_a_package_that_cannot_be_imported_is_named_and_disturbs_no_other(install: Install, text: str) -> None:
    install("broken_configs", **{"__init__.py": text})
    install("their_configs", **{"recipes/theirs.yaml": "title: A paper"})
    with pytest.warns(UserWarning, match="the configs of broken_configs cannot be read: "):
        assert "theirs" in names("recipes")
    with warnings.catch_warnings():  # said once per process
        warnings.simplefilter("error")
        assert resolve({"method": "lora", "task": "mini/digits"}).plugin == "lora"


@pytest.mark.parametrize("text", ["tasks: [", "- a list", "title: no tasks", "{tasks: [a/b], ranked_by: nobody}"])
def test_a_file_that_is_not_valid_is_named_and_disturbs_no_other(install: Install, text: str) -> None:
    install("their_configs", **{"suites/bad.yaml": text, "suites/good.yaml": "tasks: [mini/digits]"})
    with pytest.warns(UserWarning, match=r"their_configs:suites/bad\.yaml: "):
        assert "good" in names("suites") and "bad" not in names("suites")
    with pytest.raises(ConfigError, match=r"their_configs:suites/bad\.yaml: "):
        load_suite("bad")


TOYS = """
sources: {toys: our page}
datasets:
  toys:
    about: toys
    classes: 3
    coop: {folders: [toys], images: [images], splits: [split.json]}
    layouts: [coop]
    suites:
      theirs: {train: 12, val: 6, test: 6, sources: [toys], names: toys, template: 'a photo of a {}.'}
  dtd:
    suites:
      theirs: {test: 1692, sources: [toys]}
"""
NAMES = "names: {toys: {source: our page, names: [red_thing, green_thing, blue_thing]}}"


def test_facts_of_a_package_add_datasets_and_suites_of_known_datasets(install: Install) -> None:
    install("their_configs", **{"facts/datasets.yaml": TOYS, "facts/classnames.yaml": NAMES, "suites/theirs.yaml": "tasks: [theirs/toys]"})
    assert facts.datasets()["toys"].suites["theirs"].train == 12
    assert {"theirs", "vtab"} <= facts.datasets()["dtd"].suites.keys() and facts.datasets()["dtd"].classes == 47
    assert facts.class_names("toys").names[0] == "red_thing" and len(facts.wordnet_ids()) == 1000


def test_facts_that_are_given_twice_name_both_files(install: Install) -> None:
    install("their_configs", **{"facts/datasets.yaml": "datasets: {dtd: {about: fabrics}}"})
    with pytest.raises(
        NameTaken, match=r"datasets\.dtd\.about is defined by datasets/disk/facts/datasets\.yaml and by their_configs:facts/"
    ):
        facts.datasets()


@pytest.mark.parametrize("text", ["datasets: {toys: {about: toys}}", "- a list", "datasets: [", "datasets: {toys: 3}"])
def test_facts_that_are_not_valid_are_named_and_disturb_no_other(install: Install, text: str) -> None:
    install("broken_configs", **{"facts/datasets.yaml": text})
    install("their_configs", **{"facts/datasets.yaml": TOYS})
    with pytest.warns(UserWarning, match=r"broken_configs:facts/datasets\.yaml: "):
        assert {"toys", "dtd"} <= facts.datasets().keys()


RUN = """
import json, sys, petlbench
from petlbench.config.files import names
from petlbench.config.resolve import method_names
places = json.loads(sys.argv[1])
(config,) = [run.config for run in petlbench.plan("lora_tiny", "theirs", **places).runs]
record = petlbench.run(progress=False, method="lora_tiny", task="theirs/toys", seed=3, threads=1, **places).record
found = [config.task, config.seed, config.method_config.rank, "theirs" in names("suites"), "lora_tiny" in method_names(), record.status]
print(json.dumps(found))
"""


def test_a_preset_of_a_package_runs_on_a_dataset_of_its_suite(tmp_path: Path) -> None:
    """All from one package that is on the path with an entry point, as pip leaves it, in a process of its own."""
    package, info = tmp_path / "site/vision_extras/configs", tmp_path / "site/vision_extras-1.0.dist-info"
    texts = {
        package.parent / "__init__.py": "",
        package / "__init__.py": "",
        package / "methods/lora_tiny.yaml": "plugin: lora\nmethod: {rank: 1, targets: [q]}\ntrain: {epochs: 1, warmup_epochs: 0}\n",
        package
        / "suites/theirs.yaml": "title: Theirs\ntasks: [theirs/toys]\nseeds: [3]\nprotocol: {name: theirs}\ndata: {layouts: [coop]}\n",
        package / "facts/datasets.yaml": TOYS,
        package / "facts/classnames.yaml": NAMES,
        info / "METADATA": "Metadata-Version: 2.1\nName: vision-extras\nVersion: 1.0\n",
        info / "entry_points.txt": "[petlbench.configs]\nvision_extras = vision_extras.configs\n",
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    coop(tmp_path / "data/toys", "images", "split.json")
    places = {"data_root": str(tmp_path / "data"), "out": str(tmp_path / "out")}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PETLBENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(places)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["theirs/toys", 3, 1, True, True, "ok"]
