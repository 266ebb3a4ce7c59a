"""The layer that methods tune: its outputs and gradients against the same sum written out, what it keeps for the backward pass, merging."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.nn import Delta, TunedLinear
from petlbench.nn import linear as layer
from tests.near import assert_near

D = 6
X = torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))
ENTRIES = {"q": torch.tensor([0, 7, 35]), "v": torch.tensor([1, 20])}  # flat in a part of (D, D)
BIAS_ENTRIES = {"k": torch.tensor([2, 5])}


def fused(parts: tuple[str, ...] = ("q", "k", "v")) -> tuple[TunedLinear, nn.Linear]:
    """A tuned layer and the frozen one that it was made of."""
    torch.manual_seed(0)
    frozen = nn.Linear(D, D * len(parts)).double().requires_grad_(False)
    return TunedLinear(frozen, parts), frozen


def update(rank: int = 2, out: int = D, **options: Any) -> Delta:
    delta = Delta(D, out, rank, **options).double()
    for parameter in delta.parameters():
        nn.init.normal_(parameter)
    return delta


def fully_tuned() -> tuple[TunedLinear, nn.Linear, list[Delta]]:
    """Low-rank updates of q and v, entries of q's and v's weights, entries of k's bias, the whole of v's bias."""
    tuned, frozen = fused()
    deltas = [update(2, scale=0.7), update(3)]
    tuned.add_module_at("q", deltas[0], "beside")
    tuned.add_module_at("v", deltas[1], "beside")
    for part, positions in ENTRIES.items():
        tuned.train_entries(part, positions)
    tuned.train_bias_entries("k", BIAS_ENTRIES["k"])
    tuned.train_whole_bias("v")
    tuned.double()
    for parameter in trained(tuned):
        nn.init.normal_(parameter)
    return tuned, frozen, deltas


def trained(tuned: TunedLinear) -> list[nn.Parameter]:
    return [parameter for parameter in tuned.parameters() if parameter.requires_grad]


def by_hand(tuned: TunedLinear, frozen: nn.Linear, deltas: list[Delta], x: Tensor) -> Tensor:
    """The same sum from torch operations, each part a dense layer of its own."""
    weights, biases = list(frozen.weight.split(D)), list(frozen.bias.split(D))
    for i, part in enumerate("qkv"):
        if part in tuned.entries:
            weights[i] = weights[i].reshape(-1).index_add(0, ENTRIES[part], tuned.entries[part]).view(D, D)
        if part in tuned.bias_entries:
            biases[i] = biases[i].index_add(0, BIAS_ENTRIES[part], tuned.bias_entries[part])
    biases[2] = tuned.whole_bias["v"]
    q, k, v = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
    q = q + 0.7 * (x @ deltas[0].down.weight.T @ deltas[0].up.weight.T)
    v = v + x @ deltas[1].down.weight.T @ deltas[1].up.weight.T
    return torch.cat([q, k, v], dim=-1)


def test_outputs_and_all_gradients_are_those_of_the_sum_written_out() -> None:
    tuned, frozen, deltas = fully_tuned()
    wanted = [*trained(tuned), *(p for delta in deltas for p in delta.parameters())]
    x, direction = X.clone().requires_grad_(), torch.randn(2, 5, 3 * D, dtype=torch.double)
    outputs = [tuned(x), by_hand(tuned, frozen, deltas, x)]
    assert_near(*outputs)
    ours, expected = (torch.autograd.grad((output * direction).sum(), [x, *wanted]) for output in outputs)
    for one, other in zip(ours, expected, strict=True):
        assert_near(one, other, 1e-6, "entries that train one by one are kept in float32")


@pytest.mark.parametrize("dropped", [False, True])
def test_the_gradients_of_low_rank_updates_agree_with_finite_differences(dropped: bool) -> None:
    """With the frozen weight, dropped-out inputs and gates of their own; a scale acts through B."""
    _, frozen = fused()
    a, b = update(2), update(1)
    down = torch.cat([a.down.weight, b.down.weight]).detach().requires_grad_()
    ups = [delta.up.weight.detach().clone().requires_grad_() for delta in (a, b)]
    z = (X * (torch.rand_like(X) > 0.5)).requires_grad_() if dropped else None
    gate = torch.rand(2, 5, 3, dtype=torch.double) if dropped else None
    rows = ((0, D), (2 * D, 3 * D))
    none = torch.empty(0, dtype=torch.long)

    def product(x: Tensor, z: Tensor | None, weight: Tensor, bias: Tensor, down: Tensor, *ups: Tensor) -> Tensor:
        return layer._TunedProduct.apply(x, z, weight, bias, None, none, down, gate, rows, *ups)

    inputs = (X.clone().requires_grad_(), z, frozen.weight.clone().requires_grad_(), frozen.bias.clone().requires_grad_(), down, *ups)
    assert torch.autograd.gradcheck(product, inputs)


def test_entries_are_summed_over_chunks_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    g, x, positions = torch.randn(10, 4), torch.randn(10, 3), torch.tensor([0, 5, 11])
    monkeypatch.setattr(layer, "TOKENS_AT_ONCE", 4)
    expected = (g.T @ x).reshape(-1)[positions]
    assert_near(layer._entry_gradient(g, x, None, positions, 3), expected)
    assert_near(layer._entry_gradient(g, None, x[:, positions % 3], positions, 3), expected)


@pytest.mark.parametrize(("count", "kept"), [(4, [(10, 4)]), (7, [(10, D)])])
def test_a_layer_of_few_trained_entries_keeps_their_columns_of_the_input_only(count: int, kept: list[tuple[int, int]]) -> None:
    tuned, frozen = fused()
    tuned.train_entries("k", torch.arange(0, 5 * count, 5))
    x = X.clone().requires_grad_()
    assert [shape for shape in saved_shapes(tuned, x) if 10 in shape] == kept
    dense = frozen.weight.clone().requires_grad_()
    tuned(x).square().sum().backward()
    F.linear(x.detach(), dense, frozen.bias).square().sum().backward()
    assert_near(tuned.entries["k"].grad, dense.grad[D : 2 * D].reshape(-1)[torch.arange(0, 5 * count, 5)].float())  # type: ignore[index]


def test_the_frozen_weight_is_never_written() -> None:
    tuned, frozen, _ = fully_tuned()
    before = frozen.weight.clone()
    optimizer = torch.optim.SGD(trained(tuned), lr=0.1)
    for _ in range(2):
        tuned(X).square().sum().backward()
        optimizer.step()
    assert tuned.weight is frozen.weight
    assert torch.equal(frozen.weight, before)
    assert frozen.weight.grad is None


def test_changed_entries_act_in_the_next_pass() -> None:
    tuned, frozen = fused()
    tuned.train_entries("q", ENTRIES["q"])
    assert_near(tuned(X), frozen(X))
    nn.init.ones_(tuned.entries["q"])
    difference = tuned(X) - frozen(X)
    assert not torch.allclose(difference[..., :D], torch.zeros(()).double())
    assert_near(difference[..., D:], torch.zeros(2, 5, 2 * D).double())


def test_predicting_before_training_leaves_the_layer_trainable() -> None:
    tuned, _, _ = fully_tuned()
    with torch.inference_mode():
        tuned(X)
    tuned(X).sum().backward()
    assert tuned.entries["q"].grad is not None


def saved_shapes(tuned: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Return the shapes of tensors that a forward pass saves, without parameters."""
    own = {p.data_ptr() for p in tuned.parameters()}
    shapes: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tuned(x)
    return shapes


