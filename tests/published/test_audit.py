"""Audit averages by recomputing them, in the published tables and in tables from anywhere."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.errors import TableError
from petlbench.published.audit import Finding, audit, contradictions
from petlbench.published.averages import column_groups
from petlbench.published.numbers import PublishedNumber, name_of, published
from petlbench.published.wide import read_table

VTAB = {dataset: group for group, datasets in column_groups()["vtab"].items() for dataset in datasets}


def number(dataset: str, value: object, suite: str = "vtab", table: str = "T", **fields: str) -> PublishedNumber:
    plain = {
        "paper": "NOAH",
        "arxiv": "",
        "table": table,
        "suite": suite,
        "method": "LoRA",
        "backbone": "",
        "access": "white-box",
        "shots": "",
    }
    plain |= {"dataset_as_printed": "", "metric": "top1_accuracy_percent", "source_kind": "primary", "source": "here"}
    return PublishedNumber.model_validate(plain | fields | {"dataset": dataset, "value": str(value), "std": None})


def row(natural: str = "80.0", other: str = "50.0") -> list[PublishedNumber]:
    return [number(dataset, natural if group == "natural" else other) for dataset, group in VTAB.items()]


def audit_of_text(folder: Path, text: str) -> list[Finding]:
    path = folder / "wide.csv"
    path.write_text(text, encoding="utf-8")
    return audit(read_table(path)[0])


def test_every_published_average_is_audited_and_most_that_can_be_agree() -> None:
    findings = audit(published())
    checked = [finding for finding in findings if finding.verdict != "cells missing"]
    assert len(checked) == 302
    assert sum(finding.verdict == "agrees" for finding in checked) == 267


@pytest.mark.parametrize(
    ("paper", "method", "average", "verdict"),
    [
        ("NOAH", "Full", "mean_of_group_means", "differs"),
        ("Convpass", "AdaptFormer", "mean_of_group_means", "truncated"),
        ("SPT", "Adapter-8", "mean_5", "rounding of its parts"),
        ("SharpZO (NeurIPS 2025)", "ZIP (as published)", "mean_11", "differs"),
    ],
)
def test_a_known_disagreement_is_found(paper: str, method: str, average: str, verdict: str) -> None:
    found = [f.verdict for f in audit(published()) if (f.printed.paper, f.printed.method, f.printed.dataset) == (paper, method, average)]
    assert verdict in found


@pytest.mark.parametrize("definition", ["mean of 19", "mean of 3 group means"])
def test_the_definition_that_a_plain_mean_follows_is_named(tmp_path: Path, definition: str) -> None:
    mean = {"mean of 19": "61.1", "mean of 3 group means": "60.0"}[definition]
    cells = ["80.0" if group == "natural" else "50.0" for group in VTAB.values()]
    (finding,) = audit_of_text(tmp_path, f"method,{','.join(VTAB)},Average\nA,{','.join(cells)},{mean}\n")
    assert (finding.verdict, finding.follows) == ("agrees", (definition,))


def test_cells_of_another_table_of_the_paper_count() -> None:
    (finding,) = audit([*row(), number("mean_19", "61.05", table="main")])
    assert (finding.computed_from, finding.verdict) == ("T", "agrees")


def test_group_means_stand_in_for_cells() -> None:
    means = [number(f"mean_{group}", value) for group, value in (("natural", "80.0"), ("specialized", "50.0"), ("structured", "40.0"))]
    finding = audit([*means, number("mean_of_group_means", "56.7")])[-1]
    assert (finding.computed_from, finding.verdict) == ("printed group means", "agrees")


def test_an_average_of_a_row_with_a_missing_cell_is_not_judged() -> None:
    assert audit([*row()[1:], number("mean_19", "61.1")])[0].verdict == "cells missing"


@given(st.lists(st.decimals(0, 100, places=1), min_size=19, max_size=19), st.integers(0, 4))
def test_a_mean_that_is_rounded_from_its_cells_always_agrees(values: list[Decimal], places: int) -> None:
    cells = [number(dataset, value) for dataset, value in zip(VTAB, values, strict=True)]
    mean = round(sum(values) / 19, places)
    assert audit([*cells, number("mean_19", mean)])[0].verdict == "agrees"


def test_sources_that_differ_by_more_than_rounding_contradict_each_other() -> None:
    same = [
        number("svhn", "85.3"),
        number("svhn", "85.32", paper="Convpass"),
        number("dtd", "70.0"),
        number("dtd", "70.2", paper="Convpass"),
    ]
    assert [(one.row, one.dataset, len(one.values)) for one in contradictions(same)] == [(name_of(same[0]).row, "dtd", 2)]


def test_counts_of_one_method_on_other_suites_contradict_nobody() -> None:
    fields = {"metric": "trainable_params_million", "paper": "V-PETL Bench"}
    counts = [number("all", "85.8", suite=suite, method="Full fine-tuning", **fields) for suite in ("vtab", "fgvc")]
    assert not contradictions([counts[0], counts[1].model_copy(update={"value": Decimal("86.0")})])


def test_a_rerun_contradicts_nobody() -> None:
    assert not contradictions([number("dtd", "70.0"), number("dtd", "75.0", paper="Convpass", source_kind="third-party")])


def test_a_mean_of_any_datasets_is_audited(tmp_path: Path) -> None:
    findings = audit_of_text(tmp_path, "name,gtsrb,flags,mean\nA,60.0,**70.0**,65.0\nB,60.0,70.0 ± 0.3,66.0\nC,,80%,80.0\n")
    assert [(finding.printed.method, finding.verdict) for finding in findings] == [("A", "agrees"), ("B", "differs"), ("C", "agrees")]


def test_columns_beside_known_datasets_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("method,CIFAR-100,vtab/svhn,params,mean\nA,60.0,70.0,3,65.0\n")
    numbers, left_out = read_table(path)
    assert (audit(numbers)[0].verdict, left_out) == ("agrees", ["params"])


def test_rows_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert [finding.verdict for finding in audit_of_text(tmp_path, "method,svhn,dtd,mean\nA,60.0,70.0,65.0\nA,20.0,30.0,25.0\n")] == [
        "agrees",
        "agrees",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a line of column names"),
        ("method,svhn,SVHN,mean\nA,1,2,3\n", "columns 'svhn' and 'SVHN' are both svhn"),
        ("method,svhn,mean\n\nA,1\n", "wide.csv:3: expected 3 values, got 2"),
        ("method,svhn,svhn,mean\nA,1,2,3\n", "duplicate column name"),
        ("method,svhn,mean\nA,good,1\n", "column 'svhn' must hold a number or be empty, got 'good'"),
        (f"method,svhn,mean\nA,{10**30},1\n", "must hold a number or be empty"),
        ("method,svhn,dtd\nA,1,2\n", "one called mean or average"),
        ('method,"svhn,mean\nA,1,2\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_audited_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TableError) as caught:
        audit_of_text(tmp_path, text)
    assert said in str(caught.value)
