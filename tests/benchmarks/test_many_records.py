"""The made-up results folder: records that hold, and about as many bad ones as it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import many_records, reports
from petlbench.analysis.validate import check_record
from petlbench.records.store import RecordStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("many")
    result = CliRunner().invoke(many_records.main, [str(results), "--count", "40", "--suites", "mini"], catch_exceptions=False)
    assert result.output == f"{results}: 40 records\n"
    return results


def test_nothing_contradicts_anything_but_where_it_says_so(folder: Path) -> None:
    problems = [problem for path in RecordStore(folder).paths() for problem in check_record(path).problems]
    assert not [line for line in problems if "the predictions give" not in line and "not a complete JSON" not in line]
    assert len(problems) < 4


def test_methods_take_turns_and_the_same_arguments_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    paths = many_records.write_records(tmp_path, 34, ["mini"])
    assert len({path.name.split("-")[0] for path in paths}) >= 32
    assert all(path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes() for path in paths)


def test_the_benchmark_measures_each_command_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "COMMANDS", {"version": ["--version"], "never": ["--version"]})
    result = CliRunner().invoke(reports.main, ["--folder", str(tmp_path), "--commands", "version"], catch_exceptions=False)
    assert result.exit_code == 0 and "version" in result.output and "never" not in result.output


def test_a_command_that_has_a_bug_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="ended with 2"):
        reports.cost_of(["no-such-command"], tmp_path)
