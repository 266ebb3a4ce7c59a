"""Load local weight files of three kinds: mismatches are named, and nothing is executed."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from petlbench.backbones.weights_file import load_vit
from petlbench.errors import CheckpointError
from tests.near import assert_near

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def vit(seed: int = 0, depth: int = 2, width: int = 8, classes: int = 0) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(img_size=16, patch_size=8, embed_dim=width, depth=depth, num_heads=2, num_classes=classes)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def write_safetensors(state: dict[str, Any], path: Path) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_pth(state: Any, path: Path) -> Path:
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def google_layout(model: VisionTransformer) -> dict[str, np.ndarray]:
    """The arrays of Google's JAX checkpoints: kernels are (in, out), attention is split into heads."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    width, heads = model.embed_dim, 2
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": np.zeros((width, 5), np.float32),
        "head/bias": np.zeros(5, np.float32),
    }
    for index in range(len(model.blocks)):
        ours, theirs = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        for place, name in ((0, "norm1"), (2, "norm2")):
            arrays[f"{theirs}/LayerNorm_{place}/scale"] = state[f"{ours}.{name}.weight"]
            arrays[f"{theirs}/LayerNorm_{place}/bias"] = state[f"{ours}.{name}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        thirds = zip(np.split(state[f"{ours}.attn.qkv.weight"], 3), np.split(state[f"{ours}.attn.qkv.bias"], 3), strict=True)
        for name, (weight, bias) in zip(("query", "key", "value"), thirds, strict=True):
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for place in (0, 1):
            arrays[f"{theirs}/MlpBlock_3/Dense_{place}/kernel"] = state[f"{ours}.mlp.fc{place + 1}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/Dense_{place}/bias"] = state[f"{ours}.mlp.fc{place + 1}.bias"]
    return arrays


def write_npz(model: VisionTransformer, path: Path, change: Callable[[dict[str, Any]], Any] = lambda arrays: None) -> Path:
    arrays = google_layout(model)
    change(arrays)
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def assert_loads(path: Path, source: VisionTransformer) -> None:
    target = vit(seed=1, depth=len(source.blocks))
    load_vit(target, path)
    assert_near(target(IMAGES), source.forward_head(source.forward_features(IMAGES), pre_logits=True))


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    assert_loads(write_safetensors(vit().state_dict(), tmp_path / "a"), vit())


def test_a_pytorch_file_is_loaded(tmp_path: Path) -> None:
    assert_loads(write_pth(vit().state_dict(), tmp_path / "a"), vit())


def test_googles_layout_is_loaded(tmp_path: Path) -> None:
    assert_loads(write_npz(vit(), tmp_path / "a"), vit())


def test_a_classifier_in_the_file_is_left_out(tmp_path: Path) -> None:
    source = vit(classes=7)
    assert_loads(write_pth(source.state_dict(), tmp_path / "a"), source)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "teacher", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_wrappers_and_prefixes_of_training_scripts_are_removed(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in vit().state_dict().items()}
    assert_loads(write_pth({wrapper: state, "epoch": 3}, tmp_path / "a"), vit())


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "net.",
        "model._orig_mod.",
        "module.model.backbone.",
        "_orig_mod.backbone.",
    ],
)
def test_prefixes_are_removed_in_any_order(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in vit().state_dict().items()}
    assert_loads(write_pth({"state_dict": state}, tmp_path / "a"), vit())


def prefixed(prefix: str, model: VisionTransformer) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}


