"""LoRA through peft: same numbers as our LoRA, only the configured layers, and no import for other methods."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from petlbench.errors import ConfigError
from petlbench.methods.lora_peft import LoRAPeftConfig
from tests.methods.networks import DIRECTION, IMAGES, configured, fill, small, take_steps, trainable
from tests.near import assert_near


def our_name(name: str) -> str:
    """Translate peft's parameter name into ours."""
    block, matrix = re.fullmatch(r"blocks\.(\d+)\.(?:attn|mlp)\.\w+\.lora_([AB])\.default\.weight", name).groups()  # type: ignore[union-attr]
    place = name.split(".")[3]
    return f"blocks.{block}.petl.{place}.{'down' if matrix == 'A' else 'up'}.weight"


@pytest.mark.parametrize("targets", ["qkv", "qkv,proj,fc1,fc2"])
def test_it_gives_the_features_and_gradients_of_our_lora(targets: str) -> None:
    words = (f"method.targets=[{targets}]", "method.rank=4")
    peft, lora = small("lora_peft", *words), small("lora_qkv_shared", *words)
    fill(peft)
    lora.load_state_dict({our_name(name): parameter for name, parameter in trainable(peft).items()}, strict=False)
    features = [vit(IMAGES) for vit in (peft, lora)]
    assert_near(*features)
    for answer in features:
        (answer * DIRECTION).sum().backward()
    expected = {name: parameter.grad for name, parameter in trainable(lora).items()}
    assert_near({our_name(name): parameter.grad for name, parameter in trainable(peft).items()}, expected)


def test_b_moves_in_the_first_step_and_a_in_the_second() -> None:
    vit = small("lora_peft")
    seen = []
    for _ in range(2):
        starts = {name: parameter.detach().clone() for name, parameter in trainable(vit).items()}
        take_steps(vit, 1)
        seen.append({name.split(".")[-3] for name, parameter in trainable(vit).items() if not torch.equal(parameter, starts[name])})
    assert seen == [{"lora_B"}, {"lora_A", "lora_B"}]


def test_proj_is_the_attentions_projection_and_not_the_patch_embeddings() -> None:
    vit = small("lora_peft", "method.targets=[proj]")
    assert type(vit.patch_embed.proj) is nn.Conv2d
    assert {name.split(".lora_")[0] for name in trainable(vit)} == {f"blocks.{block}.attn.proj" for block in range(3)}


def test_dropout_acts_on_the_input_of_the_update() -> None:
    vit = small("lora_peft", "method.dropout=0.5")
    assert {module.p for name, module in vit.named_modules() if name.endswith("lora_dropout.default")} == {0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("q", "v")}, r"targets must be some of qkv, proj, fc1, fc2, got q, v \(method=lora updates q, k and v separately\)"),
        ({"targets": ()}, "got none"),
        ({"rank": 0}, "rank must be an int >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAPeftConfig(**settings)  # type: ignore[arg-type]


def test_a_refused_target_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"method\.targets must be some of"):
        configured("lora_peft", "method.targets=[out_proj]")


def test_importing_the_methods_does_not_import_peft() -> None:
    code = "import sys, petlbench.methods.lora, petlbench.methods.lora_peft; print(sorted({'peft', 'transformers'} & set(sys.modules)))"
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reply.stdout.strip() == "[]"
