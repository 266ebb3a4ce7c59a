"""Convert the image tower of open_clip models to timm's class, with the same outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from petlbench.access.endpoint import ClassTexts, Output
from petlbench.access.meter import Meter
from petlbench.backbones.backbone import load_backbone
from petlbench.backbones.families.open_clip import convert
from petlbench.config.resolve import load_method
from petlbench.errors import AccessError, CheckpointError, ConfigError
from petlbench.learners import open_learner
from petlbench.nn.deltas import QuickGELU
from petlbench.testing.mocks import mock_task
from tests.near import assert_near
from tests.words import resolve

CPU = torch.device("cpu")
CAPTIONS = ["a photo of a cat.", "a photo of a dog.", "stripes"]
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """An architecture that open_clip builds in milliseconds, added to its list."""
    before = open_clip.factory._MODEL_CONFIGS.copy()
    path = tmp_path / "tiny-vit.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    yield "tiny-vit"
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


def built(architecture: str, **options: Any) -> Any:
    """Random weights, disturbed where the initial values (ones, zeros) would hide a mistake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(architecture, pretrained=None, **options).eval()
        with torch.no_grad():
            for name, parameter in model.visual.named_parameters():
                if parameter.ndim < 2 or "positional" in name or name == "proj":
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def answers(model: Any, images: torch.Tensor) -> torch.Tensor:
    """open_clip's own logits (B, T)."""
    tokens = open_clip.get_tokenizer("ViT-B-16")(CAPTIONS)
    with torch.no_grad():
        return model.get_logits(images, tokens)[0]


def assert_same_answers(architecture: str, activation: type, **options: Any) -> None:
    model = built(architecture, **options)
    images = torch.randn(2, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(1))
    expected = answers(model, images)
    backbone = convert(model, "open_clip:test", "ViT-B-16", source="test")
    with torch.no_grad():
        found = backbone.logit_scale * backbone.embed_images(images) @ backbone.embed_classes([[caption] for caption in CAPTIONS]).T
    assert isinstance(backbone.vit, VisionTransformer)
    assert isinstance(backbone.vit.blocks[0].mlp.act, activation)
    assert (expected - expected.mean()).abs().max() > 0.01, "the answers are all the same: nothing was compared"
    assert_near(found, expected)


@pytest.mark.parametrize(("architecture", "activation"), [("ViT-B-16", torch.nn.GELU), ("ViT-B-32-quickgelu", QuickGELU)])
def test_the_converted_tower_of_a_real_architecture_gives_open_clips_logits(architecture: str, activation: type) -> None:
    """Its widths and patches; of its equal layers two, and one of the text tower, which is not converted, save time."""
    config = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"] | {"layers": 2}, config["text_cfg"] | {"layers": 1}
    assert_same_answers(architecture, activation, vision_cfg=vision, text_cfg=text)


@pytest.mark.parametrize(("quick", "activation"), [(False, torch.nn.GELU), (True, QuickGELU)])
def test_the_activation_follows_the_model(tiny: str, quick: bool, activation: type) -> None:
    assert_same_answers(tiny, activation, force_quick_gelu=quick)


def test_a_wrong_activation_would_be_noticed(tiny: str) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert (answers(built(tiny), images) - answers(built(tiny, force_quick_gelu=True), images)).abs().max() > 1e-3


def test_the_card_has_the_models_size_and_constants(tiny: str) -> None:
    card = convert(built(tiny), "open_clip:test", "ViT-B-16", source="test").card
    assert (card.input_size, card.mean) == (32, open_clip.OPENAI_DATASET_MEAN)


@pytest.mark.parametrize("kind", ["resnet", "attention pooling", "average pooling"])
def test_a_tower_of_another_kind_answers_as_before_and_can_only_be_asked(tiny: str, kind: str) -> None:
    if kind == "resnet":
        vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    else:
        vision = TINY["vision_cfg"] | ({"attentional_pool": True} if kind == "attention pooling" else {"pool_type": "avg"})  # type: ignore[operator]
    model, images = built(tiny, vision_cfg=vision), torch.randn(2, 3, 32, 32)
    expected = answers(model, images)
    backbone = convert(model, "open_clip:test", tiny, source="test")
    endpoint, texts = backbone.endpoint(CPU), ClassTexts(tuple((caption,) for caption in CAPTIONS))
    endpoint.describe(texts)
    assert_near(endpoint.scores([images], texts, Output.LOGITS, 1)[0], expected)
    assert endpoint.features([images])[0].shape == (2, backbone.feature_width)
    lora = load_method("lora")[0](resolve(["method=lora", "task=mini/digits"]).method_config)
    refused = open_learner(lora, backbone, mock_task().spec, CPU, "fp32", Meter())
    with (
        pytest.raises(
            AccessError, match="method lora needs access WEIGHTS; the image tower of open_clip:test is not a timm VisionTransformer"
        ),
        refused,
    ):
        pass


