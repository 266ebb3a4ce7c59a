"""The command ``tune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from petlbench import api
from petlbench.analysis import formats
from petlbench.cli.bench import AVAILABLE, GRID, grid_settings
from petlbench.cli.printing import print_rows
from petlbench.cli.settings_help import SettingsCommand
from petlbench.cli.terminal import echo, echo_json
from petlbench.cli.words import AS_JSON, split_words
from petlbench.config.executor import split_choice
from petlbench.config.tuning import TuneChoice

if TYPE_CHECKING:
    from petlbench.tuning.tuned import StoredStudy

_RIGHT = ("trials", "failed", "default val %", "best val %", "queries", "seconds")


@click.command(cls=SettingsCommand, settings=TuneChoice, epilog=GRID)
@click.argument("words", nargs=-1, metavar="KEY=VALUE...")
@AS_JSON
@AVAILABLE
def tune(words: tuple[str, ...], as_json: bool, available: bool) -> None:
    """Tune methods on validation images: petlbench tune method=lora,vpt task=mini trials=20

    Every method gets as many trials, the first with its default settings. search.train.learning_rate=log:1e-4..1e-1 changes a search space,
    budget.trials.images=N limits what all trials of a study send to a model, seeds=0,1,2 scores a trial by its mean over seeds. The test split is not
    opened. What is done is not repeated. petlbench bench with the same settings and hyperparameters=tuned runs the winners.
    """
    choice, _ = split_choice(split_words(words))
    of_grid = grid_settings(words)
    of_grid["seeds"] = of_grid["seeds"] or 0
    studies = api.tune(available=available, **{**of_grid, "settings": {**of_grid["settings"], **vars(choice)}})
    if as_json:
        echo_json([as_plain(study) for study in studies])
        return
    print_rows([_row(study) for study in studies], right=_RIGHT)
    for study in studies:
        if study.ended is not None:
            echo(f"{study.about.label}: {len(study.trials)} of {study.about.trials} trials, {study.ended}")
    echo(f"petlbench show STUDY shows one of {', '.join(study.about.name for study in studies)}")


def as_plain(study: StoredStudy) -> dict[str, Any]:
    """Return what scripts need of a study, as plain values."""
    from petlbench.tuning.tuned import summary

    winner = study.winner
    if winner is None or winner.outcome is None:
        return {"study": study.about.name, "trials": len(study.trials), "winner": None}
    about = {"method": study.about.method, "task": study.about.task, "ended": study.ended}
    return about | summary(study, winner.outcome) | {"winner": winner.point}


def _row(study: StoredStudy) -> dict[str, Any]:
    from petlbench.tuning.tuned import point_in_words, spent

    winner, default = study.winner, study.default
    seconds, queries = spent(study)
    return {
        "method": study.about.method,
        "task": study.about.task,
        "trials": len(study.trials),
        "failed": sum(trial.state == "failed" for trial in study.trials),
        "default val %": formats.MISSING if default is None or default.outcome is None else f"{default.outcome.score:.2f}",
        "best val %": formats.MISSING if winner is None or winner.outcome is None else f"{winner.outcome.score:.2f}",
        "queries": formats.count(queries),
        "seconds": f"{seconds:.1f}",
        "best settings": "" if winner is None else point_in_words(winner.point),
    }
