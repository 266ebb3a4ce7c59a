"""Compare what a backbone answers to a fixed picture, under the hash of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from petlbench.backbones.backbone import Backbone
from petlbench.errors import CheckpointError
from petlbench.nn.deltas import QuickGELU
from petlbench.runs.execute import execute
from petlbench.testing.mocks import tiny_backbone
from tests.near import assert_near
from tests.words import resolve


def test_it_is_three_logits_and_the_same_each_time() -> None:
    found = tiny_backbone().self_check
    assert len(found) == 3 and len(set(found)) == 3
    assert found == tiny_backbone().self_check


def test_without_texts_it_is_the_embedding_of_the_picture() -> None:
    found = tiny_backbone(with_text=False).self_check
    assert len(found) == 8
    assert_near(
        torch.tensor(found).square().sum(), torch.tensor(1.0), 1e-5, "eight values of a unit vector of eight, written with six digits"
    )


@pytest.mark.parametrize("change", ["activation", "normalisation", "weights"])
def test_it_tells_a_changed_model(change: str) -> None:
    backbone, before = tiny_backbone(), torch.tensor(tiny_backbone().self_check)
    if change == "activation":
        for block in backbone.vit.blocks:  # type: ignore[union-attr]
            block.mlp.act = QuickGELU()  # type: ignore[union-attr]
            nn.init.normal_(block.mlp.fc1.weight, std=0.3)  # type: ignore[union-attr, arg-type]
        assert (tiny_backbone().activation, backbone.activation) == ("GELU", "QuickGELU")
    elif change == "normalisation":
        backbone = Backbone(
            type(backbone.card)("tiny", 16, (0.4, 0.4, 0.4), (0.3, 0.3, 0.3), source=""),
            backbone.vit,
            backbone.projection,
            backbone.text,
            10.0,
        )
    else:
        backbone = tiny_backbone(seed=1)
    assert float((torch.tensor(backbone.self_check) - before).abs().max()) > 0.01 * float(before.abs().max())


def test_weights_that_are_not_finite_are_refused() -> None:
    backbone = tiny_backbone()
    backbone.vit.norm.weight.data[0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(CheckpointError, match="tiny: the weights of random give answers that are not finite"):
        _ = backbone.self_check


def test_a_record_says_how_its_backbone_was_used(tmp_path: Path) -> None:
    short = ["protocol.shots=1", "train.epochs=1", "train.warmup_epochs=0", "threads=1"]
    record, _ = execute(resolve(["method=linear", "task=mini/digits", f"out={tmp_path}", *short]))
    used = record.backbone
    assert (used.activation, used.mean, used.std, len(used.self_check)) == ("GELU", [0.5] * 3, [0.5] * 3, 8)
