"""A cache of tensors that many runs share, kept beside the image cache."""

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
    """Results of a method for one backbone, one task's training images and one protocol, which ``identity`` identifies.

    Without an identity nothing is stored.
    """

    identity: str | None = None

    def get_or_compute(self, name: str, settings: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of ``compute``, from disk when they were stored under the same name, settings (JSON values) and identity.

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
