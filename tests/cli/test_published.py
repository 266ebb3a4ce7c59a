"""published, audit and table on the command line."""

import csv
import io
import json
from pathlib import Path

from click.testing import CliRunner, Result

from petlbench.analysis.aggregate import leaderboard
from petlbench.cli import cli
from petlbench.config.files import load_suite
from petlbench.errors import PetlbenchError
from petlbench.records.store import RecordStore
from tests.report.paper_records import grid


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def refusal(*words: str) -> str:
    """The message of the error that a command ends with."""
    error = call(*words).exception
    assert isinstance(error, PetlbenchError)
    return str(error)


def test_published_lists_a_number_with_its_source_and_kind() -> None:
    (found,) = json.loads(call("published", "paper=noah", "method=lora_qkv_shared", "dataset=svhn", "--json").stdout)
    assert (found["value"], found["source_kind"], found["ours"]) == (85.3, "primary", "lora_qkv_shared")
    assert "NOAH repository" in found["source"]


def test_published_csv_can_be_audited(tmp_path: Path) -> None:
    text = call("published", "paper=convpass", "--csv").stdout
    assert {row["paper"] for row in csv.DictReader(io.StringIO(text))} == {"Convpass"}
    (tmp_path / "convpass.csv").write_text(text, encoding="utf-8")
    audited = json.loads(call("audit", str(tmp_path / "convpass.csv"), "--json").stdout)
    assert audited["verdicts"]["differs"] == 3


def test_published_without_words_lists_the_tables() -> None:
    assert "README VTAB-1k table" in call("published").stdout


def test_published_says_what_it_takes() -> None:
    assert "unknown key 'pape'. Did you mean 'paper'?" in refusal("published", "pape=noah")
    assert "no published number with paper=nobody" in refusal("published", "paper=nobody")
    assert "'paper=': a text is expected behind paper=" in refusal("published", "paper=")
    assert "'paper=vpt': paper stands twice" in refusal("published", "paper=spt", "paper=vpt")
    assert "--json and --csv exclude each other" in call("published", "--json", "--csv").output


def test_published_says_once_what_all_its_rows_share() -> None:
    first, heading = call("published", "paper=noah", "suite=vtab", "dataset=svhn").stdout.splitlines()[:2]
    assert first.startswith("all: paper, table NOAH, Table 1 · suite vtab · ")
    assert heading.split() == ["method", "here", "value"]


def test_published_json_says_how_a_method_differs_from_ours() -> None:
    (found,) = json.loads(call("published", "paper=convpass", "method=AdaptFormer", "dataset=svhn", "--json").stdout)
    assert found["note"].startswith("bottleneck 8")


def test_audit_names_the_definition_and_fails_where_an_average_follows_from_none(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("method,svhn,dtd,mean\nA,60.0,70.0,65.0\n")
    assert "mean of 2" in call("audit", str(table)).stdout
    table.write_text("method,svhn,dtd,mean\nA,60.0,70.0,66.0\n")
    assert call("audit", str(table)).exit_code == 1


def test_a_number_that_stands_twice_is_not_audited(tmp_path: Path) -> None:
    text = call("published", "paper=noah", "--csv").stdout
    (tmp_path / "twice.csv").write_text(text + text.splitlines()[-1] + "\n", encoding="utf-8")
    assert "twice.csv: 2 numbers for NOAH / Table 1" in refusal("audit", str(tmp_path / "twice.csv"))


def test_audit_of_all_published_tables_ends_well() -> None:
    result = call("audit")
    assert result.exit_code == 0
    assert "550 averages" in result.stdout


def test_the_leaderboard_can_be_audited(tmp_path: Path) -> None:
    frame = leaderboard(grid("vtab", "vpt", 89.0 + 1 / 3), {"vtab": load_suite("vtab").tasks})
    frame.to_csv(tmp_path / "leaderboard.csv", index=False)
    result = call("audit", str(tmp_path / "leaderboard.csv"), "--json")
    averages = {row["average"]: row["follows"] for row in json.loads(result.stdout)["averages"]}
    assert averages.keys() == {"mean", "mean_natural", "mean_specialized", "mean_structured", "mean_of_group_means"}
    assert result.exit_code == 0


def test_table_writes_files_without_any_run(tmp_path: Path) -> None:
    result = call("table", "craft", "--out", str(tmp_path))
    assert [Path(line).name for line in result.stdout.split()] == [
        f"craft-{panel}.{suffix}" for panel in ("few_shot", "shifts") for suffix in ("csv", "md", "tex")
    ]
    assert result.stderr == f"petlbench: no run in {tmp_path} belongs to this table, so it has the published numbers only\n"
    assert "No run of ours" in (tmp_path / "tables" / "craft-few_shot.md").read_text(encoding="utf-8")


def test_table_reads_the_records_of_its_folder(tmp_path: Path) -> None:
    for record in grid("fgvc", "vpt", 89.0):
        RecordStore(tmp_path).write(record)
    assert call("table", "vpt", "--out", str(tmp_path), "--seeds", "0,2").exit_code == 0
    assert "90.0† ± 1.4 (2)" in (tmp_path / "tables" / "vpt-fgvc.md").read_text(encoding="utf-8")


def test_table_says_what_it_takes() -> None:
    assert "no table 'bert'" in refusal("table", "bert")
    assert "unknown key 'suite'. Did you mean 'out'? Known: out, backbone, protocol, seeds (command line)" in refusal(
        "table", "vpt", "suite=vtab"
    )
    assert "seeds must be whole numbers such as 0,1,2, got 'all'" in refusal("table", "vpt", "--seeds", "all")
