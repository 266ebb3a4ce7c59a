"""Print a study: its best trials, what mattered, what it cost, and a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from petlbench.analysis import formats
from petlbench.cli.printing import print_rows
from petlbench.cli.terminal import echo
from petlbench.tuning.about import ABOUT, studies_in
from petlbench.tuning.importance import caution, importances
from petlbench.tuning.picture import write_picture
from petlbench.tuning.trial import Trial, ranking
from petlbench.tuning.tuned import StoredStudy, point_in_words, read_study, spent

_BEST = 10  # trials that are listed


def find_study(name: str, out: Path) -> Path | None:
    """Return the folder of a study: named by its path, or by its name in the results folder or the beginning of one that is the only such."""
    if (Path(name) / ABOUT).is_file():
        return Path(name).resolve()
    found = [folder for folder in studies_in(out) if folder.name.startswith(name)]
    exact = [folder for folder in found if folder.name == name]
    return next(iter(exact or found), None) if len(exact or found) == 1 else None


def show_study(folder: Path) -> None:
    """Print a study and draw OUT/plots/study-NAME.png and .svg."""
    study = read_study(folder)
    about, ended = study.about, sum(trial.has_ended for trial in study.trials)
    echo(f"study {about.name}: {about.method} on {about.task}, {about.backbone}")
    echo(
        f"{ended} of {about.trials} trials{_rest(study)}; {about.sampler} seed {about.sampler_seed}; seeds {','.join(map(str, about.seeds))}"
    )
    seconds, queries = spent(study)
    cost = f"{seconds:.1f} s of runs" + (f", {int(queries):,} images sent to the model" if math.isfinite(queries) else "")
    echo(f"cost: {cost}; scored on val, the test split was not opened{_saved(study)}")
    best = ranking(study.trials)
    print_rows([_row(place, trial, study) for place, trial in enumerate(best[:_BEST], start=1)], right=("#", "trial", "val %", "s"))
    if not best:
        echo("no trial has a result")
    for trial in study.trials:
        if trial.outcome is not None and trial.outcome.error is not None:
            echo(f"trial {trial.number} has no score: {trial.outcome.error} ({point_in_words(trial.point)})")
    share = importances(study)
    if share:
        echo(f"importance {caution(study)}".rstrip())
        print_rows([{"setting": key, "importance": f"{value:.2f}"} for key, value in share.items()], right=("importance",))
    else:
        echo("importance cannot be said: fewer than two different scores")
    for path in write_picture(study, share, folder.parents[1] / "plots"):
        echo(str(path))


def _row(place: int, trial: Trial, study: StoredStudy) -> dict[str, Any]:
    outcome = trial.outcome
    assert outcome is not None
    note = "default settings" if study.default is not None and trial.number == study.default.number else ""
    return {
        "#": place,
        "trial": trial.number,
        "val %": f"{outcome.score:.2f}",
        "s": f"{outcome.seconds:.1f}",
        "trainable": formats.count(float(outcome.trainable or 0)),
        "settings": point_in_words(trial.point),
        "": note,
    }


def _rest(study: StoredStudy) -> str:
    at_work = sum(not trial.has_ended for trial in study.trials)
    return f", {study.ended}" if study.ended else f", {at_work} at work or interrupted" if at_work else ""


def _saved(study: StoredStudy) -> str:
    """Say what pruning saved."""
    pruned = [trial.outcome for trial in study.trials if trial.state == "pruned" and trial.outcome is not None]
    if study.about.pruner == "none":
        return ""
    epochs = sum(outcome.epochs_planned - outcome.epochs for outcome in pruned)
    planned = sum(trial.outcome.epochs_planned for trial in study.trials if trial.outcome is not None)
    return f"; {study.about.pruner} ended {len(pruned)} trials early and saved {epochs} of {planned} epochs"
