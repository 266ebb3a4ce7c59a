"""The frozen encoder: what its feature is, and that it stays apart from the method and from the queried model."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from petlbench.backbones.backbone import load_backbone
from petlbench.errors import CheckpointError, ConfigError
from petlbench.methods.blackvip import BlackVIP, BlackVIPConfig
from petlbench.methods.blackvip.encoder import Encoder, load_encoder
from tests.near import assert_near


@pytest.fixture(autouse=True)
def _fresh() -> None:
    load_encoder.cache_clear()


def test_the_feature_is_the_class_token_before_the_final_norm_or_behind_it() -> None:
    images = torch.randn(3, 3, 32, 32)
    before, behind = (load_encoder("mini_clip", None, norm)(images) for norm in (False, True))
    vit = load_backbone("mini_clip").vit
    assert_near(behind, vit(images))
    assert_near(vit.norm(before), behind)
    assert not torch.allclose(before, behind)


def test_an_image_of_another_size_is_resized_for_the_encoder() -> None:
    images = torch.randn(2, 3, 16, 16)
    encoder = load_encoder("mini_clip", None, False)
    expected = encoder(F.interpolate(images, (32, 32), mode="bicubic", antialias=True))
    assert_near(encoder(images), expected)


def test_a_process_holds_one_copy_whose_tensors_are_its_own() -> None:
    encoder = load_encoder("mini_clip", None, False)
    assert load_encoder("mini_clip", None, False) is encoder
    queried = {parameter.data_ptr() for parameter in load_backbone("mini_clip").vit.parameters()}
    assert not queried & {parameter.data_ptr() for parameter in encoder._tower.parameters()}


def test_loading_draws_no_random_numbers() -> None:
    """Otherwise the second run of a process would start from other weights than the first."""
    before = torch.get_rng_state()
    load_encoder("mini_clip", None, False)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_method_that_holds_it_neither_lists_nor_switches_it() -> None:
    method = BlackVIP(BlackVIPConfig())
    tower = nn.BatchNorm1d(2)
    method.encoder = Encoder(tower, 32, 2)
    method.train()
    assert not tower.training and not list(method.parameters()) and not method.state_dict()


def test_dino_resnet50_reads_a_local_file_and_has_2048_features(tmp_path: Path) -> None:
    resnet = timm.create_model("resnet50", num_classes=0).eval()
    torch.save(resnet.state_dict(), tmp_path / "dino_resnet50_pretrain.pth")
    encoder = load_encoder("dino_resnet50", str(tmp_path / "dino_resnet50_pretrain.pth"), False)
    images = torch.randn(1, 3, 224, 224)
    features = encoder(images)
    assert (encoder.feature_width, encoder.first_layer_groups, features.shape) == (2048, 32, (1, 2048))
    with torch.no_grad():
        assert_near(features, resnet.forward_features(images).mean(dim=(2, 3)))


def test_dino_resnet50_without_a_file_says_where_it_is_given() -> None:
    with pytest.raises(ConfigError, match="encoder_checkpoint=PATH"):
        load_encoder("dino_resnet50", None, False)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not weights of a ResNet-50"):
        load_encoder("dino_resnet50", str(tmp_path / "other.pth"), False)


def test_a_missing_file_of_an_encoder_names_the_encoders_setting(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"method\.encoder=mini_clip.*method\.encoder_checkpoint=PATH"):
        load_encoder("mini_clip", str(tmp_path / "none.safetensors"), False)


def test_a_tower_without_a_class_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("mini_clip")
    backbone.vit.cls_token = None
    monkeypatch.setattr("petlbench.methods.blackvip.encoder.load_backbone", lambda name, checkpoint: backbone)
    with pytest.raises(ConfigError, match="class token"):
        load_encoder("mini_clip", None, False)
