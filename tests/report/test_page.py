"""The leaderboard page before a browser sees it: what is in its data, and that nothing in the data can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlbench.published.averages import column_groups
from petlbench.report.page import as_script_data, page_html, write_page
from petlbench.report.page_data import page_data
from tests.record_factory import TASKS, make_grid, make_record
from tests.report.pages import FGVC, HOSTILE, PUBLISHED, SUITES, VIT_AS_PRINTED, page, printed, records


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return page_data(records(), SUITES, PUBLISHED)


OWN = ("folder:s", "csv:a b.csv", "folder:mean_x", "mini/digits+mini/shapes")


def part(data: dict[str, Any], suite: str) -> dict[str, Any]:
    return next(part for part in data["parts"] if part["suite"] == suite)


def row(part: dict[str, Any], method: str) -> dict[str, Any]:
    return next(row for row in part["rows"] if row["method"] == method)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_text_in_the_data_opens_a_tag_and_all_of_it_arrives(value: object) -> None:
    text = as_script_data(value)
    assert "<" not in text
    assert json.loads(text) == value


def test_a_hostile_name_stays_inside_the_data() -> None:
    html = page()
    assert html.count("</script>") == 2  # of the data and of the page's own script
    assert HOSTILE not in html


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else() -> None:
    html = page()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        text = html.rpartition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert not re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?:https?:)?//', page())


def test_a_configuration_shared_by_runs_stands_once(data: dict[str, Any]) -> None:
    seeds_and_tasks = [run["config"] for run in row(part(data, "mini"), "craft")["runs"]]
    assert len(seeds_and_tasks) == 3 * len(TASKS)
    assert len(set(seeds_and_tasks)) == 1
    assert data["configs"][seeds_and_tasks[0]]["method"]["name"] == "craft"


def test_a_mean_is_withheld_where_a_result_is_missing(data: dict[str, Any]) -> None:
    bitfit = row(part(data, "fgvc"), "bitfit")
    assert (bitfit["mean"], bitfit["interval"], bitfit["rank"]) == (None, None, None)
    assert bitfit["cells"] == [90, 90, 90, None, None]


def test_groups_have_their_means_and_a_group_that_misses_a_task_withholds_its_own() -> None:
    groups = column_groups()["vtab"]
    tasks = [f"vtab/{dataset}" for group in groups.values() for dataset in group]
    found = [make_record("lora", task, accuracy=50 + i) for i, task in enumerate(tasks)]
    found += [make_record("full", task, accuracy=60) for task in tasks[:-1]]
    vtab = part(page_data(found, {"vtab": tasks}, []), "vtab")
    assert [average["heading"] for average in vtab["averages"]] == [
        *("mean of 19", "mean natural", "mean specialized", "mean structured", "mean of group means"),
    ]
    assert row(vtab, "lora")["averages"] == [59, 53, 58.5, 64.5, (53 + 58.5 + 64.5) / 3]
    assert row(vtab, "full")["averages"] == [None, 60, 60, None, None]


def test_the_mean_is_over_the_tasks_that_a_suite_is_ranked_by() -> None:
    from petlbench.config.files import load_suite

    suite = load_suite("blackvip16")
    found = [make_record("lora", task, accuracy=60 if task in suite.groups["transfer"] else 10) for task in suite.tasks]
    blackvip = part(page_data(found, {"blackvip16": suite.tasks}, []), "blackvip16")
    assert row(blackvip, "lora")["mean"] == 60
    assert len(blackvip["averages"][0]["tasks"]) == 14
    assert len(blackvip["tasks"]) == 18


def test_published_rows_know_which_method_of_ours_they_are(data: dict[str, Any]) -> None:
    full, linear = [row for row in part(data, "fgvc")["published"] if row["is_same_backbone"]]
    assert (full["method"], full["our_method"], full["note"]) == ("Full", "full", "")
    assert full["mean"] == pytest.approx(88.54)
    assert (linear["cells"][2], linear["mean"]) == (None, None)
    assert part(data, "mini")["published"] == []


def test_published_rows_know_whether_their_backbone_is_ours(data: dict[str, Any]) -> None:
    rows = part(data, "fgvc")["published"]
    assert {row["backbone"]: row["is_same_backbone"] for row in rows} == {VIT_AS_PRINTED: True, "Swin-B (supervised IN-22k)": False}


@pytest.mark.parametrize(
    ("shots", "same"), [(None, {"full", "1000-images", "0"}), (16, {"16", "0"})], ids=["all training images", "16 per class"]
)
def test_published_rows_know_whether_they_saw_as_many_images(shots: int | None, same: set[str]) -> None:
    record = make_record("full", FGVC[0])
    protocol = record.protocol.model_copy(update={"settings": {**record.protocol.settings, "shots": shots}})
    numbers = [printed("Full", FGVC[0], "80", shots=one) for one in ("", "0", "1", "16", "full", "1000-images")]
    rows = part(page_data([record.model_copy(update={"protocol": protocol})], SUITES, numbers), "fgvc")["published"]
    assert {row["shots"] for row in rows if row["is_same_shots"]} == same


def test_a_published_row_says_how_its_method_differs_from_ours() -> None:
    numbers = [printed("SPT-LoRA", FGVC[0], "88")]
    (row,) = part(page_data(records(), SUITES, numbers), "fgvc")["published"]
    assert (row["our_method"], row["note"]) == ("spt", "budget chosen per task")


def test_reruns_by_third_parties_are_left_out() -> None:
    rerun = printed("Bias", FGVC[0], "10", kind="third-party")
    rows = part(page_data(records(), SUITES, [*PUBLISHED, rerun]), "fgvc")["published"]
    assert len(rows) == len(part(page_data(records(), SUITES, PUBLISHED), "fgvc")["published"])


def test_numbers_chosen_on_test_images_are_a_row_of_their_own() -> None:
    oracle = printed("Full", FGVC[0], "99.0", metric="top1_accuracy_percent_best_test_epoch")
    rows = part(page_data(records(), SUITES, [*PUBLISHED, oracle]), "fgvc")["published"]
    assert [row["cells"][0] for row in rows if row["method"] == "Full" and row["is_same_backbone"] and not row["is_oracle"]] == [87.3]
    assert [row["cells"][0] for row in rows if row["is_oracle"]] == [99.0]


def test_runs_selected_on_test_images_are_flagged_and_compared_with_such_numbers() -> None:
    found = [make_record("full", FGVC[0]), make_record("full", FGVC[0], selection="oracle_test")]
    rows = part(page_data(found, SUITES, []), "fgvc")["rows"]
    assert {row["method"]: (row["is_oracle"], row["published_as"]) for row in rows} == {
        "full": (False, "full"),
        "full (oracle)": (True, "full"),
    }


def test_runs_without_a_result_are_named() -> None:
    data = page_data(records(), SUITES, [])
    assert [(run["method"], run["status"]) for run in data["unfinished"]] == [("bar", "diverged"), (HOSTILE, "failed")]


def test_a_task_of_no_suite_is_a_part_of_its_own() -> None:
    data = page_data([make_record(), *(make_record(task=task) for task in OWN)], SUITES, [])
    assert {part["suite"] for part in data["parts"]} == {"mini", *OWN}
    assert [part["tasks"] for part in data["parts"] if part["suite"] in OWN] == [[task] for task in sorted(OWN)]


@pytest.mark.parametrize("found", [[], [make_record()], make_grid(("lora", "full"), TASKS[:1], (0,))], ids=["none", "one run", "one task"])
def test_few_runs_make_a_page(found: list[Any]) -> None:
    html = page_html(page_data(found, {"mini": TASKS[:1]}, []))
    assert json.loads(html.partition('id="data">')[2].partition("</script>")[0])["refresh"] is None


def test_a_page_that_refreshes_says_how_often() -> None:
    assert '"refresh":5' in page(refresh_seconds=5)


def test_the_page_lies_beside_the_records_it_links_to(tmp_path: Path) -> None:
    path = write_page(tmp_path, [make_record()], SUITES)
    assert path == tmp_path / "leaderboard.html"
    assert re.search(r'"file":"records/mini/digits/lora-mini_clip-s0-[0-9a-f]{16}\.json"', path.read_text())


@pytest.mark.parametrize("change", [{"weights": "deadbeef" * 8}, {"revision": "r2"}])
def test_details_are_those_of_the_run_on_these_weights_and_data(change: dict[str, Any]) -> None:
    first = make_record(accuracy=60.0, status="budget", created="2026-01-01T00:00:00Z")
    second = make_record(accuracy=70.0, created="2026-01-02T00:00:00Z", **change)
    assert first.run_id == second.run_id
    parts = page_data([first, second], SUITES, [])["parts"]
    runs = [run for one in parts for row in one["rows"] for run in row["runs"]]
    assert {(run["accuracy"], run["status"], run["created"]) for run in runs} == {
        (60.0, "budget", first.created),
        (70.0, "ok", second.created),
    }
    assert [run["file"] for run in runs] == [None, None]  # both would lie at one place


def test_of_a_repeated_run_the_newest_record_is_shown() -> None:
    old, new = (make_record(created=f"2026-01-0{day}T00:00:00Z") for day in (1, 2))
    (run,) = page_data([new, old], SUITES, [])["parts"][0]["rows"][0]["runs"]
    assert run["created"] == new.created and run["file"] is not None
