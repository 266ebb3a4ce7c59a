"""Compare citations, version bounds, hooks, issue forms and notes with the code."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import petlbench.nn
import petlbench.testing
from petlbench.access.rungs import BOXES
from petlbench.config.resolve import load_method
from petlbench.method import METHODS
from tools.lowest_constraints import lowest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
NOTES = sorted((ROOT / "docs" / "decisions").glob("2*.md"))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def cited() -> set[str]:
    """Return the arXiv ids of the references in CITATION.cff."""
    return {identifier["value"] for reference in read("CITATION.cff")["references"] for identifier in reference["identifiers"]}


def test_the_papers_of_all_methods_are_cited() -> None:
    assert {cite for name in METHODS.names() if (cite := load_method(name)[0].cite)} <= cited()


def sources() -> str:
    """Return all code, configurations and tables of printed numbers as one text."""
    tops = ("methods", "petlbench", "configs", "results/published")
    files = [path for top in tops for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".yaml", ".csv")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_no_paper_title_or_author_is_cited_that_the_code_does_not_name() -> None:
    text = sources()
    assert {cite.removeprefix("arXiv:") for cite in cited()} <= set(re.findall(r"\d{4}\.\d{5}", text))
    for reference in read("CITATION.cff")["references"]:
        assert reference["title"].lower() in text.lower()
        assert all(author["family-names"] in text for author in reference["authors"] if "family-names" in author)


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    for entry in (citation, *citation["references"]):
        assert entry["title"] and entry["type"] in ("software", "article")
        assert all(set(author) in ({"name"}, {"family-names"}) for author in entry["authors"])
    for reference in citation["references"]:
        (identifier,) = reference["identifiers"]
        assert reference["url"] == f"https://arxiv.org/abs/{identifier['value'].removeprefix('arXiv:')}"


def test_version_and_license_agree() -> None:
    citation = read("CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_lowest_versions_are_those_of_the_bounds() -> None:
    assert (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8") == lowest(PROJECT), "run python -m tools.lowest_constraints"


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch>=2.6,<3"])
def test_a_dependency_without_a_lower_bound_alone_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match=re.escape(requirement)):
        lowest({"dependencies": [requirement], "optional-dependencies": {}})


def test_hooks_use_what_is_installed_here() -> None:
    hooks = [hook for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert all(hook["language"] == "system" for hook in hooks)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        assert program in (".venv/bin/ruff", ".venv/bin/mypy") or (program == "make" and arguments[0] in targets)


def test_bench_needs_no_tools_of_development() -> None:
    def commands(target: str) -> str:
        make = ["make", "--dry-run", "--always-make", "--old-file=pyproject.toml", target]
        return subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "--editable ." in commands("bench") and "[dev]" not in commands("bench")
    assert "[dev]" in commands("test") and "[dev]" in commands("install")


def test_bench_runs_the_methods_of_the_first_sentence_and_references() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n\n")[2].partition(".")[0]
    named = re.search(r"\((.*) and others\)", first)
    assert named is not None
    default = re.search(r"^METHOD \?= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert default is not None
    assert sorted(default[1].split(",")) == sorted([*named[1].lower().split(", "), "zero_shot", "linear", "full"])


def test_ci_starts_scripts_and_targets_that_exist() -> None:
    steps = [step["run"] for job in read(".github/workflows/ci.yml")["jobs"].values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in steps and (ROOT / ".ci" / "run").is_file()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {step.removeprefix("make ") for step in steps if step.startswith("make ")} <= set(targets)
    assert any("--constraint constraints-lowest.txt" in step for step in steps)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_complete(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    named = [field["id"] for field in content["body"] if field["type"] != "markdown"]
    assert len(set(named)) == len(named)
    for field in content["body"]:
        assert field["attributes"].get("label") or field["type"] == "markdown"


def test_the_form_for_methods_offers_the_rungs() -> None:
    (access,) = (field for field in read(".github/ISSUE_TEMPLATE/add-a-method.yml")["body"] if field.get("id") == "access")
    assert access["attributes"]["options"][:-1] == list(BOXES)


@pytest.mark.parametrize("module", [petlbench, petlbench.nn, petlbench.testing], ids=lambda module: module.__name__)
def test_the_page_of_names_has_all_that_a_plugin_may_import(module: ModuleType) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in module.__all__ if not name.isupper() and not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("note", NOTES, ids=lambda path: path.stem)
def test_notes_of_decisions_are_dated_and_listed(note: Path) -> None:
    text = note.read_text(encoding="utf-8")
    assert re.search(rf"^{note.name[:10]}, (in force|replaced by)", text, re.MULTILINE)
    for part in ("**Decision.**", "**Why.**", "**Cost.**"):
        assert part in text
    assert f"]({note.name})" in (note.parent / "README.md").read_text(encoding="utf-8")
