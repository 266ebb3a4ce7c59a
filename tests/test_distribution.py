"""Build the distribution with all files of the sources, also in new folders that the build does not list."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED = {  # where a folder of the sources lies in an installation
    "petlbench": "petlbench",
    "methods": "petlbench/methods",
    "datasets": "petlbench/datasets",
    "configs": "petlbench/configs",
    "results/published": "petlbench/published/data",
}
NEW = {  # in folders that are not there yet
    "methods/brand_new/__init__.py": "",
    "methods/brand_new/parts/network.py": "",
    "datasets/more_facts/facts.yaml": "",
    "configs/more/one.yaml": "",
    "petlbench/farther/away/__init__.py": "",
    "petlbench/farther/picture.svg": "",
    "petlbench/report/page_assets/icons/icon.png": "",
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Copy the files that a build reads; add new ones, and folders that must not be installed."""
    target = tmp_path / "sources"
    target.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for name in (*INSTALLED, "benchmarks"):
        shutil.copytree(ROOT / name, target / name)
    for name, content in (NEW | {"tests/test_it.py": "", "tools/tool.py": "", "results/records/run.json": "{}"}).items():
        write(target / name, content)
    return target


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def python(*words: str, cwd: Path) -> str:
    reply = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    return reply.stdout


@pytest.mark.slow
def test_the_wheel_that_is_built_from_the_sdist_holds_all_files_of_the_packages_and_no_other(sources: Path, tmp_path: Path) -> None:
    expected = {
        f"{installed}/{path.relative_to(sources / folder).as_posix()}"
        for folder, installed in INSTALLED.items()
        for path in (sources / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    python("-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(sources), cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert (expected - held, held - expected) == (set(), set())


def test_an_editable_install_sees_folders_that_are_added_later(sources: Path, tmp_path: Path) -> None:
    added = [name for name in NEW if name.endswith(".py")]
    for name in added:
        shutil.rmtree(sources / Path(name).parent, ignore_errors=True)
    write(sources / "methods" / "__init__.py", "")  # without the import of torch
    python("-c", f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})", cwd=sources)
    [wheel] = tmp_path.glob("*.whl")
    ZipFile(wheel).extractall(tmp_path / "installed")
    for name in added:
        write(sources / name, NEW[name])
    modules = ["petlbench.methods.brand_new.parts.network", "petlbench.farther.away", "petlbench.published.data", "petlbench.datasets"]
    code = f"""
import importlib, site
site.addsitedir({str(tmp_path / "installed")!r})
print(*(importlib.import_module(name).__file__ for name in {modules}), sep="\\n")
"""
    found = python("-S", "-c", code, cwd=tmp_path).splitlines()  # -S: this project's own installation is not seen
    ends = [
        "methods/brand_new/parts/network.py",
        "petlbench/farther/away/__init__.py",
        "results/published/__init__.py",
        "datasets/__init__.py",
    ]
    assert found == [str(sources / end) for end in ends]
