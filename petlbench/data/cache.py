"""Tensors that are worth computing once for many runs, kept beside the image cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from petlbench.data.store import cache_folder
from petlbench.errors import RecordError
from petlbench.records.store import write_atomically


@dataclass(frozen=True)
class Cache:
    """What a method has found out about a backbone on a task's training images under a protocol. ``identity`` stands for these three.

    Without an identity nothing is kept.
    """

    identity: str | None = None

    def get_or_compute(self, name: str, settings: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that ``compute`` gives, from disk when it was asked for under the same name, settings (JSON values) and identity before.

        ``settings`` must hold everything else that the result depends on, the seed included.
        """
        if self.identity is None:
            return compute()
        key = hashlib.sha256(json.dumps([self.identity, name, dict(settings)], sort_keys=True).encode()).hexdigest()[:16]
        path = cache_folder() / "computed" / name / f"{key}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError):  # not there yet, or damaged: it can always be computed again
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()}
            with suppress(RecordError):  # a cache that cannot be written costs time, not the run
                write_atomically(path, save(tensors))
            return tensors
