"""Commands that tests start as a user does: in a session of their own, with a plugin that is installed for them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def installed(site: Path, name: str, source: str) -> Path:
    """Write a package of one module, whose class ``Name`` is a method, into a folder for PYTHONPATH; returns the folder."""
    (site / f"{name}-1.dist-info").mkdir(parents=True)
    (site / f"{name}.py").write_text(source)
    (site / f"{name}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (site / f"{name}-1.dist-info" / "entry_points.txt").write_text(f"[petlbench.methods]\n{name} = {name}:{name.title()}\n")
    return site


def start_in_session(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command in a folder, with pipes for what it prints."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_hear_signals,  # noqa: PLW1509 (no threads here)
    )


def _hear_signals() -> None:
    """Undo what this session may have inherited from a shell that started it in the background."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
