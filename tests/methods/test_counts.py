"""Trainable parameters of every method and preset on ViT-B/16, without the head: the numbers of the papers' tables where there are any."""

from __future__ import annotations

import pytest

from tests.methods.networks import looks_at_the_task, small, trainable, vit_b, white_box

NORMS = 38_400
ROWS = [
    (85_798_656, "full"),
    (102_912, "bitfit"),
    (NORMS, "norm"),
    (205_824, "ssf"),
    (7_089_408, "partial"),  # a block of 7,087,872 and the final norm of 1,536
    (4 * 7_087_872 + 1_536, "partial", "method.blocks=4"),
    (85_054_464 + 1_536, "partial", "method.blocks=12"),
    (92_160, "vpt"),
    (46_080, "vpt", "method.prompt_length=5"),
    (921_600, "vpt", "method.prompt_length=100"),
    (12 * 5 * 50 + 50 * 768 + 768, "vpt", "method.prompt_length=5", "method.project_from=50"),  # prompts of 50 and their projection
    (38_400, "vpt_shallow"),
    (3_840, "vpt_shallow", "method.prompt_length=5"),
    (294_912, "lora"),
    (147_456, "lora", "method.rank=4"),
    (589_824, "lora", "method.rank=16"),
    (294_912, "lora_qkv_shared"),
    (36_864, "lora_qkv_shared", "method.rank=1"),
    (1_327_104, "lora_all6"),
    (1_179_648, "lora", "method.targets=[qkv,proj,fc1,fc2]"),
    (294_912, "lora_peft"),
    (1_179_648, "lora_peft", "method.targets=[qkv,proj,fc1,fc2]"),  # 1,191,936 with the patch embedding, whose name ends in proj as well
    (156_768, "adapter"),
    (599_424, "adapter", "method.bottleneck=32"),
    (1_189_632, "adapter", "method.bottleneck=64"),
    (1_779_840, "adapter", "method.bottleneck=96"),
    (156_768, "adapter_noah"),
    (313_536 + NORMS, "adapter_houlsby"),
    (313_536, "adapter_houlsby", "method.train_norms=false"),
    (1_198_848, "adapter_houlsby", "method.train_norms=false", "method.bottleneck=32"),
    (1_189_632, "adaptformer"),
    (156_768, "adaptformer", "method.bottleneck=8"),
    (589_824, "adaptformer", "method.bottleneck=32", "method.bias=false"),
    (1_410_624, "adapter_spt"),
    (61_440, "fact"),  # 2 D r + 144 r^2
    (30_976, "fact_tk"),  # 2 D r + 144 r + r^3
    (86_528, "fact_tk", "method.rank=32"),
]


@pytest.mark.parametrize(("expected", "name", "words"), [(count, name, words) for count, name, *words in ROWS])
def test_the_number_of_trainable_parameters_of_vit_b_is_as_in_the_tables(expected: int, name: str, words: list[str]) -> None:
    assert sum(parameter.numel() for parameter in trainable(vit_b(name, *words)).values()) == expected


@pytest.mark.parametrize("name", [name for name in white_box() if not looks_at_the_task(name)])
def test_every_method_and_preset_has_a_row(name: str) -> None:
    assert name in {row[1] for row in ROWS}, f"give {name} a row in ROWS with the number of its parameters on ViT-B/16"


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_fact_has_as_many_parameters_as_its_formulas_say(rank: int) -> None:
    width, matrices = 32, 12 * 3  # of the tiny network
    expected = {
        "fact": 2 * width * rank + matrices * rank**2,
        "fact_tk": 2 * width * rank + matrices * rank + rank**3,
    }
    for name, count in expected.items():
        assert sum(parameter.numel() for parameter in trainable(small(name, f"method.rank={rank}")).values()) == count
