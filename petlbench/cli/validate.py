"""The command that checks records."""

from __future__ import annotations

from pathlib import Path

import click

from petlbench.analysis.validate import check_record, missing_cells, problems_among
from petlbench.cli.broken import reading
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON
from petlbench.config.files import suite_tasks
from petlbench.errors import RecordError
from petlbench.records.store import RecordStore, record_files


@click.command()
@click.argument("records", nargs=-1, type=click.Path(path_type=Path))
@click.option("--complete", is_flag=True, help="A run that a method lacks of its suite's tasks and seeds is a problem as well.")
@AS_JSON
def validate(records: tuple[Path, ...], complete: bool, as_json: bool) -> None:
    """Check records: schema, name and hashes, metrics recomputed from the predictions, protocol ids, budgets, runs with two results.

    RECORDS are record files and results folders, by default results. Exit code 1 when something is wrong.
    """
    paths = list(dict.fromkeys(path for given in records or (Path("results"),) for path in _paths(given)))
    with reading("checking records") as progress:
        checked = []
        for path in paths:
            checked.append(check_record(path))
            progress(len(checked), len(paths))
    among = problems_among(checked)
    problems = {one.path: found for one in checked if (found := [*one.problems, *among.get(one.path, [])])}
    missing = missing_cells([one.record for one in checked if one.record and one.path not in problems], suite_tasks())
    if as_json:
        found_by_name = {str(path): found for path, found in problems.items()}
        echo_json({"records": len(paths), "problems": found_by_name, "missing": missing})
    else:
        for path, found in problems.items():
            for problem in found:
                echo(f"{path}: {problem.removeprefix(f'{path}: ')}")
        for cell in missing if complete else []:
            echo(cell)
        echo(f"{len(paths)} records, {len(problems)} with problems" + _missing_note(len(missing), complete))
    if problems or (complete and missing):
        raise click.exceptions.Exit(1)


def _paths(given: Path) -> list[Path]:
    """Return the record files that an argument names."""
    if given.is_file():
        return [given]
    store = RecordStore(given)
    if not (paths := store.paths() if store.folder.is_dir() else record_files(given)):
        raise RecordError(f"no records below {given}; name a results folder or record files")
    return paths


def _missing_note(count: int, listed: bool) -> str:
    if not count:
        return ""
    return f", {count} runs missing" + ("" if listed else " of tasks or seeds that others have (--complete lists them)")
