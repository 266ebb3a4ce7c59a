"""Local weight files: safetensors, Google's ``.npz`` ViT layout, PyTorch files. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import re
import zipfile
from argparse import Namespace
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from petlbench.backbones.vit import is_distilled
from petlbench.config.files import load_yaml
from petlbench.errors import CheckpointError

SHIPPED = Path(__file__).with_name("families") / "weights"  # files that come with the package
# Keys under which training scripts put the weights, the best first: averaged ones, then those that a script saves alone
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "teacher", "student", "module", "net", "encoder")
# What wraps a whole model: stripped where every name carries it
_AROUND = ("module.", "_orig_mod.", "model.", "net.", "network.")
# The tower of a model that has more parts (projectors, decoders, a second tower): its names are kept alone; of several the first one
_TOWERS = ("teacher.", "student.", "backbone.", "base_encoder.", "momentum_encoder.", "encoder.")
_STEMS = ("patch_embed.", "conv1.", "visual.")  # where the names of a tower begin: only then is it taken out of a larger model
# Parts of training scripts beside the tower: classifiers, projectors and the decoder of masked autoencoders
_HEADS = ("head.", "head_dist.", "fc_norm_head.", "pre_logits.", "decoder_")


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


def read_state(path: Path, is_mapped: bool = False, own: str = "") -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch file. CheckpointError when it is missing, broken or holds anything but weights.

    ``is_mapped``: leave the tensors of a PyTorch file on disk, to read only some of them. ``own``: a beginning that belongs to the names, and is kept
    where training scripts have one like it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals([Namespace]):  # the arguments of a training script, beside its weights: a bag of plain values
            state = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped and zipfile.is_zipfile(path))
            )
    except Exception as error:  # foreign bytes make torch's reader raise errors of many kinds
        raise CheckpointError(f"{path}: not a readable weight file ({_reason(error)})") from None
    state = _unwrapped(state)
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path}: expected a dictionary of named tensors")
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        keys = ", ".join(_WRAPPERS)
        raise CheckpointError(f"{path}: expected a dictionary of named tensors, alone or under one of {keys}; {others[0]!r:.50} is none")
    return _stripped(state, own)


def _reason(error: Exception) -> str:
    """Say in one line why torch's reader refused a file, without its advice to load it all the same."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "TorchScript" in reason:  # as OpenAI publishes CLIP
        return (
            "it is a program of TorchScript, which is not run; save its weights alone: torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        )
    if not reason.startswith("Weights only load failed"):
        return reason
    found = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
    kind = f", such as {found[1]}" if found else ""
    return f"it holds objects other than tensors{kind}, which are not unpickled; save the state dict of the model alone"


def _unwrapped(state: Any) -> Any:
    """Descend to the weights of a file that a training script wrote, beside its optimizer, epoch and arguments."""
    while isinstance(state, dict):
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict) and state[key]), None)
        if inner is None:
            break
        state = inner
    return state


def _stripped(state: dict[str, Tensor], own: str = "") -> dict[str, Tensor]:
    """Remove from the names what training scripts put before them, in any combination and order."""
    for prefix in _AROUND:
        if prefix != own and all(name.startswith(prefix) for name in state):
            return _stripped({name.removeprefix(prefix): value for name, value in state.items()}, own)
    for prefix in _TOWERS:
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        tower = _stripped(inside, own) if inside else {}
        if inside and (len(inside) == len(state) or any(name.startswith(_STEMS) for name in tower)):
            return tower
    return state


def beginnings(names: Iterable[str]) -> str:
    """Say what names begin with, the most frequent first."""
    counted = Counter(f"{first}{dot}" for first, dot, _ in (name.partition(".") for name in names)).most_common()
    return ", ".join(repr(first) for first, _ in counted[:4]) + (" and others" if len(counted) > 4 else "")


def refuse_other_names(origin: str, expected: Collection[str], found: Collection[str]) -> None:
    """CheckpointError when a file lacks names that a model expects, or has others. A file of another layout is told by what its names begin with."""
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if not missing and not unexpected:
        return
    names = missing or unexpected
    listed = f"{', '.join(names[:5])}{' and others' if len(names) > 5 else ''}"
    instead = f"; it has names instead that begin with {beginnings(unexpected)}" if missing and unexpected else ""
    raise CheckpointError(f"{origin}: {'lacks' if missing else 'has unexpected'} {listed}{instead}")


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
    return _classifier(state, vit)


def classifier_in(path: Path, vit: VisionTransformer) -> nn.Linear | None:
    """Return the classifier that ``load_vit`` would return, without loading the vision transformer."""
    if path.suffix == ".npz" and path.is_file():
        return None
    return _classifier(_renamed(path, read_state(path, is_mapped=True), vit), vit)


def _renamed(path: Path, state: dict[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
    try:
        return checkpoint_filter_fn(state, vit)
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not fit this model ({str(error).splitlines()[0]})") from None


def _classifier(state: dict[str, Tensor], vit: VisionTransformer) -> nn.Linear | None:
    weight, bias, width = state.get("head.weight"), state.get("head.bias"), int(vit.num_features)
    if is_distilled(vit):  # its two classifiers read one token each, none the features
        return None
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        return None
    classifier = nn.Linear(width, len(weight))
    classifier.load_state_dict({"weight": weight, "bias": bias})
    return classifier


def load_state(vit: VisionTransformer, state: dict[str, Tensor], origin: str) -> None:
    """Strictly load a state dict with timm's names, without heads."""
    state = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
    expected = vit.state_dict()
    refuse_other_names(origin, expected, state)
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(f"{origin}: {name} has shape {tuple(state[name].shape)}, {tuple(tensor.shape)} is expected")
    vit.load_state_dict(state)
