"""Golden cases: inputs, weights and outputs that the reference implementations computed, and how to compare with them."""

from __future__ import annotations

import fnmatch
import json
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.backbones.backbone import share

FOLDER = Path(os.environ.get("PETLBENCH_GOLDEN") or Path(__file__).parent / "cases")


@dataclass(frozen=True)
class Case:
    """One folder with ``case.json`` and ``case.safetensors``."""

    folder: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.description["config"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "case.safetensors")

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with a prefix, without the prefix."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def backbone(self, sizes: dict[str, Any], norm_eps: float) -> tuple[VisionTransformer, dict[str, Tensor]]:
        """The frozen vision transformer of the case without its head, as a private tree, and the head's tensors."""
        keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
        vit = VisionTransformer(
            **{key: sizes[key] for key in keys if key in sizes}, num_classes=0, norm_layer=partial(nn.LayerNorm, eps=norm_eps)
        )
        weights = self.below("backbone.")
        head = {name.removeprefix("head."): weights.pop(name) for name in list(weights) if name.startswith("head.")}
        vit.load_state_dict(weights)
        return share(vit.eval().requires_grad_(False)), head

    def tolerance(self, name: str) -> dict[str, float]:
        """Return absolute and relative limits for a tensor by the pattern that matches its name; by default those of logits, or 1e-5 and 0."""
        groups = self.description.get("tolerances", {})
        patterns = self.description.get("tolerance_for", {})
        group = next((target for pattern, target in patterns.items() if fnmatch.fnmatch(name, pattern)), None)
        limits = groups.get(group) or groups.get("logits/encoded/tokens") or {}
        return {"atol": limits.get("atol", 1e-5), "rtol": limits.get("rtol", 0.0)}

    def check(self, name: str, value: Tensor, **limits: float) -> None:
        """Compare with the expected tensor of that name."""
        expected = self.tensors[name]
        limits = limits or self.tolerance(name)
        torch.testing.assert_close(
            value.reshape(expected.shape), expected, **limits, msg=lambda text: f"{self.folder.name}: {name}: {text}"
        )


def all_cases() -> list[Case]:
    """List every case folder. An empty or missing folder is an error: a golden test that compares nothing must not pass."""
    found = sorted(path.parent for path in FOLDER.glob("*/case.json"))
    if not found:
        raise FileNotFoundError(f"no golden cases below {FOLDER}")
    return [Case(folder) for folder in found]
