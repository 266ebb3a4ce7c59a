"""End a trial early that is worse on val than other trials of its study were after as many epochs (successive halving)."""

from __future__ import annotations

from petlbench.config.pruning import Pruning
from petlbench.errors import Pruned


def report(pruning: Pruning, epochs: int, accuracy: float) -> None:
    """Write the accuracy on val after so many epochs into the study's journal. Pruned when the trial is to end."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    storage = JournalStorage(JournalFileBackend(pruning.journal, JournalFileOpenLock(pruning.journal)))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=pruning.least, reduction_factor=pruning.factor)
    study = optuna.load_study(storage=storage, study_name=pruning.study, pruner=pruner, sampler=optuna.samplers.RandomSampler())
    trial = optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study._study_id, pruning.trial))
    trial.report(accuracy, epochs)
    if trial.should_prune():
        raise Pruned(f"ended after {epochs} epochs at {accuracy:.2f} % of val, where other trials were better")
