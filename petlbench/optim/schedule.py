"""Learning-rate schedules as plain functions of the position in training."""

from __future__ import annotations

import math

from petlbench.config.settings import Train

PGN_END = 0.01  # of the highest rate: where PGN's released schedule ends


def factor(position: float, warmup: float, total: float, shape: str = "cosine") -> float:
    """Return the schedule's factor in [0, 1] at a position in epochs: linear warm-up, then cosine.

    ``cosine``: the half cosine begins where the warm-up ends. VPT's released code steps it once per epoch: epoch 0 of a warm-up runs at 0 and
    the last epoch keeps a small rate (arXiv 2203.12119, code). ``timm_cosine``: it begins at 0 and the warm-up hides its first part, as in
    timm's CosineLRScheduler. ``dassl_cosine``: it begins where the warm-up ends and would take all epochs, so that it does not reach the low end
    (Dassl, as BlackVIP uses it). ``constant``: there is none.
    """
    if position < warmup:
        return position / warmup
    if shape == "constant":
        return 1.0
    begin = 0.0 if shape == "timm_cosine" else warmup
    if position == begin:  # a warm-up may take all epochs, and nothing is left to divide by
        return 1.0
    length = total if shape == "dassl_cosine" else total - begin
    return 0.5 * (1.0 + math.cos(math.pi * (position - begin) / length))


def learning_rate(position: float, recipe: Train, step_length: float = 0.0) -> float:
    """The rate at a position in epochs, whole under ``schedule_step=epoch``. ``step_length``: of an optimiser step, in epochs.

    NOAH and SPT step timm's scheduler with the number of the epoch that has just ended (arXiv 2206.04673 and 2303.08566, code), so that under
    ``timm_cosine`` an epoch runs at the rate meant for the one before, and epochs 0 and 1 both at ``warmup_learning_rate``. VP's warm-up counts
    the step that is being made (arXiv 2203.17274, code). Dassl's starts from 0, but for epoch 0. PGN's epoch 0 runs at the rate of epoch 1,
    and its cosine ends at a hundredth of the highest rate, or at ``min_learning_rate`` where that is higher; a warm-up that is as long as the training
    is all there is (arXiv 2210.06466, code).
    """
    if recipe.schedule == "timm_cosine":
        position = max(0.0, position - 1)
    if recipe.schedule == "vp_cosine" and position < recipe.warmup_epochs:
        position += step_length
    if recipe.schedule == "pgn_cosine":
        position = max(position, min(1.0, recipe.warmup_epochs))
    if recipe.schedule == "dassl_cosine" and 0 < position < recipe.warmup_epochs:
        return recipe.peak_learning_rate * position / recipe.warmup_epochs
    low = recipe.warmup_learning_rate if position < recipe.warmup_epochs else _end(recipe)
    return low + (recipe.peak_learning_rate - low) * factor(position, recipe.warmup_epochs, recipe.epochs, recipe.schedule)


def _end(recipe: Train) -> float:
    """The rate that a half cosine falls to."""
    if recipe.schedule == "pgn_cosine":
        return max(recipe.min_learning_rate, PGN_END * recipe.peak_learning_rate)
    return recipe.min_learning_rate
