"""Any CLIP of open_clip: ``open_clip:ViT-B-16/openai``.

A plain ViT as image tower is moved into timm's class, so that every white-box method runs on it; the text tower stays open_clip's. Any other
image tower (``open_clip:RN50/openai``) stays as it is, for methods that only query.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from petlbench.access.endpoint import Card
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone, register_backbone
from petlbench.backbones.text import ClipText
from petlbench.backbones.traits import Traits
from petlbench.backbones.weights_file import load_state, read_state
from petlbench.errors import CheckpointError, ConfigError, did_you_mean
from petlbench.nn.deltas import QuickGELU


def traits_without_loading(name: str, checkpoint: str | None) -> Traits:
    """Read the traits from the architecture's file: open_clip builds a tower other than its own ViT for a list of layers (ResNet) and for a timm model."""
    architecture, _ = _parsed(name, checkpoint)
    vision = open_clip.CLIPVisionCfg(**open_clip.get_model_config(architecture)["vision_cfg"])
    is_own_vit = isinstance(vision.layers, int) and not vision.timm_model_name
    is_plain = is_own_vit and not vision.attentional_pool and vision.pool_type == "tok"
    access = Access.WEIGHTS if is_plain else Access.GRADIENTS
    return Traits(f"open_clip:{name}", access, has_text=True, takes_tokens=is_plain)


@register_backbone("open_clip", traits_without_loading)
def load(name: str, checkpoint: str | None) -> Backbone:
    """A CLIP of open_clip, such as open_clip:ViT-B-16/openai: weights downloaded once by open_clip, or a local file of its state dict."""
    architecture, tag = _parsed(name, checkpoint)
    try:
        # OpenAI's weights were trained with the quick GELU, whatever the architecture's file says
        model = open_clip.create_model(architecture, pretrained=None if checkpoint else tag, force_quick_gelu=tag == "openai")
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        hint = "give a local file with backbone.checkpoint=PATH"
        raise CheckpointError(f"the weights of open_clip:{name} could not be fetched ({reason}); {hint}") from None
    if checkpoint is not None:
        _fill(model, Path(checkpoint))
    return convert(model, f"open_clip:{name}", architecture, source=checkpoint or "open_clip")


def _parsed(name: str, checkpoint: str | None) -> tuple[str, str]:
    """Split a name into the architecture and the tag of its weights. ConfigError when either is unknown."""
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise ConfigError(f"open_clip has no model '{architecture}'.{did_you_mean(architecture, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if checkpoint is None and tag not in tags:
        raise ConfigError(
            f"open_clip:{architecture} has the weights {', '.join(tags)}; name one as open_clip:{architecture}/TAG, got '{tag}'"
        )
    return architecture, tag


def convert(model: Any, name: str, architecture: str, source: str) -> Backbone:
    """Convert a built open_clip model into a backbone."""
    visual = model.visual
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    card = Card(name, size, tuple(visual.image_mean), tuple(visual.image_std), source=source)
    scale = model.logit_scale.detach().exp().item()
    if is_plain_vit(visual):
        tower, projection = convert_tower(model)
        width = tower.num_features
    else:
        tower, projection, width = visual, None, open_clip.get_model_config(architecture)["embed_dim"]
    model.visual = nn.Identity()  # its tensors live on in the backbone's tower
    text = ClipText(model, open_clip.get_tokenizer(architecture))
    return Backbone(card, tower, projection, text, scale, width)


def is_plain_vit(visual: nn.Module) -> bool:
    """Return True if an image tower is a plain vision transformer that is read at its class token."""
    return isinstance(visual, open_clip.transformer.VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"


def convert_tower(model: Any) -> tuple[VisionTransformer, nn.Linear]:
    """The plain ViT of an open_clip model as a timm model without a head, and the projection into the joint space."""
    visual = model.visual
    block = visual.transformer.resblocks[0]
    quick = type(block.mlp.gelu).__name__ == "QuickGELU"
    width = visual.conv1.out_channels
    vit = VisionTransformer(
        img_size=visual.image_size,
        patch_size=visual.conv1.kernel_size,
        num_classes=0,
        embed_dim=width,
        depth=len(visual.transformer.resblocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.c_fc.out_features / width,
        pre_norm=True,
        norm_layer=partial(nn.LayerNorm, eps=visual.ln_pre.eps),
        act_layer=QuickGELU if quick else nn.GELU,
    )
    load_state(vit, checkpoint_filter_fn(model.state_dict(), vit), "the open_clip image tower")
    projection = nn.Linear(visual.proj.shape[0], visual.proj.shape[1], bias=False)
    projection.weight.data = visual.proj.data.T.contiguous()
    return vit, projection


def _fill(model: nn.Module, path: Path) -> None:
    try:
        missing, unexpected = model.load_state_dict(read_state(path), strict=False)
    except RuntimeError as error:  # shapes
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    numbers = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's files
    unexpected = [name for name in unexpected if name not in numbers]
    if missing or unexpected:
        raise CheckpointError(f"{path}: {'lacks' if missing else 'has unexpected'} {', '.join((missing or unexpected)[:5])}")
