"""Helpers of the CraFT cases: a tiny CLIP as a backbone, a handle on it, and tolerances by prefix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP, convert_to_custom_text_state_dict
from torch import Tensor

from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.families.open_clip import convert
from petlbench.config.settings import QueryConfig
from petlbench.methods.craft.refinement import Refinement
from tests.golden.case import Case

CPU = torch.device("cpu")
KINDS: tuple[type[CLIP | CustomTextCLIP], ...] = (CLIP, CustomTextCLIP)  # where open_clip keeps the text tower's parts


def backbone(case: Case, kind: type[CLIP | CustomTextCLIP] = CLIP) -> Backbone:
    """The case's CLIP, with the constant scale of the released code."""
    sizes = case.config["clip"]
    vision, text = dict(sizes["vision"]), sizes["text"]
    vision["head_width"] = vision["width"] // vision.pop("heads")
    model = kind(sizes["embed_dim"], CLIPVisionCfg(**vision), CLIPTextCfg(**text), quick_gelu=sizes["quick_gelu"])
    weights = case.below("clip.")
    words = torch.zeros(text["vocab_size"], text["width"])
    words[weights.pop("token_embedding.used_ids")] = weights.pop("token_embedding.used_rows")
    weights["token_embedding.weight"] = words
    model.load_state_dict(convert_to_custom_text_state_dict(weights) if kind is CustomTextCLIP else weights)
    model.visual.image_mean = model.visual.image_std = (0.5, 0.5, 0.5)  # the card's values are unused: the case's images are normalised
    converted = convert(model, "open_clip:golden", "ViT-B-32", source="golden case")
    converted.logit_scale = case.config["logit_scale"]
    return converted


@contextmanager
def granted(case: Case, kind: type[CLIP | CustomTextCLIP] = CLIP) -> Iterator[QueryModel]:
    """A handle at CONTEXT on the case's CLIP and its prompts."""
    texts = ClassTexts(tuple((prompt,) for prompt in case.config["prompts"]), case.config["context_init"])
    names = tuple(case.config["class_names"])
    with grant(Access.CONTEXT, backbone(case, kind).endpoint(CPU), names, texts, Meter(), QueryConfig()) as model:
        yield model


def network(case: Case, class_count: int) -> Refinement:
    """The refinement network with the case's initial weights."""
    net = Refinement(class_count, case.config["hidden"])
    net.load_state_dict(case.below("net.") | {"has_learned": torch.tensor(False)})
    return net


def compare(case: Case, name: str, value: Any) -> None:
    """Check against the expected tensor under the limits of the longest prefix that fits its name."""
    limits = case.description["tolerance_map"]
    prefix = max((prefix for prefix in limits if name.startswith(prefix)), key=len)
    value = value if isinstance(value, Tensor) else torch.tensor(value)
    case.check(f"expected.{name}", value.detach(), **limits[prefix])
