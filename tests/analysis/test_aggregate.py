"""Average runs into the rows of a leaderboard: which runs share a row, and which figures are withheld."""

from __future__ import annotations

import math
import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlbench.analysis.aggregate import comparable_parts, leaderboard, ranked_columns, runs_behind, runs_frame, task_labels
from petlbench.analysis.columns import COLUMNS, ROW_COLUMNS
from petlbench.analysis.tradeoffs import tradeoffs
from petlbench.config.files import load_suite
from petlbench.errors import RecordError
from petlbench.records.schema import Record
from tests.record_factory import PROTOCOL, SUITES, TASKS, make_grid, make_record

PAIR = {"mini": TASKS[:2]}
A, B = TASKS[:2]
VTAB = {task: make_record(task=task, accuracy=40 + 2 * i) for i, task in enumerate(load_suite("vtab").tasks)}


def row_of(frame: pd.DataFrame, method: str) -> pd.Series:
    rows = frame[frame["method"] == method]
    assert len(rows) == 1, list(frame["method"])
    return rows.iloc[0]


def test_columns_and_their_order() -> None:
    frame = leaderboard(make_grid(("lora",), TASKS[:2], (0,)), {"mini": (B, A), "other": ("other/x",)})
    assert list(frame.columns) == [*ROW_COLUMNS, B, A, "other/x", *COLUMNS]
    assert list(ROW_COLUMNS) == ["method", "access", "backbone", "suite", "protocol", "mean", "rank"]
    of_runs = ["params_trainable", "params_head", "stored_bytes", "train_seconds", "run_memory_mb", "peak_memory_mb", "images_forwarded"]
    of_runs += ["flops_per_image", "queries", "contexts", "queries_with_tuning", "settings", "access_seen", "seeds"]
    assert list(COLUMNS) == of_runs


def test_a_cell_is_the_mean_over_seeds_and_the_mean_is_over_cells() -> None:
    records = [make_record(task=A, seed=0, accuracy=60), make_record(task=A, seed=1, accuracy=70), make_record(task=B, seed=0, accuracy=90)]
    row = row_of(leaderboard(records, PAIR), "lora")
    assert (row[A], row[B], row["mean"], row["seeds"]) == (65.0, 90.0, 77.5, "0,1")


@settings(max_examples=12)
@given(st.data())
def test_group_means_are_withheld_for_themselves_when_a_cell_is_missing(data: st.DataObject) -> None:
    groups = load_suite("vtab").groups
    missing = data.draw(st.sets(st.sampled_from(load_suite("vtab").tasks), max_size=4))
    records = [VTAB[task] for task in VTAB if task not in missing]
    row = row_of(leaderboard(records, {"vtab": load_suite("vtab").tasks}), "lora")
    for group, tasks in groups.items():
        expected = pd.Series([row[task] for task in tasks]).mean()
        assert row[f"vtab:mean_{group}"] == pytest.approx(math.nan if missing & set(tasks) else expected, nan_ok=True)
    assert math.isnan(row["vtab:mean_of_group_means"]) == math.isnan(row["mean"]) == bool(missing)


def test_methods_are_ranked_by_the_group_that_the_suite_names() -> None:
    suite = load_suite("craft15")
    tasks = suite.groups["few_shot"]
    frame = leaderboard([make_record(task=task, accuracy=60) for task in tasks], {"craft15": suite.tasks})
    row = row_of(frame, "lora")
    assert row["mean"] == 60 and row["rank"] == 1 and math.isnan(row["craft15:mean_4_shifts"])
    assert len(ranked_columns(frame)) == 11


def test_costs() -> None:
    records = [
        make_record("craft", A, 0, trainable=100),
        make_record("craft", A, 2, trainable=100),
        make_record("craft", B, 0, trainable=400),
    ]
    row = row_of(leaderboard(records, PAIR), "craft")
    assert row["params_trainable"] == 250  # of the tasks, not of the runs
    assert row["train_seconds"] == pytest.approx(12.5 + 2 / 3)
    assert (row["run_memory_mb"], row["peak_memory_mb"]) == (102, 802)  # of the run that took most
    assert row["queries"] == 1200  # all phases


