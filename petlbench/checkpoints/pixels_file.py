"""The artifact for a model that takes pixels only: a folder with ``tensors.safetensors`` and ``artifact.json``.

The tensors are what the method learned, under ``learned.``, and ``patches`` (N, 3, P, P), the library of its tokens as normalised pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from petlbench.checkpoints.file import check_finite
from petlbench.errors import CheckpointError
from petlbench.records.store import write_atomically

DESCRIPTION, TENSORS = "artifact.json", "tensors.safetensors"
Std = Annotated[FiniteFloat, Field(gt=0)]
_LEARNED, _PATCHES = "learned.", "patches"


class Description(BaseModel):
    """``artifact.json``: everything except the tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["petlbench-pixels-1"] = "petlbench-pixels-1"
    config: dict[str, Any]  # of the run, resolved
    backbone: str
    backbone_sha256: str  # of the weights that the patches are for
    input_size: int
    patch_size: int  # P
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]  # of the normalisation of images and patches
    std: tuple[Std, Std, Std]
    prompts: int  # K patches beside every image
    library_size: int  # N
    token_width: int
    reads: Literal["scores", "features"]  # the kind of query
    class_names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]  # per class; none where features are read
    is_exact: bool  # True: a patch exists for every token; False: patches give the nearest possible tokens
    largest_residual: float  # over the library: |token of the patch - token| / |token|
    raw_values_outside: float  # share of the library's raw pixel values outside [0, 1]
    tensors_sha256: str

    @model_validator(mode="after")
    def _check_captions(self) -> Self:
        if self.reads == "scores" and (len(self.captions) != len(self.class_names) or not all(self.captions)):
            raise ValueError("captions must hold some for every one of class_names where scores are read")
        return self


@dataclass(frozen=True)
class Artifact:
    about: Description
    learned: dict[str, Tensor]
    patches: Tensor  # (N, 3, P, P)


def tensors_document(learned: dict[str, Tensor], patches: Tensor) -> tuple[bytes, str]:
    """Return the content of ``tensors.safetensors`` and its SHA-256."""
    named = {f"{_LEARNED}{name}": tensor for name, tensor in learned.items()} | {_PATCHES: patches}
    document = save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
    return document, hashlib.sha256(document).hexdigest()


def write_artifact(folder: Path, about: Description, document: bytes) -> None:
    """Write a folder; the description comes last."""
    write_atomically(folder / TENSORS, document)
    write_atomically(folder / DESCRIPTION, about.model_dump_json(indent=1).encode() + b"\n")


def read_artifact(folder: Path) -> Artifact:
    """Read a folder. CheckpointError when it is no artifact, or was changed."""
    for path in (folder / DESCRIPTION, folder / TENSORS):
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without an end
            raise CheckpointError(f"{path}: no regular file")
    try:
        about = Description.model_validate_json((folder / DESCRIPTION).read_bytes())
        document = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder}: no artifact ({error.strerror}: {error.filename}); make one with petlbench export CHECKPOINT {folder}"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(f"{folder / DESCRIPTION}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from None
    if hashlib.sha256(document).hexdigest() != about.tensors_sha256:
        raise CheckpointError(f"{folder / TENSORS}: not the file that {DESCRIPTION} describes; export again")
    try:
        tensors = load(document)
        patches = tensors.pop(_PATCHES)
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder / TENSORS}: not a whole artifact ({error}); export again") from None
    check_finite({**tensors, _PATCHES: patches}, folder / TENSORS)
    if patches.shape != (wanted := (about.library_size, 3, about.patch_size, about.patch_size)):
        raise CheckpointError(f"{folder / TENSORS}: patches have shape {tuple(patches.shape)}, {DESCRIPTION} says {wanted}; export again")
    return Artifact(about, {name.removeprefix(_LEARNED): tensor for name, tensor in tensors.items()}, patches)
