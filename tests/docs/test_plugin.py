"""Run the commands of docs/plugin.md in a copy of the checkout, and its plugin."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from petlbench.registry import METHODS
from petlbench.testing import MethodConformance
from tests.methods.asking import asking

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the sources; an interpreter with this PYTHONPATH uses the copy instead of the installed ones."""
    for name in ("petlbench", "methods", "datasets", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("methods", "datasets", "configs"):  # what setup.py does in an installation
        (tmp_path / "petlbench" / name).symlink_to(tmp_path / name)
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_commands_of_the_plugin_page_work_and_edit_no_other_file(checkout: Path) -> None:
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file() and ".venv" not in path.parts}
    environment = os.environ | {"PYTHONPATH": str(checkout), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    typed = commands(ROOT / "docs" / "plugin.md")
    assert len(typed) == 4
    for command in typed:
        reply = subprocess.run(command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert reply.returncode == 0, f"{command}\n{reply.stdout}\n{reply.stderr}"
    listed = subprocess.run(
        ["petlbench", "ls", "methods", "--json"], cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    assert '"channel_scale"' in listed.stdout
    helped = ["petlbench", "run", "--help", "method=channel_scale"]
    assert (
        "search.method.start=[0.5,1.0]"
        in subprocess.run(helped, cwd=checkout, env=environment, capture_output=True, text=True, check=True).stdout
    )
    assert "channel_scale" in (checkout / "results" / "leaderboard.csv").read_text()
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert not changed
    added = {path.relative_to(checkout) for path in checkout.rglob("*") if path.is_file() and path not in before}
    sources = {path for path in added if not {"results", ".venv", "__pycache__", ".hypothesis", ".pytest_cache"} & set(path.parts)}
    assert sources == {Path("methods/channel_scale.py"), Path("configs/methods/channel_scale.yaml")}


def test_new_method_refuses_bad_names_and_existing_files(checkout: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    for name, expected in (("Lo-RA", "cannot name a method"), ("lora", "exists already")):
        command = [sys.executable, "-m", "petlbench", "new-method", name]
        reply = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert reply.returncode == 2 and expected in reply.stderr


@pytest.fixture
def asked_border(tmp_path: Path) -> Iterator[str]:
    """Import the plugin of the section on methods that only send queries from a file; return its source."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "plugin.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    (source,) = (block for block in blocks if '@register_method("asked_border"' in block)
    path = tmp_path / "asked_border.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield source
    METHODS._targets.pop(path.stem)
    METHODS._origins.pop(path.stem)
    del sys.modules[path.stem]


def test_the_query_plugin_is_short(asked_border: str) -> None:
    assert len(asked_border.splitlines()) < 60


def test_the_query_plugin_learns(asked_border: str) -> None:
    with asking("method=asked_border", "train.epochs=20") as run:
        run.fit()
    assert run.history[-1].loss < 0.9 * run.history[0].loss
    assert run.meter.counts["train"]["calls"] == 20 * 3


def test_the_query_plugin_keeps_the_contract(asked_border: str) -> None:
    case = type("Case", (MethodConformance,), {"method": "asked_border"})()
    case.test_only_what_is_stored_trains()
    case.test_it_is_deterministic_under_a_seed()
    case.test_it_did_not_reach_above_its_rung()