def test_low_rank_updates_keep_their_input_once_and_nothing_as_wide_as_the_output() -> None:
    tuned, _ = fused()
    for part in ("q", "k", "v"):
        tuned.add_module_at(part, update(1), "beside")
    shapes = saved_shapes(tuned, X.clone().requires_grad_())
    assert [shape for shape in shapes if D in shape and 10 in shape] == [(10, D)]
    assert not any(shape[-1] == 3 * D for shape in shapes)


def test_a_layer_of_which_only_a_bias_trains_keeps_no_activation() -> None:
    tuned, _ = fused()
    tuned.train_whole_bias("q")
    assert not any(10 in shape for shape in saved_shapes(tuned, X.clone().requires_grad_()))


def test_updates_of_one_layer_share_the_dropout_of_their_input() -> None:
    """With equal updates of q and k, equal masks give equal parts."""
    tuned, frozen = fused()
    nn.init.zeros_(frozen.weight), nn.init.zeros_(frozen.bias)
    first = update(2, input_dropout=0.5)
    second = update(2, input_dropout=0.5)
    second.load_state_dict(first.state_dict())
    tuned.add_module_at("q", first, "beside")
    tuned.add_module_at("k", second, "beside")
    tuned.train()
    q, k, _ = tuned(X).split(D, dim=-1)
    assert torch.equal(q, k)
    assert not torch.allclose(q, tuned.eval()(X)[..., :D])


