"""Any CLIP of open_clip: ``open_clip:ViT-B-16/openai``.

The tag behind the slash says how the weights were trained: the normalisation of the images, and whether the activation is the quick GELU, which
open_clip's file of an architecture does not know. It decides for a local file as for a download.

A plain ViT as image tower is moved into timm's class, so that every white-box method runs on it; the text tower stays open_clip's. Any other
image tower (``open_clip:RN50/openai``) stays as it is, for methods that only query.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from petlbench.access.endpoint import Card
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone, register_backbone
from petlbench.backbones.text import ClipText
from petlbench.backbones.traits import Traits
from petlbench.backbones.weights_file import load_state, read_state, refuse_other_names
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
    trained = get_pretrained_cfg(
        architecture, tag
    )  # mean, std, and quick_gelu where it is not that of the architecture; empty without a tag
    if not trained:
        warnings.warn(_without_tag(architecture), stacklevel=2)
    try:
        with nullcontext() if checkpoint is None else _saying_nothing_of_random_weights():
            model = open_clip.create_model(
                architecture,
                pretrained=None if checkpoint else tag,
                pretrained_text=False,  # of a text tower from another library: the weights hold it
                force_quick_gelu=trained.get("quick_gelu", False),
                force_preprocess_cfg=trained,
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if checkpoint is not None:
            raise CheckpointError(f"open_clip:{name} could not be built ({reason})") from None
        hint = "give a local file with backbone.checkpoint=PATH"
        raise CheckpointError(f"the weights of open_clip:{name} could not be fetched ({reason}); {hint}") from None
    if checkpoint is not None:
        _fill(model, Path(checkpoint))
    return convert(model, f"open_clip:{name}", architecture, source=checkpoint or "open_clip")


def _parsed(name: str, checkpoint: str | None) -> tuple[str, str]:
    """Split a name into the architecture and the tag of its weights. ConfigError when either is unknown; a local file needs no tag."""
    architecture, slash, tag = name.partition("/")
    if architecture.startswith(("hf-hub:", "local-dir:")):
        raise ConfigError(
            f"open_clip:{name}: models of a hub or a folder are not read; give the architecture and the file: open_clip:ViT-B-16 backbone.checkpoint=PATH"
        )
    if architecture not in open_clip.list_models():
        raise ConfigError(f"open_clip has no model '{architecture}'.{did_you_mean(architecture, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag in tags or (checkpoint is not None and not slash):
        return architecture, tag
    if not tags:
        raise ConfigError(
            f"open_clip knows no weights of {architecture}: give a local file with backbone=open_clip:{architecture} backbone.checkpoint=PATH"
        )
    raise ConfigError(f"open_clip:{architecture} has the weights {', '.join(tags)}; name one as open_clip:{architecture}/TAG, got '{tag}'")


def _without_tag(architecture: str) -> str:
    """Say what a file without a tag is taken for."""
    quick = open_clip.get_model_config(architecture).get("quick_gelu", False)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = f"; where the file is one of {', '.join(tags)}, name it as open_clip:{architecture}/TAG" if tags else ""
    return (
        f"open_clip:{architecture} names no weights, so the file gets the architecture's defaults: mean {PreprocessCfg.mean}, "
        f"std {PreprocessCfg.std}, {'quick GELU' if quick else 'no quick GELU'}{known}"
    )


@contextmanager
def _saying_nothing_of_random_weights() -> Iterator[None]:
    """Drop open_clip's message that a model has random weights: those of a local file replace them."""

    def keeps(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("No pretrained weights loaded")

    root = logging.getLogger()  # which open_clip writes to
    root.addFilter(keeps)
    try:
        yield
    finally:
        root.removeFilter(keeps)


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
        visual.output_tokens = False  # which CoCa's decoder reads
        tower, projection, width = visual, None, open_clip.get_model_config(architecture)["embed_dim"]
    model.visual = nn.Identity()  # its tensors live on in the backbone's tower
    text = ClipText(model, _tokenizer(architecture))
    return Backbone(card, tower, projection, text, scale, width)


def _tokenizer(architecture: str) -> Callable[[list[str]], Tensor]:
    """open_clip's tokenizer, opened with the first text: that of some architectures has to be fetched, and methods on images alone need none."""

    @cache
    def opened() -> Any:
        try:
            return open_clip.get_tokenizer(architecture)
        except (OSError, ImportError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the tokenizer of open_clip:{architecture} could not be fetched ({reason}); methods that need no texts of the classes run without"
            ) from None

    def tokenize(texts: list[str]) -> Tensor:
        return opened()(texts)

    return tokenize


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
        init_values=None if isinstance(block.ls_1, nn.Identity) else 1.0,  # replaced by the weights
        norm_layer=partial(nn.LayerNorm, eps=visual.ln_pre.eps),
        act_layer=QuickGELU if quick else nn.GELU,
    )
    state = checkpoint_filter_fn(model.state_dict(), vit)
    load_state(vit, {name.replace(".ls_", ".ls"): tensor for name, tensor in state.items()}, "the open_clip image tower")
    projection = nn.Linear(visual.proj.shape[0], visual.proj.shape[1], bias=False)
    projection.weight.data = visual.proj.data.T.contiguous()
    return vit, projection


def _fill(model: nn.Module, path: Path) -> None:
    numbers = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's files
    state = {name: tensor for name, tensor in read_state(path).items() if name not in numbers}
    refuse_other_names(str(path), model.state_dict(), state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # shapes
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
