"""Any vision transformer of timm: ``timm:vit_base_patch16_224.augreg_in21k``."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petlbench.access.endpoint import Card
from petlbench.backbones.backbone import Backbone, register_backbone
from petlbench.backbones.traits import Traits
from petlbench.backbones.weights_file import classifier_in, load_vit
from petlbench.errors import CheckpointError, ConfigError, did_you_mean


def traits_without_loading(name: str, checkpoint: str | None) -> Traits:
    """Build the model without weights, which takes no memory; of a local file only the classifier is read."""
    with torch.device("meta"):
        vit = _created(name, pretrained=False)
    classifier = vit.get_classifier()
    vit.reset_classifier(0)
    if checkpoint is not None:
        classifier = classifier_in(Path(checkpoint), vit)
    return _backbone(name, vit, classifier, source="").traits


@register_backbone("timm", traits_without_loading)
def load(name: str, checkpoint: str | None) -> Backbone:
    """A vision transformer of timm, such as timm:vit_base_patch16_224.augreg_in21k: weights downloaded once by timm, or a local file."""
    vit = _created(name, pretrained=checkpoint is None)
    classifier = vit.get_classifier()  # two in a distilled DeiT, which are read at two tokens: no classifier of the features
    vit.reset_classifier(0)
    if checkpoint is not None:
        classifier = load_vit(vit, Path(checkpoint))
    return _backbone(name, vit, classifier, source=checkpoint or "timm")


def _created(name: str, pretrained: bool) -> VisionTransformer:
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models("vit*", pretrained=True))
        raise ConfigError(f"timm has no model '{name}'.{hint} (petlbench ls backbones shows examples)")
    architecture, _, tag = name.partition(".")
    if tag and name not in (known := timm.list_models(f"{architecture}.*", pretrained=True)):
        tags = ", ".join(other.partition(".")[2] for other in known) or "none that timm knows"
        raise ConfigError(f"timm:{architecture} has the weights {tags}; name one as timm:{architecture}.TAG, got '{tag}'")
    try:
        vit = timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the weights of timm:{name} could not be fetched ({reason}); give a local file with backbone.checkpoint=PATH"
        ) from None
    if not isinstance(vit, VisionTransformer):
        raise ConfigError(f"timm:{name} is a {type(vit).__name__}, not a plain VisionTransformer")
    return vit


def _backbone(name: str, vit: VisionTransformer, classifier: nn.Module | None, source: str) -> Backbone:
    settings = resolve_model_data_config(vit)
    card = Card(f"timm:{name}", settings["input_size"][-1], settings["mean"], settings["std"], source=source)
    return Backbone(card, vit, classifier=classifier if isinstance(classifier, nn.Linear) else None)