def test_what_older_records_know_of_memory_is_never_taken_for_what_a_run_added() -> None:
    old = make_record("lora", A)
    old = old.model_copy(update={"schema_version": 3, "cost": old.cost.model_copy(update={"run_memory_mb": None})})
    frame = leaderboard([old, make_record("full", A), make_record("bar", A, 0), make_record("bar", A, 1)], {"mini": (A,)})
    assert math.isnan(row_of(frame, "lora")["run_memory_mb"]) and row_of(frame, "lora")["peak_memory_mb"] == 800
    assert (row_of(frame, "full")["run_memory_mb"], row_of(frame, "bar")["run_memory_mb"]) == (100, 101)
    front = tradeoffs(comparable_parts(frame)[0], runs_frame([old, make_record("full", A)])).set_index("method")["front_memory"]
    assert pd.isna(front["lora"]) and front["full"]


def test_only_a_model_that_is_asked_has_queries() -> None:
    counted = make_record("craft").cost  # whatever was counted for a white box, it was not sent to a black one
    records = [make_record("lora").model_copy(update={"cost": counted}), make_record("pgn"), make_record("craft")]
    frame = leaderboard(records, PAIR)
    assert math.isnan(row_of(frame, "lora")["queries"])
    assert row_of(frame, "pgn")["queries"] == 1200
    assert row_of(frame, "craft")["queries"] == 1200


def test_a_row_shows_the_highest_rung_that_one_of_its_runs_made_use_of() -> None:
    records = [make_record("craft", seed=seed, access_seen=rung) for seed, rung in enumerate(("SCORES", "CONTEXT", "SCORES"))]
    assert row_of(leaderboard(records, PAIR), "craft")["access_seen"] == "CONTEXT"


def test_only_runs_with_a_result_count() -> None:
    records = [make_record(accuracy=80), make_record(seed=1, status="diverged"), make_record(seed=2, status="budget")]
    assert list(runs_frame(records)["seed"]) == [0, 2]


def test_a_finished_run_without_metrics_is_named() -> None:
    broken = make_record().model_copy(update={"metrics": None})
    with pytest.raises(RecordError, match=broken.run_id):
        runs_frame([broken])


def test_a_repeated_run_counts_once_and_the_newest_wins() -> None:
    old, new = (make_record(accuracy=accuracy, created=f"2026-01-0{day}T00:00:00Z") for accuracy, day in ((10.0, 1), (80.0, 2)))
    other_seed = make_record(seed=1, accuracy=60.0)
    assert row_of(leaderboard([new, old, other_seed], PAIR), "lora")[A] == 70.0


def test_protocols_do_not_share_a_row_or_a_ranking() -> None:
    records = [make_record(task=task, accuracy=80, protocol=protocol) for task in PAIR["mini"] for protocol in ("p-1", "p-2")]
    frame = leaderboard([*records, *(make_record("full", task, accuracy=90, protocol="p-2") for task in PAIR["mini"])], PAIR)
    assert {(r["method"], r["protocol"], r["rank"]) for _, r in frame.iterrows()} == {
        ("lora", "p-1", 1),
        ("lora", "p-2", 2),
        ("full", "p-2", 1),
    }


def test_weights_of_one_name_but_different_bytes_are_two_backbones() -> None:
    records = [make_record(accuracy=80), make_record(accuracy=20, weights="deadbeef" * 8)]
    assert set(leaderboard(records, PAIR)["backbone"]) == {"mini_clip@c0ffee00", "mini_clip@deadbeef"}
    assert set(leaderboard(records[:1], PAIR)["backbone"]) == {"mini_clip"}


def test_results_on_older_data_do_not_mix_with_the_newest() -> None:
    old = [make_record(task=task, accuracy=20, revision="r1", created="2026-01-01T00:00:00Z") for task in PAIR["mini"]]
    new = make_record("full", A, accuracy=90, revision="r2", created="2026-02-01T00:00:00Z")
    frame = leaderboard([*old, new], PAIR)
    assert {(r["method"], r["protocol"]) for _, r in frame.iterrows()} == {
        ("full", PROTOCOL),
        ("lora", PROTOCOL),  # on the task whose data did not change
        ("lora", f"{PROTOCOL} (data r1)"),
    }
    assert frame["mean"].isna().all()


