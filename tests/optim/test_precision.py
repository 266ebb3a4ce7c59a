"""Choose the number format of a run's matrix products, and keep the rest in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from petlbench.config.settings import Train
from petlbench.optim import precision
from petlbench.optim.loop import TensorBatches, train

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LARGE, SMALL = 86_000_000, 1_700_000


@pytest.mark.parametrize(
    ("has_bf16", "parameters", "expected"),
    [(True, LARGE, "bf16"), (True, SMALL, "fp32"), (False, LARGE, "fp32"), (False, SMALL, "fp32")],
)
@pytest.mark.parametrize("device", [CPU, GPU])
def test_auto_is_bf16_where_hardware_and_size_make_it_worth_while(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, has_bf16: bool, parameters: int, expected: str
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: has_bf16)
    assert precision.choose("auto", device, parameters) == expected


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_a_format_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: asked == "fp32")
    assert precision.choose(asked, CPU, LARGE if asked == "fp32" else SMALL) == asked


@pytest.mark.parametrize(("avx512", "amx", "expected"), [(True, False, True), (False, True, True), (False, False, False)])
def test_a_cpu_multiplies_bf16_with_avx512_bf16_or_amx(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert precision._multiplies_bf16(CPU) is expected


def test_a_torch_without_the_probes_means_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert precision._multiplies_bf16(CPU) is False


def test_emulated_bf16_of_an_old_gpu_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert precision._multiplies_bf16(GPU) is False


@pytest.mark.parametrize(("number_format", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_are_in_the_format_and_trainables_and_gradients_stay_fp32(number_format: str, expected: torch.dtype) -> None:
    model, seen = nn.Linear(4, 2), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    model.weight.register_hook(lambda gradient: seen.append(gradient.dtype))
    batches = TensorBatches(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]), 4, torch.Generator())
    train(model, batches, Train(epochs=1, warmup_epochs=0), decays=lambda name, parameter: False, precision=number_format)
    assert seen == [expected, torch.float32]
    assert model.weight.dtype == torch.float32
