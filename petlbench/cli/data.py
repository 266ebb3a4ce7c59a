"""The commands for datasets: data prepare, data verify, data clean."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from petlbench.cli.printing import Terminal, print_rows
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON, names_and_words, settings_of
from petlbench.config.files import load_suite, names, suite_name, task_name
from petlbench.config.resolve import resolve
from petlbench.config.typed import Text
from petlbench.data.acquire.fetch import Report, fetch
from petlbench.data.acquire.prepare import by_hand, needed
from petlbench.data.acquire.presence import VARIABLE, data_folder, presence
from petlbench.data.acquire.verify import Verification
from petlbench.data.acquire.verify import verify as verify_task
from petlbench.data.store import Stored, entries, evict
from petlbench.errors import ConfigError, DataError
from petlbench.records.labels import split_task

WORDS = click.argument("words", nargs=-1, required=True, metavar="SUITE|TASK... [data_root=DIR]")
DAY = 86_400  # seconds


@click.group()
def data() -> None:
    """Fetch datasets, check them, and delete decoded images."""


@data.command()
@WORDS
@click.option("--no-store", is_flag=True, help="Do not decode the images yet.")
def prepare(words: tuple[str, ...], no_store: bool) -> None:
    """Download what may be downloaded, make splits and decode images once: petlbench data prepare vtab/cifar100 data_root=DIR

    Further words are those of a run: images are stored as a run with method=… backbone=… protocol.…=… reads them. What cannot be downloaded is
    listed with where it comes from and where it belongs; the exit code is then 1. An interrupted download continues.
    """
    tasks, settings = _split(words)
    root = _root_to_write(settings)
    downloads = needed(tasks, root)
    echo(f"{len(downloads)} downloads into {root}")
    for item in downloads:
        echo(f"  {item.url}  as {item.target}")
    for item in downloads:
        try:
            with _progress() as report:
                fetch(item, root, report)
        except DataError as error:  # the others may still succeed
            echo(f"petlbench: {error}", err=True)
    states = [presence(name, root) for name in tasks]
    for task in states:
        if task.state == "present":
            echo(f"{task.task}: {task.where}{'' if no_store else _store(task.task, settings)}")
        else:
            echo(f"{task.task}: {task.where if task.state == 'broken' else by_hand(task)}")
    if any(task.state != "present" for task in states):
        raise click.exceptions.Exit(1)


@data.command()
@WORDS
@AS_JSON
def verify(words: tuple[str, ...], as_json: bool) -> None:
    """Look at every image: counts, unreadable files, copies in two splits, JPEG copies, labels: petlbench data verify vtab data_root=DIR

    Exit code 1 when something is wrong that makes results worthless or impossible.
    """
    tasks, settings = _split(words)
    if unknown := set(settings) - {"data_root"}:
        raise ConfigError(f"data verify takes names and data_root=DIR, got {min(unknown)}")
    root = data_folder(settings.get("data_root"))
    found: list[Verification] = []
    for name in tasks:
        with _progress() as report:
            found.append(verify_task(name, root, lambda done, total, name=name: report(name, done, total)))  # type: ignore[misc]
        if not as_json:
            _print(found[-1])
    if as_json:
        echo_json([dataclasses.asdict(one) | {"is_sound": one.is_sound} for one in found])
    elif len(found) > 1:
        echo(f"{len(found)} tasks, {sum(not one.is_sound for one in found)} with errors")
    if not all(one.is_sound for one in found):
        raise click.exceptions.Exit(1)


@dataclass
class CleanSettings:
    """Settings of ``data clean``."""

    older: float | None = None  # days: only what was not read for longer
    larger: float | None = None  # MB: only what takes more

    def __post_init__(self) -> None:
        for name in ("older", "larger"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


def _is_of(entry: Stored, task: str) -> bool:
    """Return whether a store is of a task or suite; of own images, whatever they were when it was made."""
    if ":" in task:
        return [label for label, _ in split_task(entry.task)] == [label for label, _ in split_task(task)]
    return entry.task in (task, task_name(task)) or entry.task.startswith(f"{suite_name(task)}/")


@data.command(cls=SettingsCommand, settings=CleanSettings)
@click.argument("words", nargs=-1, metavar="[SUITE|TASK...] [older=DAYS] [larger=MB]")
@click.option("--delete", is_flag=True, help="Delete what is listed. It is decoded again when a run needs it.")
def clean(words: tuple[str, ...], delete: bool) -> None:
    """List decoded images by task, age and size, and delete them: petlbench data clean vtab older=30 --delete"""
    tasks, given = names_and_words(words)
    settings = settings_of(CleanSettings, given)
    older, larger = settings.older, settings.larger
    chosen = [
        entry
        for entry in entries()
        if (not tasks or any(_is_of(entry, task) for task in tasks))
        and (older is None or time.time() - entry.used > older * DAY)
        and (larger is None or entry.bytes > larger * 10**6)
    ]
    print_rows(_rows(chosen), right=("images", "size", "days unused"))
    for entry in chosen if delete else ():
        evict(entry)
    total = decimal(sum(entry.bytes for entry in chosen))
    echo(f"{len(chosen)} stores, {total}{' deleted' if delete else ''}{'; --delete deletes them' if chosen and not delete else ''}")


def _split(words: tuple[str, ...]) -> tuple[list[str], dict[str, Text]]:
    """Split words into tasks, each once, with suites replaced by their tasks, and settings."""
    given, settings = names_and_words(words)
    tasks: dict[str, None] = {}
    for word in given:
        suite = suite_name(word)
        tasks |= dict.fromkeys(load_suite(suite).tasks if suite in names("suites") else [task_name(word)])
    if not tasks:
        raise ConfigError("no suite or task is named (petlbench ls suites and petlbench ls tasks list all)")
    return list(tasks), settings


def _root_to_write(settings: dict[str, Text]) -> Path:
    """The data root, made when it is named on the command line and not there yet."""
    if named := settings.get("data_root"):
        try:
            Path(named).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"data_root={named} cannot be created ({error.strerror}); name another folder") from None
    root = data_folder(named)
    if root is None:
        raise ConfigError(f"data_root=DIR is missing; name the folder for datasets, or set {VARIABLE}")
    return root


def _store(task: str, settings: dict[str, Text]) -> str:
    """Decode a task's images as a run of the given settings reads them, by default of a linear probe."""
    import torch

    from petlbench.learners.setting import open_backbone, open_task

    config = resolve({"method": "linear", **settings, "task": task})
    with open_backbone(config, torch.device("cpu")) as (backbone, _):
        opened = open_task(config, backbone)
    sizes = " / ".join(f"{len(split):,}" for split in (opened.train, opened.val, opened.scored))
    return f"; {sizes} images to train, validate and test; {opened.images_decoded:,} decoded now"


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on the terminal, nothing elsewhere."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)
        yield lambda what, done, total: bars.update(bar, description=what, completed=done, total=total)


def _print(found: Verification) -> None:
    how = f" ({found.layout}, splits {found.split})" if found.layout else ""
    echo(f"{found.task}{how}")
    for split, counts in found.counts.items():
        echo(f"  {split:5}  {counts.images:>9,} images, {counts.classes} classes of {counts.fewest:,} to {counts.most:,}")
    for finding in found.findings:
        echo(f"  {finding.level}: {finding.problem}\n    {finding.action}")
    if not found.findings:
        echo("  nothing is wrong")


def _rows(chosen: list[Stored]) -> list[dict[str, str]]:
    return [
        {
            "task": entry.task,
            "split": entry.split,
            "form": entry.form,
            "images": f"{entry.images:,}",
            "size": decimal(entry.bytes),
            "days unused": f"{(time.time() - entry.used) / DAY:.0f}",
        }
        for entry in chosen
    ]
