"""The leaderboard's files and its table for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console

from petlbench.analysis import tables
from petlbench.analysis.aggregate import leaderboard
from petlbench.config.files import load_suite
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.report import plots, queries
from petlbench.report.leaderboard import leaderboard_table, write_leaderboard
from tests.record_factory import PROTOCOL, SUITES, TASKS, make_grid, make_record

A, B = TASKS[:2]
PAIR = {"mini": (A, B)}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip pictures, which take most of the time and have their own tests."""
    for name in ("write_plots", "write_query_plots"):
        monkeypatch.setattr(f"petlbench.report.leaderboard.{name}", lambda *_: [])
    monkeypatch.setattr("petlbench.report.comparison.write_ranking_plots", lambda *_: [])


def stored(results: Path, records: Iterable[Record]) -> Path:
    store = RecordStore(results)
    for record in records:
        store.write(record)
    return results


def markdown(results: Path, records: Iterable[Record], suites: dict[str, tuple[str, ...]] = PAIR) -> str:
    write_leaderboard(stored(results, records), suites)
    return (results / "leaderboard.md").read_text()


def rendered(records: Iterable[Record], suites: dict[str, tuple[str, ...]], width: int = 120) -> list[str]:
    console = Console(width=width, file=StringIO(), force_terminal=False)
    console.print(leaderboard_table(leaderboard(list(records), suites)))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_csv_keeps_full_floats_and_empty_cells(tmp_path: Path) -> None:
    records = [make_record(task=A, accuracy=100 / 3), make_record("full", A, accuracy=1 / 7), make_record("full", B, accuracy=2 / 7)]
    paths = write_leaderboard(stored(tmp_path, records), PAIR)
    assert paths == [tmp_path / "leaderboard.csv", tmp_path / "leaderboard.md", tmp_path / "leaderboard.html"]
    frame = pd.read_csv(paths[0], float_precision="round_trip")
    expected = leaderboard(records, PAIR)
    assert list(frame.columns) == list(expected.columns)
    assert list(frame[A]) == list(expected[A]) == [1 / 7, 100 / 3]
    assert frame["mean"].isna().tolist() == [False, True]


def test_suites_without_a_run_make_no_columns(tmp_path: Path) -> None:
    write_leaderboard(stored(tmp_path, [make_record()]), {**PAIR, "vtab": ("vtab/dtd",)})
    assert "vtab" not in (tmp_path / "leaderboard.csv").read_text()


def test_markdown_states_where_its_numbers_come_from(tmp_path: Path) -> None:
    text = markdown(tmp_path, make_grid(("lora",), (A, B), (0, 1)))
    for fact in ("suite mini", f"protocol {PROTOCOL}", "backbone mini_clip", "seeds 0,1 ·", "selection last", "petlbench 0.1.0 (0123456)"):
        assert fact in text


def test_markdown_says_when_seeds_differ_and_when_the_code_was_modified(tmp_path: Path) -> None:
    record = make_record(task=B)
    edited = record.model_copy(update={"code": record.code.model_copy(update={"is_dirty": True})})
    text = markdown(tmp_path, [make_record(task=A), make_record(task=A, seed=1), edited])
    assert "seeds 0,1 (fewer for some results)" in text
    assert "petlbench 0.1.0 (0123456), 0.1.0 (0123456, modified)" in text


def test_best_cells_are_bold_and_missing_ones_a_dash(tmp_path: Path) -> None:
    records = [make_record("lora", A, accuracy=80.04), make_record("full", A, accuracy=79.96), make_record("full", B, accuracy=50)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(tmp_path, records).splitlines() if line.startswith("|")]
    by_method = {row[1]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    shown = ("#", "access", "mean", "digits", "shapes")
    assert [by_method["full"][head] for head in shown] == [
        "1",
        "white box",
        "**65.0**",
        "**80.0**",
        "**50.0**",
    ]  # what looks equal is equal
    assert [by_method["lora"][head] for head in shown] == ["–", "white box", "–", "**80.0**", "–"]
    assert by_method["lora"]["trainable"] == "147k"


def test_protocols_and_suites_are_tables_of_their_own(tmp_path: Path) -> None:
    records = [make_record(), make_record(protocol="p-2"), make_record(task="zoo/cats")]
    text = markdown(tmp_path, records, {**PAIR, "zoo": ("zoo/cats",)})
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        f"## {suite} on mini_clip, protocol {id_}" for suite, id_ in (("mini", PROTOCOL), ("mini", "p-2"), ("zoo", PROTOCOL))
    ]


def test_what_the_tables_leave_out_is_named(tmp_path: Path) -> None:
    records = [make_record(), make_record("bar", B, seed=3, status="diverged")]
    records += [make_record("full", seed=seed, status="failed") for seed in range(30)]
    text = markdown(tmp_path, records)
    assert "* bar on mini/shapes, mini_clip, seed 3: diverged: the loss is no longer finite" in text
    assert "* 11 more unfinished runs" in text
    assert "Not in the tables" not in markdown(tmp_path / "other", [make_record()])


