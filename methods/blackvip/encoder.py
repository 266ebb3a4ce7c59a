"""The frozen encoder of the coordinator: a backbone of its own, which the queried model has nothing to do with.

Letters in shapes: B images, S input size, F feature width.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.backbones.backbone import Backbone, load_backbone, sha256_of
from petlbench.backbones.weights_file import read_state
from petlbench.errors import CheckpointError, ConfigError
from petlbench.optim.precision import autocast

DINO_RESNET50 = "dino_resnet50"


class Encoder:
    """Images to features. Not a module, so that nothing of it is learned, stored or switched to training mode with the method that holds it."""

    def __init__(self, tower: nn.Module, input_size: int, feature_width: int, first_layer_groups: int | None = None) -> None:
        self._tower = tower.eval().requires_grad_(False)  # (B, 3, S, S) to (B, F)
        self._device = torch.device("cpu")
        self.input_size = input_size  # S
        self.feature_width = feature_width  # F
        self.first_layer_groups = first_layer_groups  # of the decoder; None: the rule

    @property
    def tower(self) -> nn.Module:
        """The network, which images enter at its own input size."""
        return self._tower

    @cached_property
    def sha256(self) -> Tensor:
        """Return the SHA-256 of the weights (32,) uint8."""
        return torch.tensor(list(sha256_of(self._tower)), dtype=torch.uint8)

    @torch.no_grad()
    def __call__(self, images: Tensor, number_format: str = "fp32") -> Tensor:
        """Features (B, F), float32, of images as the queried model gets them: normalised with its constants (released code), of any size."""
        if images.device != self._device:
            self._tower.to(images.device)
            self._device = images.device
        if images.shape[-1] != self.input_size:
            images = F.interpolate(images, (self.input_size, self.input_size), mode="bicubic", antialias=True)
        with autocast(number_format, images.device):
            return self._tower(images).float()


class ClassToken(nn.Module):
    """The class token of a timm vision transformer after its last block, before or after the final norm."""

    def __init__(self, vit: nn.Module, norm: bool) -> None:
        super().__init__()
        self.vit = vit
        if not norm:
            vit.norm = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, F)."""
        tokens: Tensor = self.vit.forward_features(images)  # type: ignore[operator]
        return tokens[:, 0]


@lru_cache(maxsize=2)
def load_encoder(name: str, checkpoint: str | None, norm: bool) -> Encoder:
    """An encoder by a backbone's name, or ``dino_resnet50`` with a file of DINO's weights; one copy per process, and none of its tensors is shared
    with a backbone that is queried. Draws nothing from the global random numbers. ConfigError when the backbone has no class token."""
    with torch.random.fork_rng(devices=[]):
        if name == DINO_RESNET50:
            return _dino_resnet50(checkpoint)
        try:
            backbone = load_backbone(name, checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f"method.encoder={name}: {error} (of an encoder: method.encoder_checkpoint=PATH)") from None
    if not isinstance(backbone, Backbone) or getattr(backbone.vit, "cls_token", None) is None:
        raise ConfigError(f"method.encoder={name} is no vision transformer with a class token in this process; choose another encoder")
    return Encoder(ClassToken(backbone.vit, norm), backbone.card.input_size, backbone.feature_width)


def _dino_resnet50(checkpoint: str | None) -> Encoder:
    """The average of the last feature map of a ResNet-50 (F = 2048). Its weights are only at DINO's own site (dino_resnet50_pretrain.pth)."""
    if checkpoint is None:
        raise ConfigError(
            f"method.encoder={DINO_RESNET50} needs a local weight file: method.encoder_checkpoint=PATH (dino_resnet50_pretrain.pth)"
        )
    resnet = timm.create_model("resnet50", num_classes=0)
    try:
        resnet.load_state_dict(read_state(Path(checkpoint)))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: not weights of a ResNet-50 without a head ({' '.join(str(error).split())[:200]})") from None
    return Encoder(resnet, 224, 2048, first_layer_groups=32)
