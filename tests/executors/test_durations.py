"""How long runs take: measured where there are records, modelled elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petlbench.config.resolve import RunConfig
from petlbench.executors.durations import MOST_READ, Durations
from petlbench.runs.log import record_path
from tests.words import resolve


def of(out: Path, *words: str) -> RunConfig:
    return resolve(["task=mini/digits", f"out={out}", *words])


def write(config: RunConfig, seconds: object, **more: object) -> None:
    """Write as much of a record as is read for this."""
    record = {
        "status": "ok",
        "method": {"name": config.method},
        "backbone": {"name": config.backbone.name},
        "cost": {"total_seconds": seconds},
    }
    path = record_path(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | more))


def test_measured_seconds_of_other_seeds_count_and_results_alone(tmp_path: Path) -> None:
    for seed, seconds in enumerate((10.0, 30.0, 20.0)):
        write(of(tmp_path, "method=lora", f"seed={seed}"), seconds)
    write(of(tmp_path, "method=lora", "seed=3"), 500.0, status="failed")
    wanted = of(tmp_path, "method=lora", "seed=9", "train.epochs=50")
    assert Durations([wanted])(wanted) == 20.0


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "x", None, 10**400, [1]])
def test_a_record_that_holds_no_seconds_is_passed_over(tmp_path: Path, seconds: object) -> None:
    config = of(tmp_path, "method=lora")
    modelled = Durations([config])(config)
    write(config, seconds)
    assert Durations([config])(config) == modelled > 0


def test_what_was_not_measured_is_scaled_by_what_was(tmp_path: Path) -> None:
    """The same method took three times the model's seconds on another task."""
    known, other = of(tmp_path, "method=lora"), of(tmp_path, "method=lora", "task=mini/count")
    modelled = Durations([known, other])
    write(known, 3 * modelled(known))
    assert Durations([known, other])(other) == pytest.approx(3 * modelled(other), rel=1e-9)


def test_the_model_follows_epochs_images_and_evaluations_of_a_step(tmp_path: Path) -> None:
    def modelled(*words: str) -> float:
        config = of(tmp_path, *words)
        return Durations([config])(config)

    few, many = modelled("method=lora", "train.epochs=10"), modelled("method=lora", "train.epochs=1000")
    assert 50 < many / few < 100  # 100 times the training, and the test as before
    assert modelled("method=lora", "protocol.shots=1") < modelled("method=lora", "protocol.shots=16") <= modelled("method=lora")
    once, often = modelled("method=vp_spsa", "method.spsa.repeats=1"), modelled("method=vp_spsa", "method.spsa.repeats=8")
    assert 4 < often / once <= 8
    assert modelled("method=linear", "backbone=timm:vit_base_patch16_224") > 20 * modelled("method=linear")


def test_few_records_are_read_whatever_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(30):
        write(of(tmp_path, "method=lora", f"seed={seed}"), 1.0)
    read: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr("petlbench.executors.durations.read_regular", lambda path, most: read.append(path) or real(path))
    configs = [of(tmp_path, "method=lora", f"seed={seed}") for seed in range(40)]
    Durations(configs)
    assert len(read) == MOST_READ
