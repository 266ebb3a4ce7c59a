"""The rule that turns a ranking into a selection, at its edges, and the compact form of a selection."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from petlbench.errors import CheckpointError, ConfigError
from petlbench.methods.spt.candidates import Candidate
from petlbench.methods.spt.selection import Rule, Selection, Step, match, module_cost, sweep
from tests.methods.spt.sizes import start, tiny

WEIGHTS = sum(candidate.size for candidate in tiny())
PAIR = (Candidate("blocks.0.mlp.fc1.weight", (40, 20)), Candidate("blocks.0.mlp.fc1.bias", (40,)))  # LoRA of rank 2: 120


def rule(**changes: Any) -> Rule:
    return Rule(**{"class_token": 16, "rank": 2, "unit": 3000, **changes})


def order(seed: int = 0) -> Tensor:
    """A ranking of all weights of the tiny backbone."""
    return torch.randperm(WEIGHTS, generator=torch.Generator().manual_seed(seed))


def concentrated(seed: int) -> Tensor:
    """A ranking as real ones are: some tensors hold far more of the first places than others."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.cat([torch.full((c.size,), float(torch.rand((), generator=generator)) ** 4) for c in tiny()])
    return (weight * torch.rand(WEIGHTS, generator=generator)).argsort(descending=True)


def first_entries(counts: dict[str, int]) -> Tensor:
    """Return the positions of the first entries of some of the tiny backbone's tensors."""
    return torch.cat([start(tiny(), name) + torch.arange(count) for name, count in counts.items()])


def steps(*totals: int) -> list[Step]:
    return [Step(number, 0, 0, 0, 0, total) for number, total in enumerate(totals, 1)]


def test_costs_of_modules_are_those_of_vit_b() -> None:
    costs = {module: [module_cost(shape, module, 8) for shape in ((768, 768), (3072, 768), (768, 3072))] for module in ("lora", "adapter")}
    assert costs == {"lora": [12_288, 30_720, 30_720], "adapter": [13_064, 52_232, 13_064]}


def test_rounding_makes_four_steps_keep_one_more() -> None:
    kept = Rule(class_token=768).kept(86_000_000)
    assert [j for j, count in enumerate(kept, 1) if count == 20_000 * j + 1] == [35, 41, 57, 70]
    assert [j for j, count in enumerate(kept, 1) if count == 20_000 * j] == [j for j in range(1, 80) if j not in (35, 41, 57, 70)]


def test_no_step_keeps_more_than_there_is() -> None:
    assert rule(unit=1e6).kept(WEIGHTS) == [WEIGHTS] * 79


@pytest.mark.parametrize(
    ("name", "cost", "least"), [("blocks.0.attn.v.weight", 64, 7), ("blocks.1.mlp.fc1.weight", 160, 16), ("blocks.1.mlp.fc1.bias", 64, 13)]
)
def test_a_tensor_is_trained_whole_from_its_unrounded_threshold_on(name: str, cost: int, least: int) -> None:
    """64 / 10 = 6.4 and 64 / 5 = 12.8 are reached by the next integer, 160 / 10 = 16 by 16 itself."""
    below, reached = (Selection.of(tiny(), rule(), first_entries({name: count})) for count in (least - 1, least))
    assert (below.structured_params, below.unstructured_params) == (0, least - 1)
    assert (reached.structured_params, reached.unstructured_params) == (cost, 0)
    assert [c.name for c, whole in zip(tiny(), reached.structured.tolist(), strict=True) if whole] == [name]


def test_thresholds_are_not_rounded() -> None:
    assert Rule(class_token=0).threshold(Candidate("blocks.0.attn.q.weight", (768, 768))) == 1228.8
    assert Rule(class_token=0).threshold(Candidate("norm.weight", (768,))) == 153.6


def test_without_structured_vectors_a_full_vector_stays_single_entries() -> None:
    kept = first_entries({"norm.weight": 16, "blocks.0.attn.v.weight": 256})
    selection = Selection.of(tiny(), rule(structured_vectors=False), kept)
    assert selection.tuned_vectors == ()
    assert selection.tuned_matrices.nonzero().tolist() == [[0, 2]]
    assert selection.entries.keys() == {"norm.weight"}
    assert selection.total == 16 + 64 + 16


