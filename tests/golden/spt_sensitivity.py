"""SPT's first stage: scores of all weights, the sweep, and the selection at every budget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petlbench.methods.spt.candidates import Candidate, candidates
from petlbench.methods.spt.selection import Rule, Selection, match, sweep
from petlbench.methods.spt.sensitivity import accumulate, ranking
from tests.golden.case import Case


def check(case: Case) -> None:
    sizes = case.config["backbone"]
    vit, head_weights = case.backbone(sizes, case.config["norm_eps"])
    head = nn.Linear(sizes["embed_dim"], sizes["num_classes"])
    head.load_state_dict(head_weights)
    expected = case.below("sens.")
    assert {c.name: c.shape for c in candidates(vit)} == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    stored = torch.cat([expected[candidate.name].reshape(-1) for candidate in candidates(vit)])
    assert (case.config["num_batches"], case.config["batch_size"]) == case.tensors["labels"].shape
    scores = accumulate(vit, head, zip(case.tensors["images"], case.tensors["labels"], strict=True), training=False)
    # the case's own limits, which it gives in words
    torch.testing.assert_close(scores, stored, rtol=1e-4, atol=1e-5 * float(stored.max()), msg=lambda text: f"{case.folder.name}: {text}")
    for module in case.description["selection"]:
        rule = Rule(
            class_token=sizes["embed_dim"],
            module=module,
            structured_vectors=case.config["structured_vector"],
            **{key: case.config[key] for key in ("rank", "alpha", "beta", "unit")},
        )
        _check_stored(case, candidates(vit), rule, stored)
        _check_recomputed(case, candidates(vit), rule, stored, scores)


def _check_stored(case: Case, found: list[Candidate], rule: Rule, scores: Tensor) -> None:
    """Check that the case's own scores give exactly its sweep and selections."""
    order = ranking(scores, rule.kept(len(scores))[-1])
    steps = sweep(found, rule, order)
    trace = torch.tensor([[step.kept, step.unstructured, step.structured, step.matrices, step.vectors] for step in steps])
    assert torch.equal(trace, case.tensors[f"{rule.module}.trace"].long()), f"{case.folder.name}: {rule.module}.trace"
    for budget, expected in case.description["selection"][rule.module].items():
        selection = Selection.for_budget(found, rule, order, float(budget))
        assert expected == {
            "total_params": selection.total,
            "topk": match(steps, rule, float(budget)).kept,
            "structured_params": selection.structured_params,
            "unstructured_params": selection.unstructured_params,
            "tuned_vectors": list(selection.tuned_vectors),
            "tuned_matrices": selection.tuned_matrices.int().tolist(),
            "unstructured_keys_in_order": [c.name for c in selection.unstructured],
        }, f"{case.folder.name}: {rule.module} at budget {budget}"
    for budget in case.config["budgets_saved_as_tensors"]:
        selection = Selection.for_budget(found, rule, order, budget)
        tensors = {"tuned_matrices": selection.tuned_matrices.long(), "unstructured_flat_index": selection.unstructured_indexes}
        tensors |= {f"index.{name}": _coordinates(name, flat, found) for name, flat in selection.entries.items()}
        expected = case.below(f"{rule.module}.budget{budget}.")
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, expected[name]), f"{case.folder.name}: {rule.module}.budget{budget}.{name}"


def _check_recomputed(case: Case, found: list[Candidate], rule: Rule, stored: Tensor, scores: Tensor) -> None:
    """Check that our scores choose the same whole tensors, and at most one in a hundred other single entries."""
    count = rule.kept(len(scores))[-1]
    for budget in case.config["budgets_saved_as_tensors"]:
        ours, theirs = (Selection.for_budget(found, rule, ranking(values, count), budget) for values in (scores, stored))
        assert torch.equal(ours.structured, theirs.structured), f"{case.folder.name}: {rule.module} at budget {budget}"
        lost = set(theirs.positions.tolist()) - set(ours.positions.tolist())
        assert len(lost) <= 0.01 * len(theirs.positions), f"{case.folder.name}: {rule.module} at budget {budget}: {len(lost)} other entries"


def _coordinates(name: str, flat: Tensor, found: list[Candidate]) -> Tensor:
    """Turn flat positions into rows (out, in) or (i,)."""
    shape = next(candidate.shape for candidate in found if candidate.name == name)
    return torch.stack(torch.unravel_index(flat, shape), dim=1)