def test_dropout_keeps_a_mask_of_bytes_and_is_torchs_otherwise() -> None:
    dropout, x = layer.Dropout(0.25), torch.ones(100, 100, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = dropout(x)
    assert [tensor.dtype for tensor in kept] == [torch.bool]
    assert y.detach().unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert 0.72 < float((y > 0).float().mean()) < 0.78
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    assert dropout.eval()(x) is x


def test_drop_path_removes_an_update_for_whole_images() -> None:
    tuned, frozen = fused(("fc1",))
    delta = update(2, drop_path=0.5)  # in training mode
    tuned.add_module_at(None, delta, "beside")
    x = X[:1].expand(200, 5, D)
    effect = (tuned(x) - frozen(x)).abs().amax(dim=(1, 2))
    kept = effect > 1e-9
    assert 50 < int(kept.sum()) < 150
    delta.eval()
    full = (tuned(x) - frozen(x)).abs().amax()
    assert_near(effect[kept], (2 * full).expand(int(kept.sum())))


def test_entries_and_whole_biases_fold_into_a_plain_layer() -> None:
    tuned, _, _ = fully_tuned()
    plain = tuned.merged()
    assert type(plain) is nn.Linear
    assert not any(p.requires_grad for p in plain.parameters())
    assert_near(plain(X), tuned(X))


def test_layers_can_be_the_first_thing_that_is_imported() -> None:
    """timm, which they need, fails beside a CPU-only torch unless torchvision's missing operators are defined before."""
    subprocess.run([sys.executable, "-c", "import petlbench.nn"], check=True)


def test_a_layer_on_another_device_keeps_its_indices_there() -> None:
    tuned = TunedLinear(nn.Linear(4, 4, device="meta"), ("fc1",))
    assert tuned._positions.device.type == tuned._starts.device.type == "meta"
    tuned.train_entries("fc1", torch.tensor([1, 2]))
    assert tuned._positions.device.type == tuned.entries["fc1"].device.type == "meta"


def test_prediction_gathers_nothing_for_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, _ = fused()
    tuned.train_entries("q", ENTRIES["q"])
    monkeypatch.setattr(Tensor, "index_select", lambda *_: pytest.fail("columns were gathered"))
    with torch.inference_mode():
        tuned(X)


def test_under_autocast_the_input_is_rounded_once_and_what_trains_stays_in_fp32() -> None:
    frozen = nn.Linear(8, 24).requires_grad_(False)
    tuned = TunedLinear(frozen, ("q", "k", "v"))
    delta = Delta(8, 8, 2)
    nn.init.normal_(delta.up.weight)
    tuned.add_module_at("q", delta, "beside")
    tuned.train_entries("k", torch.tensor([3]))
    x = torch.randn(4, 5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = tuned(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {delta.up.weight.grad.dtype, tuned.entries["k"].grad.dtype, x.grad.dtype} == {torch.float32}  # type: ignore[union-attr]
    assert_near(
        y.float()[..., :8],
        F.linear(x, frozen.weight, frozen.bias)[..., :8] + delta(x),
        0.03,
        "bf16 keeps three digits of what every layer computes",
    )
