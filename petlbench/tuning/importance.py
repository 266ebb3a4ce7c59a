"""How much each setting of a study mattered: the share of the variance of val accuracy that it explains alone (fANOVA)."""

from __future__ import annotations

import warnings

import optuna
from optuna.importance import FanovaImportanceEvaluator

from petlbench.tuning.journal import open_journal
from petlbench.tuning.tuned import StoredStudy

FEW = 10  # trials per setting, below which a forest of trees sees little more than noise


def importances(study: StoredStudy) -> dict[str, float]:
    """Return the importance of each setting, which add up to 1, the largest first.

    Empty where it cannot be said: fewer than two trials, or equal scores.
    """
    journal = open_journal(study.folder)
    scores = {trial.outcome.score for trial in study.trials if trial.outcome is not None and trial.state != "pruned"}
    if len(scores) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(journal, evaluator=FanovaImportanceEvaluator(seed=0))
    return dict(found)


def caution(study: StoredStudy) -> str:
    """Say how much the importance means; empty when there are trials enough."""
    ended = sum(trial.has_ended for trial in study.trials)
    if ended >= FEW * max(1, len(study.about.space)):
        return ""
    return f"of {ended} trials of {len(study.about.space)} settings: with so few it means little"