def test_settings_that_vary_on_a_task_make_rows() -> None:
    records = [make_record(task=task, seed=seed, accuracy=80, settings={"rank": 8}) for task in PAIR["mini"] for seed in (0, 1)]
    records += [make_record(task=task, accuracy=20, settings={"rank": 4}) for task in PAIR["mini"]]
    frame = leaderboard(records, PAIR)
    assert row_of(frame, "lora")["mean"] == 80
    assert row_of(frame, "lora [rank=4]")["mean"] == 20


def test_variants_keep_their_name_on_tasks_where_nothing_varied() -> None:
    """Rank 4 on one task and rank 8 on another must not meet in a row only because each task saw one of them more often."""
    records = [make_record(task=A, settings={"rank": rank}, seed=seed) for rank, seeds in ((4, 1), (8, 3)) for seed in range(seeds)]
    records += [make_record(task=B, settings={"rank": rank}, seed=seed) for rank, seeds in ((4, 3), (8, 2)) for seed in range(seeds)]
    frame = leaderboard(records, PAIR)
    assert row_of(frame, "lora")["seeds"] == "0,1,2"
    for rank, method in ((8, "lora"), (4, "lora [rank=4]")):
        mine = {record.key for record in records if record.config["method"]["rank"] == rank}
        runs = runs_frame(records)
        assert set(runs["key"][runs["method"] == method]) == mine


def test_a_recipe_with_settings_per_task_is_one_row() -> None:
    records = [make_record(task=A, accuracy=70, settings={"scale": 0.1}), make_record(task=B, accuracy=90, settings={"scale": 10.0})]
    assert row_of(leaderboard(records, PAIR), "lora")["mean"] == 80


def test_names_of_settings_are_short_unless_ambiguous_and_values_as_typed() -> None:
    usual = [make_record(seed=seed, settings={"epochs": 1, "targets": ["q"]}) for seed in (0, 1)]
    varied = make_record(settings={"epochs": 2, "targets": ["q", "v"]}, train={"epochs": 50, "learning_rate": 0.01})
    labels = set(runs_frame([*usual, varied])["method"])
    assert labels == {"lora", "lora [method.epochs=2, targets=[q,v], train.epochs=50, learning_rate=0.01]"}


def test_the_first_run_keeps_the_plain_name_at_a_tie() -> None:
    later = make_record(settings={"rank": 4}, created="2026-03-01T00:00:00Z")
    first = make_record(settings={"rank": 8}, created="2026-02-01T00:00:00Z")
    assert set(runs_frame([later, first])["method"]) == {"lora", "lora [rank=4]"}


def test_a_setting_that_older_code_did_not_have_is_not_averaged_over() -> None:
    labels = set(
        runs_frame([make_record(settings={"rank": 8}), make_record(seed=1, settings={"rank": 8}), make_record(settings={})])["method"]
    )
    assert labels == {"lora", "lora [rank=absent]"}


def test_oracle_selection_is_flagged() -> None:
    records = [make_record(), make_record(selection="oracle_test", accuracy=99)]
    assert set(leaderboard(records, PAIR)["method"]) == {"lora", "lora (oracle)"}


def test_rows_are_ordered_by_suite_then_mean_with_missing_last() -> None:
    records = [make_record("lora", "zoo/cats", accuracy=5), make_record("full", "zoo/cats", accuracy=7)]
    records += [make_record(method, task, accuracy=50) for method in ("bar", "bbt") for task in PAIR["mini"]]
    records += [make_record("adapter", A, accuracy=99)]
    frame = leaderboard(records, {"zoo": ["zoo/cats"], **PAIR})
    assert list(frame["method"]) == ["full", "lora", "bar", "bbt", "adapter"]
    assert list(frame["rank"].astype(object).fillna(0)) == [1, 2, 1, 1, 0]


def test_no_records_make_an_empty_leaderboard() -> None:
    frame = leaderboard([], SUITES)
    assert frame.empty
    assert comparable_parts(frame) == []


