"""The Slurm script, with stand-ins for Slurm and for Ray that say what they were asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from petlbench.cli.words import split_words
from petlbench.config.executor import split_choice

SCRIPT = Path(__file__).parents[2] / "tools" / "bench.sbatch"
STAND_INS = {
    "scontrol": '[ "$*" = "show hostnames node[7-9]" ] && printf "node7\\nnode8\\nnode9\\n"',
    "srun": 'for task in 7 8 9; do while [ "$1" != ray ]; do shift; done; "$@" || exit 1; done',
    "ray": 'printf "%s\\n" "$@" end >> "$ASKED"',
}


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Run the script as Slurm would on three machines; return the words that Ray got on one."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"NODELIST": "node[7-9]", "ID": "1234567", "NUM_NODES": "3"}
    own = {f"SLURM_JOB_{name}": value for name, value in slurm.items()} | {"SLURM_CPUS_ON_NODE": "64", "SLURM_GPUS_ON_NODE": "8"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked")}
    words = ["method=lora", "task=mini", "gpus_per_run=0.25", "out=/shared/my results"]
    subprocess.run(["bash", SCRIPT, *words], env=os.environ | own | path, check=True)
    machines = [part.strip().splitlines() for part in (tmp_path / "asked").read_text().split("\nend\n") if part]
    assert len(machines) == 3 and machines[0] == machines[1] == machines[2]
    return machines[0]


def test_every_machine_starts_ray_with_what_it_has_and_the_first_is_the_head(asked: list[str]) -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    command, *words = asked[: asked.index("--")]
    assert command == "symmetric-run"
    assert curate_and_validate_ray_start_args(list(words)) == ["--num-cpus=64", "--num-gpus=8"]  # Ray knows the others as its own
    assert words[words.index("--address") + 1] == "node7:24567" and words[words.index("--min-nodes") + 1] == "3"


def test_the_bench_gets_the_words_of_the_script_whole(asked: list[str]) -> None:
    program, command, *words = asked[asked.index("--") + 1 :]
    choice, settings = split_choice(split_words(words))
    assert (program, command, choice.executor, choice.address, choice.gpus_per_run) == ("petlbench", "bench", "ray", "auto", 0.25)
    assert settings == {"method": "lora", "task": "mini", "out": "/shared/my results"}
