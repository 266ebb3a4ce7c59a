"""Any vision transformer of timm: ``timm:vit_base_patch16_224.augreg_in21k``."""

from __future__ import annotations

from pathlib import Path

import timm
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petlbench.backbones.backbone import Backbone, Card, register_backbone
from petlbench.backbones.weights_file import load_vit
from petlbench.errors import CheckpointError, ConfigError, did_you_mean


@register_backbone("timm")
def load(name: str, checkpoint: str | None) -> Backbone:
    """A vision transformer of timm, such as timm:vit_base_patch16_224.augreg_in21k: weights downloaded once by timm, or a local file."""
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models("vit*", pretrained=True))
        raise ConfigError(f"timm has no model '{name}'.{hint} (petlbench backbones shows examples)")
    try:
        vit = timm.create_model(name, pretrained=checkpoint is None)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the weights of timm:{name} could not be fetched ({reason}); give a local file with backbone.checkpoint=PATH"
        ) from None
    if not isinstance(vit, VisionTransformer):
        raise ConfigError(f"timm:{name} is a {type(vit).__name__}, not a plain VisionTransformer")
    classifier = vit.get_classifier()
    vit.reset_classifier(0)
    if checkpoint is not None:
        classifier = load_vit(vit, Path(checkpoint))
    settings = resolve_model_data_config(vit)
    card = Card(f"timm:{name}", settings["input_size"][-1], settings["mean"], settings["std"], source=checkpoint or "timm")
    return Backbone(card, vit, classifier=classifier if isinstance(classifier, nn.Linear) else None)