def test_parts_hold_what_may_be_compared_and_the_runs_behind_it() -> None:
    records = [*make_grid(("lora", "full"), TASKS, (0, 1)), make_record("lora", "zoo/cats"), make_record("lora", protocol="p-2")]
    parts = comparable_parts(leaderboard(records, {**SUITES, "zoo": ["zoo/cats"]}))
    assert [(part["suite"].iloc[0], part["protocol"].iloc[0], len(part)) for part in parts] == [
        ("mini", PROTOCOL, 2),
        ("mini", "p-2", 1),
        ("zoo", PROTOCOL, 1),
    ]
    assert list(parts[2].columns) == [*ROW_COLUMNS, "zoo/cats", *COLUMNS]
    assert list(parts[1].columns) == [*ROW_COLUMNS, *TASKS, *COLUMNS]  # the tasks that it has no result for as well
    assert [len(runs_behind(part, runs_frame(records))) for part in parts] == [2 * 6 * 2, 1, 1]


runs = st.tuples(
    st.sampled_from(("lora", "full", "bar")), st.sampled_from(TASKS[:3]), st.integers(0, 1), st.sampled_from((50.0, 60.0, 70.0))
)
some_records = st.lists(runs, unique_by=lambda run: run[:3], min_size=1).map(lambda chosen: [make_record(*run) for run in chosen])
THREE = {"mini": TASKS[:3]}


@given(some_records)
@settings(max_examples=60)
def test_a_mean_is_withheld_exactly_when_a_cell_is_missing(records: list[Record]) -> None:
    have = {(record.method.name, record.task) for record in records}
    for _, row in leaderboard(records, THREE).iterrows():
        is_complete = all((row["method"], task) in have for task in THREE["mini"])
        assert math.isnan(row["mean"]) != is_complete
        assert pd.isna(row["rank"]) != is_complete
        assert all(math.isnan(row[task]) != ((row["method"], task) in have) for task in THREE["mini"])


@given(st.lists(st.sampled_from((40.0, 50.0, 60.0)), min_size=1, max_size=6))
@settings(max_examples=60)
def test_a_rank_is_one_more_than_the_number_of_better_rows(accuracies: list[float]) -> None:
    records = [make_record(f"m{i}", task, accuracy=accuracy) for i, accuracy in enumerate(accuracies) for task in PAIR["mini"]]
    frame = leaderboard(records, PAIR)
    assert list(frame["rank"]) == [1 + sum(other > accuracy for other in accuracies) for accuracy in sorted(accuracies, reverse=True)]


mixed = st.lists(
    st.builds(
        make_record,
        st.sampled_from(("lora", "bar")),
        st.sampled_from(PAIR["mini"]),
        st.integers(0, 2),
        st.floats(0, 100),
        settings=st.sampled_from(({}, {"rank": 4}, {"rank": 8})),
        revision=st.sampled_from(("r1", "r2")),
        weights=st.sampled_from(("c0ffee00" * 8, "deadbeef" * 8)),
        created=st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
    ),
    min_size=1,
    max_size=12,
)


@given(mixed, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_records_does_not_matter(records: list[Record], chance: random.Random) -> None:
    shuffled = list(records)
    chance.shuffle(shuffled)
    pd.testing.assert_frame_equal(runs_frame(records), runs_frame(shuffled), check_exact=True)
    pd.testing.assert_frame_equal(leaderboard(records, PAIR), leaderboard(shuffled, PAIR), check_exact=True)


@given(mixed)
@settings(max_examples=60)
def test_a_cell_never_mixes_configurations_data_or_weights(records: list[Record]) -> None:
    by_key = {record.key: record for record in records}
    frame = runs_frame(records)
    for _, cell in frame.groupby(["method", "backbone", "protocol", "task"]):
        sources = [by_key[key] for key in cell["key"]]
        assert len({str(r.config["method"]) for r in sources}) == 1
        assert cell["seed"].is_unique  # the same seed twice would be two data revisions or two weights


def test_tasks_lose_their_suite_unless_they_would_look_alike() -> None:
    assert task_labels(["vtab/dtd", "vtab/svhn"]) == ["dtd", "svhn"]
    assert task_labels(["vtab/dtd", "blackvip16/dtd", "vtab/svhn"]) == ["vtab/dtd", "blackvip16/dtd", "svhn"]
