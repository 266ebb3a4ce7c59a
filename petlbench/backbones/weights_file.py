"""Local weight files: safetensors, Google's ``.npz`` ViT layout, PyTorch files. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from petlbench.config.files import load_yaml
from petlbench.errors import CheckpointError

SHIPPED = Path(__file__).with_name("families") / "weights"  # files that come with the package
_WRAPPERS = ("state_dict_ema", "state_dict", "model", "teacher")  # keys under which training scripts put the weights
_PREFIXES = ("module.", "backbone.", "base_encoder.")


def shipped_weights(backbone: str) -> Path:
    """Return the weight file of a backbone that comes with the package. CheckpointError unless its SHA-256 is that of the backbone's YAML."""
    card = load_yaml("backbones", backbone)
    path = SHIPPED / card["weights"]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; install petlbench again, or give weights with backbone.checkpoint=PATH")
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != card["sha256"]:
        expected = f"expected {card['sha256'][:12]}… (configs/backbones/{backbone}.yaml)"
        raise CheckpointError(
            f"{path}: SHA-256 is {found[:12]}…, {expected}; install petlbench again, or give weights with backbone.checkpoint=PATH"
        )
    return path


def read_state(path: Path, is_mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch file. CheckpointError when it is missing, broken or holds anything but weights.

    ``is_mapped``: leave the tensors of a PyTorch file on disk, to read only some of them.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped and zipfile.is_zipfile(path))
        )
    except Exception as error:  # foreign bytes make torch's reader raise errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("Weights only load failed"):  # torch adds advice to load it all the same
            reason = "it holds objects other than tensors, which are not unpickled"
        raise CheckpointError(f"{path}: not a readable weight file ({reason})") from None
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a dictionary of named tensors")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_vit(vit: VisionTransformer, path: Path) -> nn.Linear | None:
    """Load a file into a timm vision transformer without a head. Returns the classifier in the file, or None in Google's layout. CheckpointError names
    what does not fit."""
    if path.suffix == ".npz":
        try:
            vit.load_pretrained(str(path))
            deeper = [name for name in np.load(path).files if f"encoderblock_{len(vit.blocks)}/" in name]
        except (KeyError, ValueError, AssertionError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path}: not in Google's ViT layout for this model ({str(error).splitlines()[0]})") from None
        if deeper:
            raise CheckpointError(f"{path}: has unexpected {deeper[0]}: this model has {len(vit.blocks)} blocks")
        return None
    state = _renamed(path, read_state(path), vit)
    load_state(vit, state, str(path))
    return _classifier(state, int(vit.num_features))


def classifier_in(path: Path, vit: VisionTransformer) -> nn.Linear | None:
    """Return the classifier that ``load_vit`` would return, without loading the vision transformer."""
    if path.suffix == ".npz" and path.is_file():
        return None
    return _classifier(_renamed(path, read_state(path, is_mapped=True), vit), int(vit.num_features))


def _renamed(path: Path, state: dict[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
    try:
        return checkpoint_filter_fn(state, vit)
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not fit this model ({str(error).splitlines()[0]})") from None


def _classifier(state: dict[str, Tensor], width: int) -> nn.Linear | None:
    weight, bias = state.get("head.weight"), state.get("head.bias")
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        return None
    classifier = nn.Linear(width, len(weight))
    classifier.load_state_dict({"weight": weight, "bias": bias})
    return classifier


def load_state(vit: VisionTransformer, state: dict[str, Tensor], origin: str) -> None:
    """Strictly load a state dict with timm's names, without heads."""
    state = {name: value for name, value in state.items() if not name.startswith(("head.", "head_dist.", "fc_norm_head.", "pre_logits."))}
    expected = vit.state_dict()
    for label, names in (("lacks", expected.keys() - state.keys()), ("has unexpected", state.keys() - expected.keys())):
        if names:
            raise CheckpointError(f"{origin}: {label} {', '.join(sorted(names)[:5])}{' and others' if len(names) > 5 else ''}")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(f"{origin}: {name} has shape {tuple(state[name].shape)}, {tuple(tensor.shape)} is expected")
    vit.load_state_dict(state)