def test_a_broken_record_is_named_at_the_foot_and_changes_nothing_else(tmp_path: Path) -> None:
    before, broken = markdown(tmp_path, [make_record()]), tmp_path / "records" / "broken.json"
    broken.write_text("{")
    write_leaderboard(tmp_path, PAIR)
    after = (tmp_path / "leaderboard.md").read_text()
    assert after.startswith(before.rstrip()) and f"* cannot be read: {broken}: not a complete JSON document" in after


def test_token_usage_that_cannot_be_read_is_named_at_the_foot(tmp_path: Path) -> None:
    text = markdown(tmp_path, [make_record("pgn").model_copy(update={"token_usage": "gone.usage.safetensors"})])
    assert "gone.usage.safetensors: the token usage of a run cannot be read (there is no such file)" in text


def test_no_finished_run_makes_files_that_say_so(tmp_path: Path) -> None:
    assert "No finished run yet." in markdown(tmp_path, [])
    assert "bar on mini/digits" in markdown(tmp_path, [make_record("bar", status="failed")])


def test_pictures_are_written_and_linked_for_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.report.leaderboard.write_plots", plots.write_plots)
    monkeypatch.setattr("petlbench.report.leaderboard.write_query_plots", queries.write_query_plots)
    records = [*make_grid(("lora", "bar"), (A, B), (0,)), make_record(protocol="p/2")]
    paths = write_leaderboard(stored(tmp_path, records), PAIR)
    names = {f"{kind}-{part}" for kind in ("accuracy_vs_parameters", "tasks", "seeds", "access") for part in ("mini", "mini-mini_clip-p_2")}
    assert {path.stem for path in paths if path.parent == tmp_path / "plots"} == names
    assert all(path.exists() for path in paths)
    text = (tmp_path / "leaderboard.md").read_text()
    assert all(f"(plots/{name}.svg)" in text for name in names)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_every_comparable_part_with_two_complete_methods_has_statistics(tmp_path: Path) -> None:
    records = [*make_grid(("lora", "bar"), (A, B), (0,)), make_record(protocol="p/2")]
    paths = write_leaderboard(stored(tmp_path, records), PAIR)
    assert [path.name for path in paths[3:]] == ["mini-methods.csv", "mini-pairs.csv"]
    assert (tmp_path / "leaderboard.md").read_text().count("### Statistics") == 1


def test_the_picture_of_a_method_that_allocates_by_task_is_linked_in_its_part(tmp_path: Path) -> None:
    records = [make_record("lora", task, allocation={"0.q": count}) for task, count in ((A, 5), (B, 6))]
    paths = write_leaderboard(stored(tmp_path, records), PAIR)
    assert [path.name for path in paths[3:]] == ["lora_allocation_mini.png", "lora_allocation_mini.svg"]
    assert "(plots/lora_allocation_mini.svg)" in (tmp_path / "leaderboard.md").read_text()


def test_the_terminal_table_of_14_methods_and_6_tasks_fits_120_columns() -> None:
    lines = [line.rstrip() for line in rendered(make_grid(), SUITES)]
    assert len(lines) == 1 + 1 + 14  # title, headings, one line per method: nothing wrapped
    assert max(map(len, lines)) <= 120
    assert "…" not in "".join(lines)
    assert lines[1].split() == [
        "#",
        "method",
        "access",
        "mean",
        *(t.split("/")[1] for t in TASKS),
        "trainable",
        "train",
        "s",
        "queries",
        "seeds",
    ]


def test_the_terminal_shows_settings_in_brackets() -> None:
    records = [make_record(seed=seed, settings={"rank": 8}) for seed in (0, 1)] + [make_record(settings={"rank": 4})]
    assert any("lora [rank=4] " in line for line in rendered(records, PAIR))


def test_the_terminal_makes_the_best_bold() -> None:
    records = [make_record("lora", A, accuracy=81), make_record("full", A, accuracy=79)]
    console = Console(width=120, file=StringIO(), force_terminal=True, color_system="standard")
    console.print(leaderboard_table(leaderboard(records, {"mini": (A,)})))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.count("\x1b[1m") for line in lines if "lora" in line or "full" in line] == [2, 0]


def test_the_terminal_shows_long_suites_by_their_means() -> None:
    tasks = tuple(f"zoo/task{i}" for i in range(19))
    lines = rendered([make_record(task=task) for task in tasks], {"zoo": tasks})
    assert lines[1].split()[:5] == ["#", "method", "access", "mean", "trainable"]
    assert "each of the 19 tasks is in leaderboard.md" in lines[0]


