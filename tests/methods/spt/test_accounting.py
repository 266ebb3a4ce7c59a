"""Our accounting against the 266 selections of the release (19 tasks, 7 budgets, two modules), whose sums ``selection_stats.csv`` holds.

The masks of the matrices are in the table, of vectors and single entries only sums. A selection with those sums is put together and has to
come out of our rule as it went in, so thresholds, costs and counts are all ours.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from petlbench.methods.spt.candidates import MATRICES, Candidate
from petlbench.methods.spt.selection import Rule, Selection
from tests.methods.spt.sizes import start, vit_b

ROWS = list(csv.DictReader((Path(__file__).parent / "selection_stats.csv").open()))
TYPES = ("q", "k", "v", "proj", "fc1", "fc2")


def most_kept(rule: Rule, candidate: Candidate) -> int:
    """Return how many entries a tensor can keep without being trained as a whole."""
    return math.ceil(rule.threshold(candidate)) - 1


def spread(rule: Rule, total: int, over: list[Candidate]) -> Iterator[tuple[str, int]]:
    """Spread a sum over single entries of tensors without making any tensor whole."""
    for candidate in over:
        count = min(total, most_kept(rule, candidate))
        total -= count
        yield candidate.name, count
    assert total == 0, "more single entries than the thresholds allow"


def whole_vectors(row: dict[str, str], rule: Rule) -> set[str]:
    """Choose vectors of the row's number and length that leave room for its single entries."""
    count, length = int(row["n_whole_vectors"]), int(row["whole_vector_params"])
    long = (length - 768 * count) // (3072 - 768)
    short = count - long
    norms = [c for c in vit_b() if c.is_norm]
    biases, long_biases = ([c for c in vit_b() if not c.is_matrix and not c.is_norm and c.size == size] for size in (768, 3072))
    for in_norms in range(min(short, len(norms)) + 1):
        names = {c.name for c in [*norms[:in_norms], *biases[: short - in_norms], *long_biases[:long]]}
        room_in_norms, room_in_biases = (
            sum(most_kept(rule, c) for c in group if c.name not in names) for group in (norms, biases + long_biases)
        )
        if (
            len(names) == count
            and room_in_norms >= int(row["unstructured_in_norms_never_trained"])
            and room_in_biases >= int(row["u_bias"])
        ):
            return names
    raise AssertionError("no set of vectors fits the row")


def kept_counts(row: dict[str, str], rule: Rule) -> dict[str, int]:
    """Choose the kept entries of every candidate so that they give the row's selection."""
    masks = [[flag == "1" for flag in block] for block in row["tuned_matrices"].split("|")]
    structured = {f"blocks.{i}.{name}.weight" for i, block in enumerate(masks) for name, flag in zip(MATRICES, block, strict=True) if flag}
    whole = structured | whole_vectors(row, rule)
    counts = {c.name: math.ceil(rule.threshold(c)) for c in vit_b() if c.name in whole}
    rest = [c for c in vit_b() if c.name not in whole]
    for short, name in zip(TYPES, MATRICES, strict=True):
        counts |= spread(rule, int(row[f"u_{short}"]), [c for c in rest if c.name.endswith(f"{name}.weight")])
    counts |= spread(rule, int(row["u_bias"]), [c for c in rest if not c.is_matrix and not c.is_norm])
    return counts | dict(spread(rule, int(row["unstructured_in_norms_never_trained"]), [c for c in rest if c.is_norm]))


def selection(row: dict[str, str]) -> Selection:
    rule = Rule(class_token=768, module=row["module"])  # type: ignore[arg-type]
    positions = [start(vit_b(), name) + torch.arange(count) for name, count in kept_counts(row, rule).items()]
    return Selection.of(vit_b(), rule, torch.cat(positions))


@pytest.mark.parametrize("module", ["lora", "adapter"])
@pytest.mark.parametrize("budget", ["0.05", "0.1", "0.2", "0.4", "0.6", "0.8", "1.0"])
def test_released_selections_come_to_the_released_counts(module: str, budget: str) -> None:
    rows = [row for row in ROWS if (row["module"], row["budget_M"]) == (module, budget)]
    assert len(rows) == 19
    for row in rows:
        ours = selection(row)
        assert "|".join("".join(map(str, block)) for block in ours.tuned_matrices.int().tolist()) == row["tuned_matrices"]
        by_type, by_block = ours.tuned_matrices.sum(dim=0).tolist(), ours.tuned_matrices.sum(dim=1).tolist()
        found = {
            "structured_params": ours.structured_params,
            "unstructured_params": ours.unstructured_params,
            "n_structured_matrices": int(ours.tuned_matrices.sum()),
            "n_whole_vectors": len(ours.tuned_vectors),
            "unstructured_in_norms_never_trained": ours.kept_norm_entries,
            **{f"m_{name}": count for name, count in zip(TYPES, by_type, strict=True)},
            **{f"blk{number}": count for number, count in enumerate(by_block)},
        }
        assert {key: str(value) for key, value in found.items()} == {key: row[key] for key in found}, row["dataset"]
        assert ours.total == Fraction(row["params_M"]) * 10**6


def test_single_entries_of_every_released_selection_stay_below_our_thresholds() -> None:
    for row in ROWS:
        rule = Rule(class_token=768, module=row["module"])  # type: ignore[arg-type]
        for short, name in zip(TYPES, MATRICES, strict=True):
            of_type = [c for c in vit_b() if c.name.endswith(f"{name}.weight")]
            assert int(row[f"u_{short}"]) <= (len(of_type) - int(row[f"m_{short}"])) * most_kept(rule, of_type[0])


def test_the_table_is_whole() -> None:
    assert len(ROWS) == 266
    assert len({(row["module"], row["dataset"], row["budget_M"]) for row in ROWS}) == 266