def test_structured_only_drops_single_entries_before_the_match() -> None:
    kept = first_entries({"blocks.0.attn.v.weight": 256, "blocks.1.attn.v.weight": 5})
    only = rule(structured_only=True, steps=range(1, 2), unit=50 * len(kept))
    [step] = sweep(tiny(), only, kept)
    assert (step.kept, step.unstructured, step.structured, step.total) == (261, 0, 64, 80)
    selection = Selection.for_budget(tiny(), only, kept, 80 / only.unit)
    assert (selection.entries, selection.total) == ({}, 80)


def test_of_equally_near_steps_the_last_is_taken() -> None:
    assert match(steps(1100, 1300, 1100, 1301), rule(), 0.4).kept == 3


def test_equal_distances_below_and_above_are_equal() -> None:
    """In floating point 1300 / 3000 - 0.4 and 0.4 - 1100 / 3000 differ."""
    assert match(steps(1100, 1300), rule(), 0.4).kept == 2
    assert match(steps(1300, 1100), rule(), 0.4).kept == 2


def test_a_total_of_twice_the_budget_is_the_largest_that_is_taken() -> None:
    assert match(steps(600), rule(), 0.1).kept == 1
    with pytest.raises(ConfigError, match="no selection"):
        match(steps(601), rule(), 0.1)


def test_a_budget_without_a_selection_says_what_would_help() -> None:
    with pytest.raises(ConfigError) as caught:
        match(steps(900, 700, 800), rule(), 0.1)
    message = str(caught.value)
    for part in ("method.budget=0.1 is 300 parameters", "the smallest has 700", "(at least 0.1167)", "method.rank", "method.unit"):
        assert part in message


@given(st.integers(601, 10**6))
def test_the_budget_that_the_message_names_is_enough(total: int) -> None:
    with pytest.raises(ConfigError) as caught:
        match(steps(total), rule(), 0.1)
    [named] = re.findall(r"at least ([0-9.]+)\)", str(caught.value))
    assert match(steps(total), rule(), float(named)).total == total


@settings(max_examples=30)
@given(st.integers(0, 50), st.sampled_from(["lora", "adapter"]), st.integers(1, 4), st.sampled_from([1.0, 3.0, 10.0, 33.3]), st.booleans())
def test_totals_never_fall_when_more_is_kept(seed: int, module: Any, rank: int, alpha: float, vectors: bool) -> None:
    totals = [s.total for s in sweep(tiny(), rule(module=module, rank=rank, alpha=alpha, structured_vectors=vectors), concentrated(seed))]
    assert totals == sorted(totals)


@settings(max_examples=30)
@given(st.integers(0, 50), st.sampled_from(["lora", "adapter"]), st.booleans(), st.booleans())
def test_the_sweep_counts_what_a_selection_of_the_same_weights_holds(seed: int, module: Any, vectors: bool, only: bool) -> None:
    chosen = rule(module=module, structured_vectors=vectors, structured_only=only, steps=range(1, 80, 13))
    ranking = concentrated(seed)
    for step in sweep(tiny(), chosen, ranking):
        selection = Selection.of(tiny(), chosen, ranking[: step.kept])
        assert step == Step(
            step.kept,
            selection.unstructured_params,
            selection.structured_params,
            int(selection.tuned_matrices.sum()),
            len(selection.tuned_vectors),
            selection.total,
        )


def test_the_selection_for_a_budget_is_that_of_the_matching_step() -> None:
    ranking = concentrated(1)
    step = match(sweep(tiny(), rule(), ranking), rule(), 0.5)
    selection = Selection.for_budget(tiny(), rule(), ranking, 0.5)
    assert (selection.total, selection.unstructured_params) == (step.total, step.unstructured)


