"""Check every command of the documentation against the real command line; run those that need seconds and no download."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from petlbench.backbones.backbone import load_backbone
from petlbench.runs.execute import execute
from tests.conftest import Call
from tests.docs.commands import PAGES, ROOT, Typed, check, typed, unmarked
from tests.remote.processes import serving
from tests.words import resolve

# The reader writes a plugin there: tests/docs/test_plugin.py runs these commands in a copy of the checkout.
ELSEWHERE = {ROOT / "docs" / "plugin.md"}
TYPED = [command for page in PAGES if page not in ELSEWHERE for command in typed(page)]

NOT_RUN = {  # all other commands are run
    r"^make ": "only the commands behind it are checked",
    r"^(pip install|git |pre-commit )": "changes the reader's machine",
    r"-m pytest ": "tests of their own",
    r"^petlbench bench": "minutes; tests/cli/test_bench.py",
    r"^(ray|sbatch) ": "a cluster; tests/executors/test_cluster.py, tests/tools/test_sbatch.py",
    r"^petlbench tune|^petlbench show lora-mini_digits": "minutes; tests/cli/test_tune.py",
    r"^petlbench serve|--watch": "runs until it is stopped; tests/remote, tests/cli/test_watch.py",
    r"^petlbench data ": "downloads, or reads what was downloaded; tests/cli/test_data.py",
    r"benchmarks.many_records": "ten minutes of writing; tests/benchmarks",
    r"tools.pretrain_mini_clip": "three quarters of an hour; tests/tools/test_pretrain_mini_clip.py",
    r"backbone=(timm|open_clip):": "weights from a network",
    r"task=… ": "a selection file of SPT's release",
}


def reason_not_to_run(command: Typed) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command.text)), None)


RUN = {page: [command for command in TYPED if command.page == page and not reason_not_to_run(command)] for page in PAGES}


@pytest.mark.parametrize("command", TYPED, ids=str)
def test_every_command_is_known_with_its_options_and_keys(command: Typed) -> None:
    check(command.words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_marked_as_such(page: Path) -> None:
    assert unmarked(page) == []


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_every_exception_is_needed(pattern: str) -> None:
    assert any(re.search(pattern, command.text) for command in TYPED)


@pytest.mark.parametrize(
    "words",
    [
        ["petlbench", "leaderbord"],
        ["petlbench", "run", "method=lora", "task=mini/digits", "method.rnak=4"],
        ["petlbench", "bench", "method=lora", "task=minni"],
        ["petlbench", "compare", "lora", "--sweet", "mini"],
        ["petlbench", "data", "fetch", "vtab"],
        ["make", "bnech"],
        ["make", "bench", "METHDO=lora"],
        ["make", "bench", "METHOD=lroa"],
        ["make", "bench-pgn", "ARGS=--prompt 8"],
        ["python", "-m", "benchmarks.nothing"],
        ["python", "-m", "pytest", "tests/nothing"],
        ["pip", "install", "petlbench[server]"],
        ["petlbenhc", "run"],
    ],
    ids=" ".join,
)
def test_a_command_with_a_mistake_is_not_known(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"."):
        check(words)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(load_backbone("mini_clip")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    for method in ("adapter", "bitfit", "spt", "lora"):
        record, _ = execute(resolve([f"method={method}", "task=mini/digits", "train.epochs=2", "threads=1", "save=true", f"out={out}"]))
        assert record.has_result, record.error
    return out


@pytest.fixture
def folder(tmp_path: Path, results: Path) -> Path:
    """A folder with results of some methods, three times, and with images, as the pages assume. ``call`` runs in it."""
    for name in ("results", "results-a", "results-b"):
        shutil.copytree(results, tmp_path / name)
    shutil.copytree(ROOT / "results" / "published", tmp_path / "results" / "published")
    for split, count in (("train", 5), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / "my_images" / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), (index, 0, 0)).save(tmp_path / "my_images" / split / name / f"{index}.png")
    (tmp_path / "data").mkdir()
    return tmp_path


def substituted(command: Typed, url: str, folder: Path) -> list[str]:
    """Put in addresses and files that exist here, and two epochs unless the command names a number."""
    words = []
    for word in command.words:
        if "records/" in word:
            pattern = re.sub(r"FILE|RUNID", "*", Path(word).name)
            words.append(str(next((folder / "results" / "records").rglob(pattern))))
        elif "checkpoints/" in word:
            pattern = re.sub(r"FILE|…", "*", Path(word).name)
            words.append(str(max((folder / "results" / "checkpoints").glob(pattern), key=lambda path: path.stat().st_mtime_ns)))
        else:
            here = word.replace("http://127.0.0.1:8000", url)
            words.append(re.sub(r"=/data\b|=folder:/data\b", lambda found: found[0].replace("/data", str(folder / "data")), here))
    if words[:2] == ["petlbench", "run"]:
        words += ["threads=1", *(["train.epochs=2"] if "train.epochs" not in command.text else [])]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_their_order(page: Path, folder: Path, url: str, call: Call) -> None:
    for command in RUN[page]:
        program, *arguments = substituted(command, url, folder)
        if program == "petlbench":
            code, out, err = call(*arguments)
            finds_faults = arguments[0] == "audit"  # in what papers print
            assert code == int(finds_faults), f"{command}\n{out}\n{err}"
        else:
            importlib.import_module(f"{arguments[1]}.__main__").main(arguments[2:], standalone_mode=False)
