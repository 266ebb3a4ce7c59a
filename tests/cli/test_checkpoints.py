"""Exporting and evaluating what was learned, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petlbench.checkpoints.file import packed_checkpoint
from tests.conftest import Call
from tests.deployed import SIZES, learned

KEYS = ("task", "method", "backbone", "samples", "accuracy", "raw_values_outside", "is_exact", "largest_residual", "difference")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved, path = learned(*SIZES), tmp_path_factory.mktemp("run") / "pgn.safetensors"
    path.write_bytes(packed_checkpoint(saved.state, saved.config, saved.backbone_sha256, saved.class_names))
    return path


def test_a_run_with_tokens_is_exported_and_evaluated_in_both_ways(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    folder = str(tmp_path / "artifact")
    code, out, _ = call("export", str(checkpoint), folder)
    assert (code, out) == (0, f"artifact: {folder} (5 patches of 8 pixels, which give their tokens exactly)\n")
    code, out, _ = call("evaluate", folder, "threads=1", "--json")
    told = json.loads(out)
    assert code == 0 and told.keys() >= set(KEYS)
    assert list(told["accuracy"]) == ["pixels", "clipped", "rounded", "latent"]
    code, out, _ = call("evaluate", folder, "threads=1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "accuracy on 500 test images of mini/digits, mini_clip:"
    assert [line.rpartition("  ")[2] for line in lines[1:5]] == [
        "tokens",
        "patches of pixels in their place",
        "… clipped to what a picture holds",
        "… and rounded to 8 bits",
    ]
    assert lines[5].startswith("patches give their tokens exactly; ")
    assert lines[6].startswith("patches change accuracy by ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("evaluate", "."), "no artifact (No such file or directory: artifact.json); make one with petlbench export CHECKPOINT"),
        (("export", "{checkpoint}"), "export takes CHECKPOINT and TARGET"),
        (("evaluate", "{checkpoint}", "method.prompts=4"), "evaluate takes backbone, data_root, device, task, threads, url, got method"),
    ],
)
def test_what_cannot_be_exported_or_evaluated_is_one_line(
    words: tuple[str, ...], expected: str, checkpoint: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*(word.format(checkpoint=checkpoint) for word in words))
    assert (code, out) == (2, "")
    assert expected in err and err.count("\n") == 1
