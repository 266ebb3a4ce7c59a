"""Deploy learned tokens as pixels: the artifact, both ways of querying with it, and which artifacts are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from petlbench.backbones.backbone import Backbone
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.evaluate import evaluate_checkpoint
from petlbench.checkpoints.file import Checkpoint
from petlbench.checkpoints.pixels import evaluate_artifact, export_artifact
from petlbench.checkpoints.pixels_file import Artifact, read_artifact
from petlbench.config.resolve import RunConfig
from petlbench.data.load import Task
from petlbench.errors import CheckpointError
from petlbench.learners.setting import open_task
from petlbench.nn.inversion import invert
from petlbench.remote.server.settings import ServeConfig
from tests.deployed import CPU, SIZES, learned
from tests.near import assert_near
from tests.remote.processes import serving

ALIKE = (1e-4, "pixels are the solution of least squares, and are written in float32")


@pytest.fixture(scope="module")
def saved() -> Checkpoint:
    return learned(*SIZES, scale=30.0)


@pytest.fixture(scope="module")
def folder(saved: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deployed") / "artifact"
    export_artifact(saved, path)
    return path


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return evaluate_artifact(read_artifact(folder), {"threads": 1})


@pytest.fixture
def url() -> Iterator[str]:
    with serving(mini_clip(), ServeConfig(port=0, threads=1, output="label")) as (address, _):
        yield address


def mini_clip() -> Backbone:
    return load_backbone_cached("mini_clip", None, CPU)[0]


def test_an_artifact_says_what_it_needs_and_holds_the_library_as_pixels(saved: Checkpoint, folder: Path) -> None:
    artifact, backbone = read_artifact(folder), mini_clip()
    about = artifact.about
    assert (about.prompts, about.library_size, about.token_width, about.input_size, about.patch_size) == (3, 5, 128, 32, 8)
    assert (about.backbone, about.backbone_sha256, about.reads, about.is_exact) == ("mini_clip", backbone.checksum(), "scores", True)
    assert (about.class_names[3], about.captions[3]) == ("3", ("a photo of the number 3.",))
    assert (about.mean, about.std) == (backbone.card.mean, backbone.card.std)
    assert about.largest_residual < 1e-6
    assert 0 < about.raw_values_outside < 1
    with torch.no_grad():
        tokens = backbone.embed_patches(artifact.patches[None])[0]
    assert_near(tokens, saved.state["prompter.tokens.vectors"], *ALIKE)
    assert artifact.learned.keys() == saved.state.keys()
    assert all(torch.equal(tensor, saved.state[name]) for name, tensor in artifact.learned.items())


def test_pixels_do_what_tokens_do(saved: Checkpoint, result: dict[str, Any]) -> None:
    accuracy = result["accuracy"]
    assert accuracy["latent"] == evaluate_checkpoint(saved, {"threads": 1})["accuracy"]
    assert accuracy["pixels"] == pytest.approx(accuracy["latent"], abs=0.21)  # one image of 500 may tip over
    assert result["difference"] == accuracy["pixels"] - accuracy["latent"]
    assert 0 < result["largest_token_error"] < 1e-4


def test_what_a_picture_cannot_hold_costs_tokens(result: dict[str, Any]) -> None:
    lost = result["relative_token_error"]
    assert lost["pixels"] < 1e-5
    assert 0.05 < lost["clipped"] < 1
    assert lost["rounded"] != lost["clipped"] and lost["rounded"] == pytest.approx(lost["clipped"], rel=0.2)
    assert 0 < result["raw_values_outside"] < 1


def test_pixels_alone_give_the_same_through_a_server(folder: Path, result: dict[str, Any], url: str) -> None:
    found = evaluate_artifact(read_artifact(folder), {"threads": 1, "backbone": "remote", "url": url})
    assert "latent" not in found["accuracy"] and "difference" not in found and "largest_token_error" not in found
    assert found["accuracy"] == {way: percent for way, percent in result["accuracy"].items() if way != "latent"}
    assert found["backbone"].startswith("remote:mini_clip@")
    assert found["raw_values_outside"] == result["raw_values_outside"]


def test_the_same_prompts_for_all_images_are_deployed_one_by_one(tmp_path: Path) -> None:
    saved = learned("method.prompt_mode=iip", "method.prompts=4")
    about = export_artifact(saved, tmp_path / "artifact")
    assert (about.prompts, about.library_size) == (4, 4)
    embedding = mini_clip().vit.patch_embed.proj  # type: ignore[union-attr]
    expected = invert(embedding.weight, embedding.bias, saved.state["prompter.vectors"]).patches  # type: ignore[union-attr, arg-type]
    assert_near(read_artifact(tmp_path / "artifact").patches, expected)


def test_a_head_of_ones_own_reads_features(tmp_path: Path) -> None:
    about = export_artifact(learned(*SIZES, "method.head=linear"), tmp_path / "artifact")
    assert (about.reads, about.captions) == ("features", ())
    found = evaluate_artifact(read_artifact(tmp_path / "artifact"), {"threads": 1})
    assert found["accuracy"]["pixels"] == pytest.approx(found["accuracy"]["latent"], abs=0.21)


def test_weights_that_do_not_sum_to_one_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"method pgn mixes tokens with weights that sum to .* and not to one"):
        export_artifact(learned(*SIZES, "method.mixing=sigmoid"), tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_a_tower_that_takes_no_patches_is_refused(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.backbones.backbone.patch_size", lambda vit: None)
    with pytest.raises(CheckpointError, match="mini_clip takes no extra patches"):
        export_artifact(saved, tmp_path / "artifact")


def test_a_method_that_puts_nothing_beside_images_has_nothing_to_deploy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="method zero_shot has no learned tokens to export as pixels"):
        export_artifact(learned(method="zero_shot"), tmp_path / "artifact")


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(saved: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text("kept")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is a file; expected a directory"):
        export_artifact(saved, path)
    assert path.read_text() == "kept"


def test_classes_that_a_task_does_not_score_cannot_win(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[np.ndarray] = []

    def scored(config: RunConfig, backbone: Backbone) -> Task:
        task = open_task(config, backbone)
        labels.append(np.asarray(task.test.labels))
        return replace(task, spec=replace(task.spec, scored=(3,)))

    monkeypatch.setattr("petlbench.checkpoints.pixels.open_task", scored)
    accuracy = evaluate_artifact(read_artifact(folder), {"threads": 1})["accuracy"]
    assert list(accuracy.values()) == pytest.approx([100 * (labels[0] == 3).mean()] * 4)  # every image is classified as a 3


def test_other_weights_and_other_classes_are_refused(folder: Path, url: str) -> None:
    artifact = read_artifact(folder)
    other = Artifact(artifact.about.model_copy(update={"backbone_sha256": "0" * 64}), artifact.learned, artifact.patches)
    with pytest.raises(CheckpointError, match="was trained on mini_clip with weights 000000000000…, the backbone now has"):
        evaluate_artifact(other, {})
    with pytest.raises(CheckpointError, match=r"was trained on remote:mini_clip@.* with weights 000000000000…, the backbone now has"):
        evaluate_artifact(other, {"backbone": "remote", "url": url})
    with pytest.raises(CheckpointError, match=r"the artifact is for the classes 0, 1, .* mini/textures has others"):
        evaluate_artifact(artifact, {"task": "mini/textures"})


def _cut(folder: Path) -> None:
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def _drop_patches(folder: Path) -> None:
    """Delete the patches and update the checksum, as someone might by hand."""
    tensors = load_file(folder / "tensors.safetensors")
    del tensors["patches"]
    save_file(tensors, folder / "tensors.safetensors")

    digest = hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest()
    _change(tensors_sha256=digest)(folder)


def _fill_with_nan(folder: Path) -> None:
    tensors = load_file(folder / "tensors.safetensors")
    tensors["patches"].fill_(float("nan"))
    save_file(tensors, folder / "tensors.safetensors")
    _change(tensors_sha256=hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest())(folder)


def _change(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "artifact.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_cut, "not the file that artifact.json describes; export again"),
        (_drop_patches, "not a whole artifact .*patches.*; export again"),
        (_change(format="petlbench-pixels-9"), r"artifact.json: format: Input should be 'petlbench-pixels-1'"),
        (_change(captions=[]), r"artifact.json: the file: .*captions must hold some for every one of class_names"),
        (_change(library_size=6), r"patches have shape \(5, 3, 8, 8\), artifact.json says \(6, 3, 8, 8\); export again"),
        (_fill_with_nan, "tensors.safetensors: patches holds values that are not finite"),
        (_change(std=[0.0, 1.0, 1.0]), r"artifact.json: std.0: Input should be greater than 0"),
        (_change(mean=[float("nan"), 0.0, 0.0]), r"artifact.json: mean.0: Input should be a finite number"),
        (_change(config=[1]), r"artifact.json: config: Input should be an object"),
        (_change(colour="red"), r"artifact.json: colour: Extra inputs are not permitted"),
        (lambda folder: (folder / "artifact.json").write_text("{"), "artifact.json: the file: Invalid JSON"),
        (lambda folder: (folder / "tensors.safetensors").unlink(), "no artifact .*tensors.safetensors.*petlbench export CHECKPOINT"),
    ],
)
def test_a_folder_that_is_no_artifact_is_named(damage: Callable[[Path], None], expected: str, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=expected):
        read_artifact(tmp_path)
