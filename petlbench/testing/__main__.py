"""``python -m petlbench.testing NAME [KEY=VALUE...]``: the conformance tests of one method."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

_MODULE = "from petlbench.testing import MethodConformance\n\n\nclass TestMethod(MethodConformance):\n    method = {name!r}\n    words = {words!r}\n"


def main(arguments: list[str]) -> int:
    """Exit code 0 when the method passes."""
    if not arguments:
        print("usage: python -m petlbench.testing METHOD [KEY=VALUE...]", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "test_conformance.py"
        module.write_text(_MODULE.format(name=arguments[0], words=tuple(arguments[1:])))
        return int(pytest.main([str(module), "-q", "-p", "no:cacheprovider", "--rootdir", folder, "-c", "/dev/null"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
