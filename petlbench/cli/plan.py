"""The command that shows what a bench would do."""

from __future__ import annotations

import click

from petlbench import api
from petlbench.cli.bench import AVAILABLE, GRID, grid_settings
from petlbench.cli.broken import name_left_out
from petlbench.cli.printing import print_rows
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON


@click.command(epilog=GRID)
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
@AS_JSON
@AVAILABLE
def plan(words: tuple[str, ...], as_json: bool, available: bool) -> None:
    """Show what bench would do with the same words: runs done and missing, and about how long the rest takes."""
    planned = api.plan(available=available, **grid_settings(words))
    runs, estimates = planned.runs, planned.seconds
    name_left_out(planned.broken)
    todo = [run for run in runs if run.state in ("missing", "stale")]
    known = [estimates[run.config.method] for run in todo if run.config.method in estimates]
    seconds = sum(known) / len(known) * len(todo) if known else None
    if as_json:
        cells = [
            {"method": r.config.method, "task": r.config.task, "seed": r.config.seed, "state": r.state, "reason": r.reason} for r in runs
        ]
        echo_json({"runs": cells, "seeds": planned.seeds, "skipped": planned.skipped, "estimated_seconds": seconds})
        return
    rows = []
    for method, counts in planned.counts().items():
        per_run = f"{estimates[method]:.1f}" if method in estimates else "–"
        rows.append({"method": method, **counts, "s per run": per_run})
    print_rows(rows, right=(*planned.states, "s per run"))
    for sentence in planned.sentences():
        echo(sentence)
    echo("seeds " + "; ".join(f"{','.join(map(str, seeds))} ({origin})" for origin, seeds in planned.seeds.items()))
    guess = "unknown: no method here has run before" if seconds is None else f"about {seconds / 60:.1f} minutes"
    what = "missing or stale" if any(run.state == "stale" for run in todo) else "missing"
    echo(f"{len(todo)} of {len(runs)} runs {what}; time {guess if todo else 'none'}")
