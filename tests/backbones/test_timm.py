"""Any vision transformer of timm, by name and local file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled

from petlbench.backbones.backbone import load_backbone, traits_without_loading
from petlbench.errors import CheckpointError, ConfigError
from tests.near import assert_near

NAME = "test_vit"  # timm's own test model: 160 pixels, 6 blocks of width 64
MODEL = f"timm:{NAME}"


def write_weights(path: Path, classes: int = 7) -> timm.models.VisionTransformer:
    torch.manual_seed(0)
    model = timm.create_model(NAME, pretrained=False, num_classes=classes)
    torch.save(model.state_dict(), path)
    return model.eval()


def test_weights_of_a_local_file_give_that_models_features(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "weights.pth")
    backbone = load_backbone(MODEL, str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, backbone.card.input_size, backbone.card.input_size)
    with torch.no_grad():
        expected = source.forward_head(source.forward_features(images), pre_logits=True)
        assert_near(backbone.vit(images), expected)
    assert backbone.feature_width == expected.shape[1]


def test_the_card_has_timms_size_and_constants_and_the_files_path(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.pth")
    card = load_backbone(MODEL, str(tmp_path / "weights.pth")).card
    settings = timm.data.resolve_model_data_config(timm.create_model(NAME))
    assert (card.name, card.input_size, card.mean, card.std) == (MODEL, settings["input_size"][1], settings["mean"], settings["std"])
    assert card.source == str(tmp_path / "weights.pth")


def test_a_supervised_backbone_has_no_text_tower(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.pth")
    backbone = load_backbone(MODEL, str(tmp_path / "weights.pth"))
    assert backbone.text is None and backbone.projection is None


def test_the_classifier_of_the_weights_is_kept_beside_the_tower(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "weights.pth")
    backbone = load_backbone(MODEL, str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, backbone.card.input_size, backbone.card.input_size)
    assert backbone.classifier is not None and not any("head" in name for name in backbone.vit.state_dict())
    with torch.no_grad():
        assert_near(backbone.classifier(backbone.vit(images)), source(images))


def test_weights_without_a_classifier_have_none(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.pth", classes=0)
    assert load_backbone(MODEL, str(tmp_path / "weights.pth")).classifier is None


@pytest.fixture
def distilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> timm.models.VisionTransformer:
    """A distilled DeiT that timm builds in milliseconds under the name of a large one, with different tokens and classifiers; its file is weights.pth."""
    torch.manual_seed(0)
    model = VisionTransformerDistilled(img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=7).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.pretrained_cfg = timm.create_model(NAME).pretrained_cfg
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: copy.deepcopy(model))
    return model


def test_a_distilled_deit_gives_the_mean_of_its_two_tokens_as_in_timm(distilled: timm.models.VisionTransformer, tmp_path: Path) -> None:
    choice = ("timm:deit_tiny_distilled_patch16_224", str(tmp_path / "weights.pth"))
    backbone, images = load_backbone(*choice), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_near(backbone.vit(images), distilled.forward_head(distilled.forward_features(images), pre_logits=True))
    assert backbone.classifier is None  # it has two, each of one token
    assert backbone.traits == traits_without_loading(*choice)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit2").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: lacks cls_token, norm\.bias, norm\.weight"):
        load_backbone(MODEL, str(tmp_path / "weights.pth"))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        load_backbone(MODEL, str(tmp_path / "absent.pth"))


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"timm has no model 'vit_base_patch16_225'\. Did you mean 'vit_base_patch16_224"):
        load_backbone("timm:vit_base_patch16_225")


def test_a_model_that_is_no_plain_vit_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"timm:test_resnet is a ResNet, not a plain VisionTransformer"):
        load_backbone("timm:test_resnet", str(tmp_path / "weights.pth"))


def test_weights_that_cannot_be_fetched_are_one_line_with_the_way_out() -> None:
    with pytest.raises(CheckpointError, match=r"could not be fetched .*; give a local file with backbone\.checkpoint=PATH") as caught:
        load_backbone("timm:test_vit.r160_in1k")
    assert "\n" not in str(caught.value)


def test_an_unknown_tag_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^timm:test_vit has the weights r160_in1k; name one as timm:test_vit\.TAG, got 'r160'$"):
        load_backbone("timm:test_vit.r160", "weights.pth")