def test_a_local_checkpoint_is_loaded(tiny: str, tmp_path: Path) -> None:
    model = built(tiny)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = load_backbone("open_clip:tiny-vit", str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_near(backbone.embed_images(images), model.encode_image(images, normalize=True))


HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def tags(tiny: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Weights of the tiny architecture that open_clip knows: their normalisation, and whether they were trained with the quick GELU."""
    found = {
        "halves": {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"},
        "quick": {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "quick_gelu": True},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, tiny, found)
    return found


@pytest.mark.parametrize(("tag", "activation"), [("halves", "GELU"), ("quick", "QuickGELU")])
def test_the_tag_decides_how_a_local_file_is_used(
    tiny: str, tags: dict[str, dict[str, Any]], tmp_path: Path, tag: str, activation: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = built(tiny, force_quick_gelu=tag == "quick")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    caplog.clear()
    backbone, images = load_backbone(f"open_clip:{tiny}/{tag}", str(tmp_path / "weights.pth")), torch.randn(2, 3, 32, 32)
    assert (backbone.card.mean, backbone.card.std, backbone.activation) == (tags[tag]["mean"], tags[tag]["std"], activation)
    assert not caplog.messages  # such as that no pretrained weights were loaded
    tokens = open_clip.get_tokenizer("ViT-B-16")(CAPTIONS)
    with torch.no_grad():
        assert_near(backbone.embed_images(images), model.encode_image(images, normalize=True))
        assert_near(backbone.embed_classes([[caption] for caption in CAPTIONS]), model.encode_text(tokens, normalize=True))


def test_a_local_file_under_an_unknown_tag_is_refused(tiny: str, tags: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="open_clip:tiny-vit has the weights halves, quick; name one as open_clip:tiny-vit/TAG, got 'qick'"
    ):
        load_backbone(f"open_clip:{tiny}/qick", str(tmp_path / "weights.pth"))


def test_a_local_file_without_a_tag_is_said_to_get_the_architectures_defaults(
    tiny: str, tags: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    torch.save(built(tiny).state_dict(), tmp_path / "weights.pth")
    with pytest.warns(
        UserWarning, match=r"the architecture's defaults: mean \(0\.48145466, .*, no quick GELU; .* one of halves, quick, name it"
    ):
        backbone = load_backbone(f"open_clip:{tiny}", str(tmp_path / "weights.pth"))
    assert (backbone.card.mean, backbone.activation) == (open_clip.OPENAI_DATASET_MEAN, "GELU")


def test_every_tag_of_open_clip_says_how_its_images_are_normalised() -> None:
    for architecture, tag in open_clip.list_pretrained():
        known = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
        assert len(known["mean"]) == len(known["std"]) == 3, f"{architecture}/{tag}"


def test_layer_scale_is_converted_too(tiny: str) -> None:
    assert_same_answers(tiny, torch.nn.GELU, vision_cfg=TINY["vision_cfg"] | {"ls_init_value": 0.3})  # type: ignore[operator]


def test_a_tokenizer_that_cannot_be_fetched_stops_those_who_ask_for_texts_only(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any) -> None:
        raise OSError("no connection\nread the manual")

    torch.save(built(tiny).state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(open_clip, "get_tokenizer", absent)
    backbone = load_backbone(f"open_clip:{tiny}", str(tmp_path / "weights.pth"))
    assert len(backbone.self_check) == 8  # values of the picture's embedding
    with pytest.raises(
        CheckpointError, match=r"the tokenizer of open_clip:tiny-vit could not be fetched \(no connection\); methods that"
    ) as caught:
        backbone.embed_classes([["a cat"]])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("visual.proj"), r"weights\.pth: lacks visual\.proj"),
        (lambda state: state.update(extra=torch.zeros(1)), r"weights\.pth: has unexpected extra"),
        (lambda state: state.update({"visual.proj": torch.zeros(3)}), r"weights\.pth: .*visual\.proj"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tiny: str, tmp_path: Path, change: Any, expected: str) -> None:
    state = built(tiny).state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_backbone("open_clip:tiny-vit", str(tmp_path / "weights.pth"))
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"open_clip has no model 'ViT-B-61'\. Did you mean 'ViT-B-16'\?"):
        load_backbone("open_clip:ViT-B-61/openai")


def test_an_unknown_tag_lists_those_that_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"open_clip:ViT-B-16 has the weights openai, .*; name one as open_clip:ViT-B-16/TAG, got 'opanai'"
    ):
        load_backbone("open_clip:ViT-B-16/opanai")


def test_a_model_of_a_hub_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(
        ConfigError, match=r"open_clip:hf-hub:org/clip: models of a hub or a folder are not read; give the architecture and the file"
    ):
        load_backbone("open_clip:hf-hub:org/clip")