def test_both_averages_of_vtab_and_its_group_means_are_labelled(tmp_path: Path) -> None:
    suites = {"vtab": load_suite("vtab").tasks}
    accuracies = {"natural": 90.0, "specialized": 80.0, "structured": 50.0}
    records = [make_record(task=task, accuracy=accuracies[group]) for group, tasks in load_suite("vtab").groups.items() for task in tasks]
    headings, _, row = [line.split("|") for line in markdown(tmp_path, records, suites).splitlines() if line.startswith("|")][:3]
    shown = dict(zip([cell.strip() for cell in headings], [cell.strip("* ") for cell in row], strict=True))
    assert [shown[f"mean {group}"] for group in accuracies] == ["90.0", "80.0", "50.0"]
    assert (shown["mean of 19"], shown["mean of group means"]) == ("71.1", "73.3")
    terminal = " ".join(rendered(records, suites))
    assert all(word in terminal for word in ("natural", "specialized", "structured", "71.1", "73.3"))


def test_the_terminal_stacks_what_may_not_be_compared() -> None:
    lines = rendered([make_record(), make_record(protocol="p-2")], PAIR)
    assert [line.strip() for line in lines if "protocol" in line] == [
        f"mini on mini_clip, protocol {protocol}: test accuracy, %" for protocol in (PROTOCOL, "p-2")
    ]
    assert not "".join(rendered([], PAIR)).strip()


OWN = ("folder:s", "csv:a|b $x$ <i>.csv", "folder:mean_x", "mini/digits+mini/shapes")
SHOWN = ("folder:s@r1", "csv:a_b_x_i_.csv@r1", "folder:mean_x@r1", "mini/digits+mini/shapes")  # without what may be a path of somebody's


def test_every_task_that_no_suite_lists_has_a_table_of_its_own(tmp_path: Path) -> None:
    records = [make_record(method, task, accuracy=accuracy) for method, accuracy in (("lora", 81.0), ("full", 79.0)) for task in (*OWN, A)]
    text = markdown(tmp_path, records)
    parts = text.split("\n## ")[1:]
    assert len(parts) == 1 + len(OWN)
    for part in parts[1:]:
        assert "No suite lists this task, so papers have no numbers for it." in part
        assert re.search(r"\| +1 \| lora +\| [^|]+\| +\*\*81.0\*\*", part) and "<i>" not in part
    assert "No suite lists" not in parts[0] and "mini/digits+mini/shapes" not in parts[0]
    frame = pd.read_csv(tmp_path / "leaderboard.csv")
    assert frame.groupby("suite").size().to_dict() == dict.fromkeys((*SHOWN, "mini"), 2)
    assert all(list(frame[frame["suite"] == task][task]) == [81.0, 79.0] for task in SHOWN)
    assert len({path.name for path in (tmp_path / "statistics").glob("*-methods.csv")}) == len(OWN)  # mini lacks a task


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_a_terminal_of_any_width_shows_every_method_with_its_mean(width: int) -> None:
    records = make_grid() + [make_record("lora", task, settings={"rank": 4}, accuracy=50.0) for task in TASKS]
    lines = rendered(records, SUITES, width)
    assert max(map(len, lines)) <= width
    for method in {record.method.name for record in records}:
        assert any(re.match(rf" *\d+ +{method} .*\d\d\.\d", line) for line in lines), method
    assert ("more columns: leaderboard.md" in " ".join(lines)) == (width < 120)


HOSTILE = ("[31mred", "[/red]", "[link=http://a]b[/link]", "a b", "\u202etxt.exe")


def test_names_reach_a_terminal_as_text() -> None:
    text = "\n".join(rendered([make_record(name, A) for name in HOSTILE], {"mini": (A,)}))
    assert all(name in text for name in ("[31mred", "[/red]", "[link=http://a]b[/link]", "\\u202etxt.exe"))
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)


def test_hostile_names_leave_every_file_of_the_leaderboard_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with pictures
    names = ("=1+1", "-2+3", "<script>alert(1)</script>", "$\\frac{1}{2}$", "a|b", "[31m", "`c`", "[x](http://e)")
    records = [make_record(name, task, accuracy=50.0 + i) for i, name in enumerate(names) for task in (A, B)]
    records.append(make_record("d", status="failed").model_copy(update={"error": "\n<b>\x1b]0;t\x07"}))
    text = markdown(tmp_path, records)
    assert not re.search(r"(?<!\\)<(script|b)>|\x1b|(?<!\\)`c`", text)
    for path in tmp_path.rglob("*.svg"):
        ElementTree.parse(path)
    for path in tmp_path.rglob("*.csv"):
        cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
        assert not {cell for cell in cells if cell.startswith(("=", "@"))} and "-2+3" not in cells
    assert len(list(tmp_path.rglob("*.svg"))) > 5


def test_each_table_is_computed_once_for_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()

    def counted(name: str) -> None:
        original = getattr(tables, name)

        def spy(*arguments: object) -> object:
            counts[name] += 1
            return original(*arguments)

        monkeypatch.setattr(tables, name, spy)

    for name in ("runs_frame", "leaderboard_of", "compare"):
        counted(name)
    records = [*make_grid(("zero_shot", "lora", "full"), TASKS[:2], (0,)), *make_grid(("lora", "full"), TASKS[2:4], (0,))]
    write_leaderboard(stored(tmp_path, records), {"a": TASKS[:2], "b": TASKS[2:4]})
    assert counts == {"runs_frame": 1, "leaderboard_of": 1, "compare": 2}
