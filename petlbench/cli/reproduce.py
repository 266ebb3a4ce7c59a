"""The command ``reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from petlbench import api
from petlbench.cli.printing import print_rows
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON, parse_words
from petlbench.runs.reproduce import Reproduction, of_cost, of_result, of_surroundings


@click.command()
@click.argument("record", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="[KEY=VALUE...]")
@AS_JSON
def reproduce(record: Path, words: tuple[str, ...], as_json: bool) -> None:
    """Run a record again from its own settings and say what differs: petlbench reproduce RECORD.json

    The new record goes to a folder for temporary files, or to out=DIR. data_root, device, threads, url and the places of the run's own files
    (task=folder:PATH, backbone.checkpoint=PATH) are as for run. Ends with 1 if the result is another one: if the run ends otherwise, or predicts
    another class for any test image.
    """
    found = api.reproduce(record, parse_words(words))
    if as_json:
        echo_json(_as_json(found))
    else:
        echo(_sentence(found))
        print_rows(_rows(found))
        echo(f"equal: {', '.join([*found.equal(of_result), *found.equal(of_surroundings)])}")
        echo(f"record: {found.path}")
    if not found.is_same:
        raise click.exceptions.Exit(1)


def _sentence(found: Reproduction) -> str:
    then, now = found.original.status, found.record.status
    if then != now:
        why = f"it was {then} and is {now}"
    elif found.samples is None:
        why = f"it is {then} again" if found.original.metrics is None else "by its accuracy alone"
    elif found.is_same:
        why = f"all {found.samples} predictions are equal"
    else:
        why = f"{found.changed} of {found.samples} predictions differ"
    note = f" ({found.note})" if found.note else ""
    return f"{found.original.label}: {'the same' if found.is_same else 'another'} result: {why}{note}"


def _rows(found: Reproduction) -> list[dict[str, str]]:
    """What differs, and the costs."""
    pairs = {**found.differing(of_result), **found.differing(of_surroundings)}
    rows = [{"differs": name, "record": _shown(then), "now": _shown(now)} for name, (then, now) in pairs.items()]
    if found.learned is not None:
        largest = f"{found.learned['differing']} differ, by at most {found.learned['largest difference']:.3g}"
        rows.append({"differs": "what was learned", "record": f"{found.learned['tensors']} tensors", "now": largest})
    return rows + [
        {"differs": name, "record": _shown(then, 4), "now": _shown(now, 4)} for name, (then, now) in found.differing(of_cost).items()
    ]


def _shown(value: Any, digits: int = 10) -> str:
    return "–" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _as_json(found: Reproduction) -> dict[str, Any]:
    groups = {"result": of_result, "surroundings": of_surroundings, "cost": of_cost}
    return {
        "same": found.is_same,
        "run_id": found.original.run_id,
        "accuracy": [None if one.metrics is None else one.metrics.accuracy for one in (found.original, found.record)],
        "predictions": {"compared": found.samples, "differing": found.changed},
        "learned": found.learned,
        "note": found.note,
        "differences": {name: found.differing(values) for name, values in groups.items()},
        "equal": [*found.equal(of_result), *found.equal(of_surroundings)],
        "record": str(found.path),
    }
