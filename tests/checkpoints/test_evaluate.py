"""Exporting what was learned as the weights of a plain timm model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.evaluate import evaluate_checkpoint, export_merged
from petlbench.checkpoints.file import read_checkpoint
from petlbench.data.batches import Batches
from petlbench.errors import CheckpointError
from petlbench.learners.setting import open_task
from petlbench.runs.execute import execute
from tests.words import resolve

CPU = torch.device("cpu")


def checkpoint(method: str, tmp_path: Path) -> Path:
    short = ("train.epochs=1", "train.warmup_epochs=0", "threads=1", "save=true")
    record, _ = execute(resolve([f"method={method}", "task=mini/digits", f"out={tmp_path}", *short]), reraise=True)
    return tmp_path / str(record.checkpoint)


@pytest.mark.parametrize("method", ["lora", "spt", "bitfit"])
def test_a_plain_timm_model_with_the_exported_weights_predicts_what_the_run_did(method: str, tmp_path: Path) -> None:
    saved = read_checkpoint(checkpoint(method, tmp_path))
    assert saved.class_names == tuple("0123456789")
    export_merged(saved, tmp_path / "model.safetensors")
    config = resolve(["method=linear", "task=mini/digits"])
    backbone, _ = load_backbone_cached("mini_clip", None, CPU)
    plain = VisionTransformer(img_size=32, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=10).eval()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    task = open_task(config, backbone)
    test = Batches(task.test, task.transform, 256, CPU)
    with torch.inference_mode():
        predicted = torch.cat([plain(images).argmax(dim=1) for images, _ in test.in_order()])
    percent = 100.0 * float((predicted == test.labels).float().mean())
    assert percent == pytest.approx(evaluate_checkpoint(saved, {"threads": 1})["accuracy"], abs=0.21)  # one image of 500 may tip over


@pytest.mark.parametrize(
    ("method", "expected"), [("adapter", "adds blocks.0.petl"), ("vpt", "adds prompts"), ("linear", "only queries the model")]
)
def test_what_is_no_change_of_weights_is_refused(method: str, expected: str, tmp_path: Path) -> None:
    saved = read_checkpoint(checkpoint(method, tmp_path))
    with pytest.raises(CheckpointError, match=expected):
        export_merged(saved, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
