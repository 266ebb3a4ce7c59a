"""The released checkpoints: their names for the tensors of a generator, and reading them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from petlbench.backbones.weights_file import read_state
from petlbench.errors import CheckpointError
from petlbench.learners.base import load_into

_NAMES = {"tokens.vectors": "tl_vectors", "vectors": "pgn_vectors", "network.": "model."}  # beginning of a name of ours -> released


def load(prompter: nn.Module, path: Path) -> None:
    """Fill a generator or fixed prompts from a file, of which nothing but tensors is unpickled. CheckpointError when it does not fit."""
    state = read_state(path, own="model.")  # of the network that mixes tokens
    try:
        load_into(named(prompter), state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; the sizes in method.* must be those that the file was trained with") from None


def named(prompter: nn.Module) -> dict[str, Tensor]:
    """The tensors of a generator or of fixed prompts under the names that they have in released checkpoints."""
    return {_released(name): tensor for name, tensor in prompter.state_dict(keep_vars=True).items()}


def _released(name: str) -> str:
    return next((theirs + name.removeprefix(ours) for ours, theirs in _NAMES.items() if name.startswith(ours)), name)
