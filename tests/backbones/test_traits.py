"""Know a backbone's traits before its weights are loaded; a plan, a run and a learner refuse the same combinations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from click.testing import CliRunner
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer

from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone, load_backbone, traits_without_loading
from petlbench.backbones.traits import Traits, reason_against
from petlbench.cli import cli
from petlbench.config.resolve import load_method
from petlbench.errors import AccessError, CheckpointError
from petlbench.method import METHODS
from petlbench.runs.execute import execute
from petlbench.runs.plan import Plan
from petlbench.testing.mocks import tiny_backbone
from tests.words import plan, resolve

ASK_SCORES_OF_TEXTS = {"bar", "blackvip", "craft", "zero_shot"}
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def vision_weights(folder: Path, classes: int, architecture: str = "test_vit") -> str:
    path = folder / "weights.pth"
    torch.save(timm.create_model(architecture, pretrained=False, num_classes=classes).state_dict(), path)
    return str(path)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything loads a backbone."""

    def load(*_: object) -> None:
        raise AssertionError("a backbone was loaded")

    monkeypatch.setattr("petlbench.backbones.backbone.load_backbone", load)


@pytest.mark.parametrize(("architecture", "classes"), [("test_vit", 7), ("test_vit", 0), ("test_vit2", 7)])
def test_timm_tells_traits_without_loading(tmp_path: Path, architecture: str, classes: int) -> None:
    choice = (f"timm:{architecture}", vision_weights(tmp_path, classes, architecture))
    assert traits_without_loading(*choice) == load_backbone(*choice).traits


def test_methods_that_change_blocks_are_refused_on_blocks_with_their_parts_side_by_side() -> None:
    card = tiny_backbone().card
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=0, block_fn=ParallelThingsBlock)
    config = resolve(["method=lora", "task=folder:none"])
    reason = reason_against(load_method("lora")[0](config.method_config), Backbone(card, vit).traits, config.access)
    assert (
        reason == "needs access WEIGHTS; the image tower of tiny is not a timm VisionTransformer with plain blocks and can only be queried"
    )


def test_the_embedded_model_tells_traits_without_loading() -> None:
    assert traits_without_loading("mini_clip") == load_backbone("mini_clip").traits


@pytest.fixture
def architecture(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A kind of image tower among open_clip's architectures."""
    before = open_clip.factory._MODEL_CONFIGS.copy()
    path = tmp_path / f"tiny-{request.param[0]}.json"
    path.write_text(json.dumps(TINY | {"vision_cfg": TINY["vision_cfg"] | request.param[1]}))
    open_clip.add_model_config(path)
    yield path.stem
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


KINDS = [
    ("vit", {}),
    ("resnet", {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None}),
    ("attention-pooling", {"attentional_pool": True}),
    ("average-pooling", {"pool_type": "avg"}),
    ("timm", {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}),
]


@pytest.mark.parametrize("architecture", KINDS, indirect=True, ids=[name for name, _ in KINDS])
def test_open_clip_tells_traits_without_loading(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(open_clip.create_model(architecture, pretrained=None).state_dict(), path)
    choice = (f"open_clip:{architecture}", str(path))
    assert traits_without_loading(*choice) == load_backbone(*choice).traits


def methods_of(planned: Plan) -> set[str]:
    return {run.config.method for run in planned.runs}


def test_all_methods_on_a_vision_model_are_those_that_need_no_texts(tmp_path: Path, unloadable: None) -> None:
    words = [f"backbone.checkpoint={vision_weights(tmp_path, classes=0)}", "backbone=timm:test_vit", f"out={tmp_path}"]
    planned = plan(["method=all", "task=mini/digits", *words])
    refused = ASK_SCORES_OF_TEXTS | {"vp", "vp_spsa"}
    assert methods_of(planned) == set(METHODS.names()) - refused
    (sentence,) = planned.sentences()
    assert sentence.startswith("skipped: backbone lacks the required access: bar, blackvip, craft, vp, vp_spsa, zero_shot (")
    assert "timm:test_vit has no text tower" in sentence


def test_a_method_is_skipped_on_the_tasks_that_have_more_classes_than_the_model(tmp_path: Path, unloadable: None) -> None:
    words = [f"backbone.checkpoint={vision_weights(tmp_path, classes=9)}", "backbone=timm:test_vit", f"out={tmp_path}"]
    planned = plan(["method=all", "task=mini/digits,mini/count", *words])  # 10 and 8 classes
    assert {run.config.task for run in planned.runs if run.config.method == "vp"} == {"mini/count"}
    assert any("vp on mini/digits, vp_spsa on mini/digits" in sentence for sentence in planned.sentences())


def test_all_methods_on_a_clip_with_a_resnet_are_those_that_only_ask(tmp_path: Path, unloadable: None) -> None:
    planned = plan(["method=all", "task=mini/digits", "backbone=open_clip:RN50/openai", f"out={tmp_path}"])
    assert methods_of(planned) == ASK_SCORES_OF_TEXTS | {"linear", "vp", "vp_spsa"}
    reasons = {method: reason for reason, methods in planned.skipped.items() for method in methods}
    assert "is not a timm VisionTransformer with plain blocks" in reasons["lora"] and "does not take" in reasons["pgn"]


def test_a_bench_says_what_it_skips(tmp_path: Path) -> None:
    words = ["method=all", "task=mini/digits", "backbone=open_clip:RN50/openai", f"out={tmp_path}"]
    shown = CliRunner().invoke(cli, ["plan", *words], catch_exceptions=False)
    assert shown.exit_code == 0 and "skipped: backbone lacks the required access: adapter" in shown.output
    told = json.loads(CliRunner().invoke(cli, ["plan", *words, "--json"], catch_exceptions=False).stdout)
    assert any("pgn" in methods for methods in told["skipped"].values())


def test_a_method_that_is_named_is_refused_by_plan_and_run_before_anything_is_loaded_or_recorded(tmp_path: Path, unloadable: None) -> None:
    results = tmp_path / "results"
    words = ["method=zero_shot", "task=mini/digits", "backbone=timm:test_vit", f"out={results}"]
    message = "method zero_shot needs class scores, but timm:test_vit has no text tower"
    with pytest.raises(AccessError, match=message):
        plan([*words, f"backbone.checkpoint={vision_weights(tmp_path, 0)}"])
    with pytest.raises(AccessError, match=message):
        execute(resolve([*words, f"backbone.checkpoint={vision_weights(tmp_path, 0)}"]))
    assert not results.exists()


def test_a_missing_checkpoint_is_named_before_anything_is_recorded(tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["task=mini/digits", "backbone=timm:test_vit", f"backbone.checkpoint={tmp_path / 'absent.pth'}", f"out={results}"]
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        plan(["method=all", *words])
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        execute(resolve(["method=lora", *words]))
    assert not results.exists()


def test_a_plan_asks_a_server_once_what_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Asked:
        def __init__(self, url: str) -> None:
            asked.append(url)
            self.traits = Traits("remote:tiny@00000000", Access.FEATURES, has_text=False, takes_tokens=False)

        def __enter__(self) -> Asked:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("petlbench.runs.checks.RemoteBackbone", Asked)
    words = ["task=mini/digits,mini/location", "backbone=remote", "url=http://127.0.0.1:1", f"out={tmp_path}"]
    planned = plan(["method=all", *words])
    assert methods_of(planned) == {"linear"} and asked == ["http://127.0.0.1:1"]
    assert {run.config.backbone.name for run in planned.runs} == {"remote:tiny@00000000"}
