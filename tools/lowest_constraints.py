"""Write constraints-lowest.txt: each dependency at the lowest version that pyproject.toml allows. ``python -m tools.lowest_constraints``

CI installs with it and runs the fast tests, so that a lower bound is a promise that somebody keeps. What the dependencies depend on in turn is
left to pip, and so is how new the tools of the ``dev`` and ``docs`` extras are: nobody installs those to use petlbench.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "constraints-lowest.txt"
_BOUND = re.compile(r"(?P<name>[\w.-]+)>=(?P<version>[\d.]+)")
_NOT_OF_USERS = ("dev", "docs")


def lowest(project: dict[str, Any]) -> str:
    """The file's text. ValueError for a dependency that is not written as NAME>=VERSION."""
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name not in _NOT_OF_USERS}
    lines = [
        "# Written by `python -m tools.lowest_constraints` from the lower bounds in pyproject.toml; CI runs the fast tests with these versions."
    ]
    for requirement in [*project["dependencies"], *(requirement for wanted in extras.values() for requirement in wanted)]:
        bound = _BOUND.fullmatch(requirement)
        if bound is None:
            raise ValueError(f"pyproject.toml: expected NAME>=VERSION, got '{requirement}'; give it a lower bound and nothing else")
        lines.append(f"{bound['name']}=={bound['version']}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the file."""
    TARGET.write_text(lowest(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]), encoding="utf-8")


if __name__ == "__main__":
    main()