OTHER, ARGUMENTS = torch.zeros(3), Namespace(lr=0.1, data="imagenet")
CHECKPOINTS: dict[str, Callable[[], Any]] = {
    "a whole training script": lambda: {
        "model": vit().state_dict(),
        "optimizer": {"state": {0: {"step": OTHER}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "args": ARGUMENTS,
    },
    "averaged weights beside others": lambda: {"model": vit(seed=5).state_dict(), "model_ema": vit().state_dict(), "args": ARGUMENTS},
    "averaged weights in a module": lambda: {"model_ema": {"module": vit().state_dict(), "decay": 0.99}},
    "nested against the usual order": lambda: {"model": {"state_dict": vit().state_dict()}},
    "a module of DeepSpeed": lambda: {"module": vit().state_dict(), "global_steps": 7},
    "Lightning": lambda: {"state_dict": prefixed("model.", vit()), "pytorch-lightning_version": "2.5", "callbacks": {}},
    "DINO": lambda: {
        "student": prefixed("module.backbone.", vit(seed=5)),
        "teacher": prefixed("backbone.", vit()) | {"head.mlp.0.weight": OTHER, "head.last_layer.weight_g": OTHER},
    },
    "DINO's student": lambda: {"student": prefixed("module.backbone.", vit()) | {"module.head.mlp.0.weight": OTHER}},
    "student and teacher in one": lambda: prefixed("student.backbone.", vit(seed=5)) | prefixed("teacher.backbone.", vit()),
    "MoCo": lambda: {
        "state_dict": prefixed("module.base_encoder.", vit())
        | {"module.base_encoder.head.0.weight": OTHER, "module.predictor.0.weight": OTHER}
        | prefixed("module.momentum_encoder.", vit(seed=5))
    },
    "MAE": lambda: {
        "model": vit().state_dict() | {"mask_token": OTHER, "decoder_pos_embed": OTHER, "decoder_blocks.0.mlp.fc1.bias": OTHER}
    },
    "a detector": lambda: {"state_dict": prefixed("backbone.", vit()) | {"neck.conv.weight": OTHER, "roi_head.fc.bias": OTHER}},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_tower_in_a_training_checkpoint_is_loaded(tmp_path: Path, kind: str) -> None:
    assert_loads(write_pth(CHECKPOINTS[kind](), tmp_path / "a"), vit())


def test_a_prefix_that_some_names_carry_is_told_with_what_is_expected(tmp_path: Path) -> None:
    state = {f"vision_model.{name}" if index else name: tensor for index, (name, tensor) in enumerate(vit().state_dict().items())}
    told = refusal(write_pth(state, tmp_path / "a"))
    assert "lacks blocks.0." in told and told.endswith("; it has names instead that begin with 'vision_model.'")


def test_a_file_of_another_library_is_told_by_its_own_names(tmp_path: Path) -> None:
    names = ("embeddings.cls_token", "encoder.layer.0.output.dense.bias", "encoder.layer.1.output.dense.bias", "layernorm.bias")
    told = refusal(write_pth(dict.fromkeys(names, OTHER), tmp_path / "a"))
    assert told.endswith("; it has names instead that begin with 'encoder.', 'embeddings.', 'layernorm.'")


def test_a_class_in_a_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    told = refusal(write_pth({"model": vit().state_dict(), "best": np.float64(81.5)}, tmp_path / "a"))
    assert "such as numpy" in told and told.endswith("save the state dict of the model alone)")


def test_a_program_of_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    told = refusal(tmp_path / "a.pt")
    assert told.endswith("torch.save(torch.jit.load(FILE).state_dict(), OTHER))")


def refusal(path: Path, model: VisionTransformer | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_vit(model or vit(), path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    state = vit().state_dict()
    del state["blocks.1.mlp.fc2.bias"], state["cls_token"]
    assert refusal(write_pth(state, tmp_path / "a")).endswith("lacks blocks.1.mlp.fc2.bias, cls_token")


def test_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = vit().state_dict() | {"decoder.weight": torch.zeros(1)}
    assert refusal(write_pth(state, tmp_path / "a")).endswith("has unexpected decoder.weight")


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    state = vit().state_dict() | {"norm.weight": torch.zeros(9)}
    assert refusal(write_pth(state, tmp_path / "a")).endswith("norm.weight has shape (9,), (8,) is expected")


def test_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    refusal(write_pth(vit(width=16).state_dict(), tmp_path / "a"))
    refusal(write_npz(vit(width=16), tmp_path / "a"))


@pytest.mark.parametrize("depth", [1, 3])
def test_a_model_of_another_depth_is_refused(tmp_path: Path, depth: int) -> None:
    refusal(write_pth(vit(depth=depth).state_dict(), tmp_path / "a"))
    assert "encoderblock" in refusal(write_npz(vit(depth=depth), tmp_path / "a"))


def test_a_patch_embedding_that_cannot_be_reshaped_is_refused(tmp_path: Path) -> None:
    refusal(write_pth(vit().state_dict() | {"patch_embed.proj.weight": torch.zeros(7)}, tmp_path / "a"))


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    assert "not in Google's ViT layout" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_a_file_that_is_no_weight_file_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    refusal(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.zeros(1)])
def test_a_pytorch_file_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    assert "expected a dictionary of named tensors" in refusal(write_pth(content, tmp_path / "a"))


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.touched),)


@pytest.mark.parametrize("protocol", ["torch", "plain pickle", "npz"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path: Path, protocol: str) -> None:
    payload = Payload(tmp_path / "executed")
    if protocol == "torch":
        path = write_pth({"cls_token": payload}, tmp_path / "a")
    elif protocol == "plain pickle":
        path = tmp_path / "a.pth"
        path.write_bytes(pickle.dumps({"cls_token": payload}))
    else:
        path = write_npz(vit(), tmp_path / "a", lambda arrays: arrays.update({"embedding/kernel": np.array([payload], dtype=object)}))
    assert "trust" not in refusal(path)  # torch's advice to load it all the same
    assert not payload.touched.exists()
