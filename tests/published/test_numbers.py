"""Load published numbers completely or not at all."""

import csv
import io
from collections import Counter
from pathlib import Path

import pytest

from petlbench.config.files import names
from petlbench.errors import TableError
from petlbench.published.numbers import COLUMNS, ORACLE, method_name, name_of, published, read_numbers, select

GOOD = {
    "paper": "A",
    "table": "Table 1",
    "suite": "vtab",
    "method": "LoRA",
    "access": "white-box",
    "shots": "1000-images",
    "dataset": "cifar100",
    "metric": "top1_accuracy_percent",
    "value": "74.50",
    "source_kind": "primary",
    "source": "the paper",
}


def file_of(folder: Path, *rows: dict[str, str], columns: list[str] = COLUMNS) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "a.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def test_every_published_number_loads_with_a_source_and_a_method() -> None:
    numbers = published()
    assert len(numbers) == 3687
    assert all(number.source and name_of(number).row for number in numbers)


def test_digits_stay_as_they_were_printed(tmp_path: Path) -> None:
    assert str(read_numbers(file_of(tmp_path, GOOD))[0].value) == "74.50"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("suite", "vtb", "no suite 'vtb'. Did you mean 'vtab'?"),
        ("dataset", "cifar1OO", "no dataset 'cifar1OO'. Did you mean 'cifar10"),
        ("source", "", "source"),
        ("value", "nan", "value"),
        ("value", "174.5", "between 0 and 100"),
        ("std", "-1", "std"),
        ("source_kind", "rumour", "source_kind"),
        ("shots", "many", "shots"),
        ("access", "open", "access"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(tmp_path: Path, column: str, value: str, said: str) -> None:
    with pytest.raises(TableError, match=r"a\.csv:3: ") as caught:
        read_numbers(file_of(tmp_path, GOOD, {**GOOD, column: value}))
    assert said in str(caught.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected the columns paper"):
        read_numbers(file_of(tmp_path, {"paper": "A"}, columns=["paper"]))


def test_a_line_of_another_length_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, GOOD)
    path.write_text(path.read_text() + "too,short\n")
    with pytest.raises(TableError, match=f"a.csv:3: expected {len(COLUMNS)} values"):
        read_numbers(path)


def test_every_name_of_ours_in_methods_csv_is_a_method() -> None:
    assert {name_of(number).ours for number in published()} - {""} <= set(names("methods"))


def test_one_name_in_two_suites_can_be_two_methods() -> None:
    assert method_name("V-PETL Bench", "vtab", "LoRA").row != method_name("V-PETL Bench", "fgvc", "LoRA").row


def test_a_name_that_no_paper_prints_is_refused() -> None:
    with pytest.raises(TableError, match="lacks 'LoRO' of SPT on vtab"):
        method_name("SPT", "vtab", "LoRO")


def test_numbers_are_found_by_paper_and_by_our_name_of_a_method() -> None:
    found = select(published(), {"paper": "noah", "method": "lora_qkv_shared", "dataset": "svhn"})
    assert [(number.method, str(number.value)) for number in found] == [("LoRA", "85.3")]


def test_epochs_chosen_on_the_test_set_have_a_metric_of_their_own() -> None:
    assert Counter(number.paper for number in published() if number.metric == ORACLE) == {"OSU unifying PEFT study": 320}
