"""The script through its command line, on the smallest settings, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import whitebox
from benchmarks.subjects import Settings
from benchmarks.summary import summarise
from benchmarks.workers import Measurement

BATCH = 4
SETTINGS = Settings(backbone="mini_clip", precision="auto", device="cpu", batch=2, steps=1, rounds=1, threads=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    """Run the command; return its result and the JSON that it wrote."""
    target = tmp_path_factory.mktemp("bench") / "whitebox.json"
    words = ["--backbone", "mini_clip", "--methods", "lora,bitfit", "--batch", BATCH, "--steps", 1, "--rounds", 2, "--threads", 1]
    result = CliRunner().invoke(whitebox.main, [*map(str, words), "--device", "cpu", "--json", str(target)], catch_exceptions=False)
    return result, json.loads(target.read_text())


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for group in document["groups"] for row in group["rows"]}


def test_every_configuration_has_a_row_and_a_line_of_the_table(finished: tuple[Result, dict[str, Any]]) -> None:
    result, document = finished
    assert result.exit_code == 0 and document["failures"] == {}
    assert list(rows(document)) == ["plain_full", "plain_peft", "lora", "bitfit"]
    assert all(name in result.stdout for name in rows(document))


def test_medians_are_those_of_the_counted_rounds(finished: tuple[Result, dict[str, Any]]) -> None:
    for row in rows(finished[1]).values():
        for part in ("forward", "step"):
            assert len(row["samples"][part]) == 2
            assert row[f"{part}_seconds"] == median(row["samples"][part])
        assert row["images_per_second"] == pytest.approx(BATCH / row["step_seconds"])


def test_ratios_are_quotients_of_the_medians(finished: tuple[Result, dict[str, Any]]) -> None:
    document = finished[1]
    gemm, full, peft = document["groups"][0]["gemm"], rows(document)["plain_full"], rows(document)["plain_peft"]
    for row in rows(document).values():
        floor = row["flops"]["step"] / gemm["flops"]["step"] * median(gemm["samples"]["step"])
        assert row["ratios"]["step_to_plain_full"] == pytest.approx(median(row["samples"]["step"]) / median(full["samples"]["step"]))
        assert row["ratios"]["step_to_floor"] == pytest.approx(median(row["samples"]["step"]) / floor)
        assert row["ratios"]["model_memory_to_plain_full"] == pytest.approx(row["model_mb"] / full["model_mb"])
        assert row["ratios"]["step_to_plain_peft"] == pytest.approx(median(row["samples"]["step"]) / median(peft["samples"]["step"]))
        assert row["model_mb"] == row["peak_mb"] - row["imported_mb"] > 0


def test_the_floor_is_that_of_the_backbone_at_the_batch_size(finished: tuple[Result, dict[str, Any]]) -> None:
    """mini_clip per image: patch embedding 786,432; a block's qkv 1,671,168 and fc1 2,228,224 of 6,684,672 in linears, 147,968 in attention.

    The plain loops run all of the last block, the methods its MLP for one of 17 tokens.
    """
    linears, attention, left_out = 6 * 6_684_672, 6 * 147_968, 2 * 2_228_224 * 16 // 17
    plain = 786_432 + linears + attention
    forward = {"plain_full": plain, "plain_peft": plain} | dict.fromkeys(("lora", "bitfit"), plain - left_out)
    steps = {
        "plain_full": 3 * plain - 786_432,
        "plain_peft": plain + linears - 1_671_168 + 2 * attention,
        "lora": plain + linears - 1_671_168 + 2 * attention - 2 * left_out,
        "bitfit": plain + linears + 2 * attention - 2 * left_out,
    }
    for name, row in rows(finished[1]).items():
        assert row["flops"] == {"forward": BATCH * forward[name], "step": BATCH * steps[name]}, name


def test_the_document_says_what_was_measured_where(finished: tuple[Result, dict[str, Any]]) -> None:
    document = finished[1]
    assert document["machine"].keys() >= {"cpu", "gpu", "threads", "packages", "precision", "platform"}
    assert document["settings"]["rounds"] == 2 and document["code"]["version"]
    shapes = [f"{name} {direction}" for name in ("qkv", "proj", "fc1", "fc2") for direction in ("forward", "gradient")]
    gflops = document["groups"][0]["gemm"]["gflops"]
    assert list(gflops) == shapes and min(gflops.values()) > 0


def test_a_configuration_that_fails_is_one_line_and_an_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = {"gemm": measurement("fp32", 1.0), "plain_full": measurement("fp32", 4.0)}
    monkeypatch.setattr(whitebox, "measure", lambda *_: (measured, {"lora": "RuntimeError: out of order"}))
    result = CliRunner().invoke(whitebox.main, ["--methods", "lora", "--device", "cpu", "--json", str(tmp_path / "whitebox.json")])
    assert result.exit_code == 1
    assert "petlbench: lora: RuntimeError: out of order" in result.stderr.splitlines() and "plain_full" in result.stdout
    assert json.loads((tmp_path / "whitebox.json").read_text())["failures"] == {"lora": "RuntimeError: out of order"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--methods", "lroa"], "no method 'lroa'. Did you mean 'lora'?"),
        (["--methods", "linear"], "'linear' does not change the network"),
        (["--methods", "lora", "--device", "abacus"], "device must be auto, cpu, cuda or cuda:N"),
        (["--methods", "lora", "--json", "nowhere/at/all.json"], "there is no folder nowhere/at"),
    ],
)
def test_bad_input_is_refused_before_a_worker_starts(words: list[str], expected: str) -> None:
    result = CliRunner().invoke(whitebox.main, words)
    assert result.exit_code == 2 and expected in result.stderr and len(result.stderr.splitlines()) == 1


def test_methods_are_measured_in_groups_beside_the_references() -> None:
    assert whitebox.chunks(["a", "b", "c"], 2) == [["a", "b"], ["c"]]


def measurement(number_format: str, seconds: float) -> Measurement:
    facts = {"number_format": number_format, "repetitions": 2, "peak_mb": 30.0, "imported_mb": 10.0, "gflops": {}, "machine": {}}
    return Measurement([9.0, seconds], [9.0, 3 * seconds], facts | {"flops": {"forward": 100.0, "step": 300.0}})


def test_rounds_are_divided_by_their_repetitions() -> None:
    group = summarise({"gemm": measurement("fp32", 1.0), "plain_full": measurement("fp32", 4.0)}, SETTINGS)
    assert (group["rows"][0]["forward_seconds"], group["rows"][0]["step_seconds"]) == (2.0, 6.0)


def test_there_is_no_floor_in_a_number_format_whose_rate_was_not_measured() -> None:
    group = summarise(
        {"gemm": measurement("bf16", 1.0), "plain_full": measurement("fp32", 4.0), "lora": measurement("bf16", 4.0)}, SETTINGS
    )
    assert [row["ratios"]["step_to_floor"] for row in group["rows"]] == [None, 4.0]
