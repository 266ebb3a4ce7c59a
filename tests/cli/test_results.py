"""The commands for existing results: compare, validate, merge, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petlbench.config.files import load_suite
from petlbench.records.store import RecordStore
from tests.conftest import Call
from tests.record_factory import make_grid, make_record, store_record

TASKS = load_suite("mini").tasks


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three methods on the mini suite, one of them on a task less."""
    for record in make_grid(("lora", "full", "bar"), TASKS):
        if (record.method.name, record.task) != ("bar", TASKS[0]):
            RecordStore(tmp_path / "results").write(record)
    return tmp_path / "results"


def test_compare_prints_methods_tests_and_who_is_left_out(call: Call, results: Path) -> None:
    code, out, _ = call("compare", "--out", str(results))
    assert code == 0 and "mini on mini_clip" in out
    assert "lora – full" not in out and "results of a task are missing: bar" in out


def test_compare_of_named_methods_prints_their_pairs(call: Call, results: Path) -> None:
    assert "lora – full" in call("compare", "lora", "full", "--out", str(results))[1]


def test_compare_as_json_has_full_floats_and_the_mean_of_each_seed(call: Call, results: Path) -> None:
    (document,) = json.loads(call("compare", "lora", "full", "--suite", "mini", "--out", str(results), "--json")[1])
    assert [row["method"] for row in document["methods"]] == ["lora", "full"]
    assert [set(row) for row in document["seeds"]] == [{"method", "0", "1", "2"}] * 2
    assert document["pairs"][0]["p_wilcoxon"] > 0 and document["friedman"] is None
    assert document["left_out"] == []  # bar, which lacks a task, was not asked for


def test_compare_of_a_perfect_order_is_json_that_every_reader_takes(call: Call, tmp_path: Path) -> None:
    """Iman and Davenport's F is infinite."""
    for method, accuracy in (("lora", 90), ("full", 80), ("bar", 70)):
        for task in TASKS:
            RecordStore(tmp_path / "results").write(make_record(method, task, accuracy=accuracy))
    out = call("compare", "--suite", "mini", "--json")[1]
    (document,) = json.loads(out, parse_constant=pytest.fail)
    assert document["friedman"]["iman_davenport"] is None and document["friedman"]["iman_davenport_p"] == 0.0
    assert "Iman and Davenport: F infinite with 2 and 10" in " ".join(call("compare", "--suite", "mini")[1].split())


def test_the_front_of_named_methods_is_among_them(call: Call, tmp_path: Path) -> None:
    for method, accuracy, size in (("lora", 90, 100), ("full", 80, 200), ("adapter", 70, 300)):
        for task in TASKS:
            RecordStore(tmp_path / "results").write(make_record(method, task, accuracy=accuracy, trainable=size))
    (document,) = json.loads(call("compare", "full", "adapter", "--suite", "mini", "--json")[1])
    assert [row["front_parameters"] for row in document["methods"]] == [True, False]


def test_one_of_two_rungs_has_its_costs(call: Call, tmp_path: Path) -> None:
    for rung in ("SCORES", "GRADIENTS"):
        for task in TASKS:
            RecordStore(tmp_path / "results").write(make_record("vp", task, access=rung, settings={"rung": rung}))
    (document,) = json.loads(call("compare", "vp at SCORES", "--suite", "mini", "--json")[1])
    assert document["methods"][0]["ppt"] is not None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("compare", "lroa"), "no method 'lroa' in results. Did you mean 'lora'? There are: bar, full, lora"),
        (("compare", "--suite", "minni"), "no suite 'minni'. Did you mean 'mini'?"),
        (("compare", "--out", "absent"), "no finished runs of any suite below absent/records; run petlbench bench first"),
        (("validate", "absent"), "no records below absent"),
        (("merge", "absent", "--out", "new"), "no records below absent/records"),
        (("merge", "results", "--out", "results"), "results already exists"),
        (("export", "--out", "absent"), "no records below absent/records"),
        (("export", "x.safetensors"), "export takes CHECKPOINT and TARGET, or no names for the table of all runs, got x.safetensors"),
    ],
)
def test_bad_input_is_one_line(call: Call, results: Path, words: tuple[str, ...], expected: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "") and err.startswith(f"petlbench: {expected}") and err.count("\n") == 1


def test_validate_names_the_record_and_what_is_wrong(call: Call, tmp_path: Path) -> None:
    path = store_record(tmp_path / "results", task=TASKS[0])
    data = json.loads(path.read_text())
    data["metrics"]["accuracy"] = 99.9
    path.write_text(json.dumps(data))
    code, out, _ = call("validate", "results")
    assert code == 1
    assert out.splitlines() == [
        f"{path.relative_to(tmp_path)}: metrics.accuracy is 99.9000, the predictions give 75.0000",
        "1 records, 1 with problems",
    ]
    assert json.loads(call("validate", "--json")[1])["problems"].keys() == {str(path.relative_to(tmp_path))}


def test_validate_counts_missing_runs_and_fails_on_them_when_asked_to(call: Call, tmp_path: Path) -> None:
    for task in TASKS[1:]:
        store_record(tmp_path / "results", task=task)
    code, out, _ = call("validate", "results", "results")  # what is named twice is read once
    assert (code, out) == (0, "5 records, 0 with problems, 1 runs missing of tasks or seeds that others have (--complete lists them)\n")
    code, out, _ = call("validate", "--complete")
    assert code == 1 and out.splitlines()[0].endswith(f"lora lacks {TASKS[0]} seed 0")


def test_merge_says_what_it_joined(call: Call, tmp_path: Path) -> None:
    for folder, seeds in (("a", (0, 1)), ("b", (1, 2))):
        for seed in seeds:
            store_record(tmp_path / folder, seed=seed)
    code, out, _ = call("merge", "a", "b", "--out", "new")
    assert (code, out) == (0, "3 records from 2 folders, 1 repeated\nnew\n")
    assert call("validate", "new")[0] == 0


def test_export_without_words_writes_the_table_of_all_runs(call: Call, results: Path) -> None:
    code, out, _ = call("export")
    assert (code, out.split()) == (0, ["results/runs.csv", "results/runs.parquet"])
    assert len((results / "runs.csv").read_text().splitlines()) == 1 + 3 * 3 * 6 - 3