def test_entries_are_the_kept_weights_of_tensors_that_are_not_trained_whole() -> None:
    kept = order()[:1200]
    selection = Selection.of(tiny(), rule(), kept)
    whole = {c.name for c, flag in zip(tiny(), selection.structured.tolist(), strict=True) if flag}
    expected: dict[str, list[int]] = {}
    for position in sorted(kept.tolist()):
        owner = next(c for c in reversed(tiny()) if start(tiny(), c.name) <= position)
        if owner.name not in whole:
            expected.setdefault(owner.name, []).append(position - start(tiny(), owner.name))
    assert whole
    assert {name: flat.tolist() for name, flat in selection.entries.items()} == expected
    assert all(flat.dtype == torch.int64 for flat in selection.entries.values())


def test_matrices_stand_in_one_row_per_block() -> None:
    selection = Selection.of(tiny(), rule(), first_entries({"blocks.1.attn.k.weight": 256, "blocks.0.mlp.fc2.weight": 1024}))
    assert selection.tuned_matrices.tolist() == [[False] * 5 + [True], [False, True] + [False] * 4]
    assert selection.module == "lora"


def test_kept_entries_of_norms_are_counted_apart() -> None:
    selection = Selection.of(tiny(), rule(), first_entries({"blocks.0.norm1.bias": 2, "norm.weight": 1, "blocks.0.attn.q.bias": 3}))
    assert (selection.unstructured_params, selection.kept_norm_entries) == (6, 3)


def rebuilt(state: dict[str, Tensor]) -> Selection:
    return Selection.from_state(tiny(), rule(), state)


@given(st.integers(0, 20), st.integers(0, WEIGHTS))
def test_a_selection_is_rebuilt_from_its_state(seed: int, count: int) -> None:
    selection = Selection.of(tiny(), rule(), concentrated(seed)[:count])
    again = rebuilt(selection.state())
    assert torch.equal(again.structured, selection.structured)
    assert torch.equal(again.positions, selection.positions)
    assert {name: flat.tolist() for name, flat in again.entries.items()} == {
        name: flat.tolist() for name, flat in selection.entries.items()
    }


def test_the_state_is_compact() -> None:
    state = Selection.of(tiny(), rule(), order()[:500]).state()
    assert {name: tensor.dtype for name, tensor in state.items()} == {"structured": torch.uint8, "positions": torch.int32}


def test_positions_that_32_bits_do_not_hold_are_kept_in_64() -> None:
    large = (Candidate("blocks.0.attn.q.weight", (50_000, 50_000)), *PAIR)
    state = Selection.of(large, rule(), torch.tensor([2_500_000_003])).state()
    assert state["positions"].dtype == torch.int64
    assert Selection.from_state(large, rule(), state).entries["blocks.0.mlp.fc1.weight"].tolist() == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structured": torch.zeros(3, dtype=torch.uint8)}, "for each of 34 tensors"),
        ({"structured": torch.full((34,), 2, dtype=torch.uint8)}, "0 or 1"),
        ({"structured": torch.ones(34, dtype=torch.uint8)}, "single entries of a tensor that is trained as a whole"),
        ({"positions": torch.tensor([1, WEIGHTS])}, f"lie in \\[0, {WEIGHTS:,}\\)"),
        ({"positions": torch.tensor([-1, 2])}, "lie in"),
        ({"positions": torch.tensor([2, 2])}, "must rise"),
        ({"positions": torch.tensor([[1, 2]])}, "must rise"),
    ],
)
def test_a_state_that_does_not_fit_the_backbone_is_refused(change: dict[str, Tensor], message: str) -> None:
    state = Selection.of(tiny(), rule(), first_entries({"norm.bias": 1})).state()
    with pytest.raises(CheckpointError, match=message):
        rebuilt(state | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": "prefix"}, "module must be lora or adapter, got 'prefix'"),
        ({"rank": 0}, "rank must be an int >= 1, got 0"),
        *(({name: value}, f"{name} must be a number > 0") for name in ("alpha", "beta", "unit") for value in (0, -1.0, math.inf, math.nan)),
        *(({"steps": steps}, "steps must be a range that rises") for steps in (range(0), range(0, 5), range(5, 1, -1))),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**change)
