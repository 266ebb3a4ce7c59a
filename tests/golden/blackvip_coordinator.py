"""BlackVIP's coordinator: encoder feature, prompts in both modes, running statistics, prompted images; two further decoders of the paper's size."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.methods.blackvip.coordinator import Decoder, compose, geometry
from petlbench.methods.blackvip.encoder import ClassToken, Encoder
from tests.golden.case import Case


@torch.no_grad()
def check(case: Case) -> None:
    config = case.config
    limits = case.description["tolerances"]
    images = case.tensors["image_lowres"].repeat_interleave(config["image_repeat"], 2).repeat_interleave(config["image_repeat"], 3)
    features = _encoder(case)(images)
    case.check("expected.z", features, **limits)
    for layer_by_layer in (False, True):
        _check_prompts(case, images, features, layer_by_layer)
        for further in ("full", "dino"):
            if further in config:
                _check_further(case, further, images.shape[-1], layer_by_layer)


def _check_prompts(case: Case, images: Tensor, features: Tensor, layer_by_layer: bool) -> None:
    config, limits = case.config, case.description["tolerances"]
    low, high = (torch.tensor(config[name]).view(3, 1, 1) for name in ("clamp_low", "clamp_high"))
    stride = config["subgrid_stride"]
    decoder = load_decoder(case.below("decoder."), images.shape[-1], features.shape[1], config)
    for mode in ("eval", "train"):  # one pass in training mode comes last
        decoder.train(mode == "train")
        prompts = decoder.plain(features) if layer_by_layer else decoder(features)
        prompted = compose(images, prompts, config["p_eps"], low, high)
        case.check(f"expected.{mode}.prompt_s{stride}", prompts[..., ::stride, ::stride], **limits)
        case.check(f"expected.{mode}.prompted_s{stride}", prompted[..., ::stride, ::stride], **limits)
        if mode == "eval":
            _check_rows(case, prompted, limits)
            case.check("expected.eval.prompt_mean", prompts.mean(dim=(2, 3)), **limits)
            case.check("expected.eval.prompted_mean", prompted.mean(dim=(2, 3)), **limits)
            is_cut_off = prompted != images + config["p_eps"] * prompts
            case.check("expected.eval.clamped_fraction", is_cut_off.float().mean(), **limits)
    for name, statistic in running_statistics(decoder).items():
        case.check(f"expected.train.{name}", statistic, **limits)


def _encoder(case: Case) -> Encoder:
    sizes = case.config["encoder"]
    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
    norm_layer = partial(nn.LayerNorm, eps=sizes["norm_eps"])
    vit = VisionTransformer(**{key: sizes[key] for key in keys}, num_classes=0, norm_layer=norm_layer)
    vit.load_state_dict(case.below("encoder."))
    place = re.search("(before|after) final norm", case.config["feature"])
    assert place
    return Encoder(ClassToken(vit, norm=place[1] == "after"), sizes["img_size"], sizes["embed_dim"])


def load_decoder(state: dict[str, Tensor], size: int, feature_width: int, config: dict[str, Any]) -> Decoder:
    """Load a case's decoder in training mode. Cases leave out the number of batches behind the running statistics."""
    decoder = Decoder(feature_width, geometry(size, feature_width, config["src_dim"], config.get("first_groups_value")))
    left_out = decoder.load_state_dict(state, strict=False)
    assert not left_out.unexpected_keys and all(name.endswith("num_batches_tracked") for name in left_out.missing_keys)
    return decoder


def running_statistics(decoder: Decoder) -> dict[str, Tensor]:
    """Return BatchNorm's running statistics under the names of the cases."""
    return {name: buffer for name, buffer in decoder.named_buffers() if not name.endswith("num_batches_tracked")}


def _check_rows(case: Case, prompted: Tensor, limits: dict[str, float]) -> None:
    """Compare the band of rows that the case names, all columns, of the first image."""
    name = "expected.eval.prompted_rows0"
    band = re.search(r"rows (\d+)\.\.(\d+)", case.description["tensors"][name]["meaning"])
    assert band
    first, last = map(int, band.groups())
    case.check(name, prompted[:1, :, first : last + 1], **limits)


def _check_further(case: Case, name: str, size: int, layer_by_layer: bool) -> None:
    config, limits, stride = case.config[name], case.description["tolerances"], case.config["subgrid_stride"]
    decoder = load_decoder(case.below(f"{name}.decoder."), size, config["feature_dim"], config)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == config["trainable"]
    for mode in ("eval", "train"):
        decoder.train(mode == "train")
        features = case.tensors[f"{name}.z"]
        prompts = decoder.plain(features) if layer_by_layer else decoder(features)
        case.check(f"expected.{name}.{mode}.prompt_s{stride}", prompts[..., ::stride, ::stride], **limits)
