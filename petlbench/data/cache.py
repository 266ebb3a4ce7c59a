"""A cache of tensors that many runs share, kept beside the image cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from safetensors.torch import load, save
from torch import Tensor

from petlbench.config.cache_folder import cache_folder
from petlbench.data.sealed import read_sealed, write_sealed


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
        path = cache_folder() / "computed" / name / f"{key}.sealed"
        if (content := read_sealed(path)) is None:
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()})
            write_sealed(path, content)
        return load(content)
