"""Layout ``vtab1k``: the folders of VTAB-1k that NOAH, SSF, SPT and RepAdapter share, or one zip archive per task.

``vtab-1k/FOLDER/{train800,val200,test}.txt`` list images below FOLDER, ``NAME LABEL`` per line. The archive FOLDER.zip holds the same. The images are
JPEG files for all tasks. A fourth list, train800val200.txt, is the first two joined and is not read.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

from petlbench.data.listing import Files, Listing, ZipMembers
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._lists import numbered_lines, read_text

PARENTS = ("vtab-1k", "vtab1k", ".")
_MOST_BYTES = 2**26  # of a list; the longest has 1 MB
LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read a task's folder or archive."""
    if entry.folder is None:
        return None
    for parent in PARENTS:
        task = root / parent / entry.folder
        if (task / LISTS["train"]).is_file():
            return LocatedDataset("vtab1k", task, {split: _listed(task, name) for split, name in LISTS.items()})
        archive = task.with_name(f"{entry.folder}.zip")
        if archive.is_file() and (listed := _in_archive(archive)) is not None:
            return LocatedDataset("vtab1k", archive, listed)
    return None


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    if entry.folder is None:
        return None
    return f"{PARENTS[0]}/{entry.folder}/{{train800,val200,test}}.txt with images/, or {PARENTS[0]}/{entry.folder}.zip"


def _listed(task: Path, name: str) -> Listing:
    return Files(task, *numbered_lines(read_text(task / name), str(task / name)))


def _in_archive(archive: Path) -> dict[str, Listing] | None:
    """None for an archive of something else that has the same name."""
    try:
        with zipfile.ZipFile(archive) as opened:
            first = next((name for name in opened.namelist() if name.rpartition("/")[2] == LISTS["train"]), None)
            if first is None:
                return None
            above = first.removesuffix(LISTS["train"])
            if any(opened.getinfo(above + name).file_size > _MOST_BYTES for name in LISTS.values()):
                raise ValueError(f"a list of more than {_MOST_BYTES:,} bytes")
            texts = {split: opened.read(above + name).decode("utf-8-sig") for split, name in LISTS.items()}
    except (OSError, KeyError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: not a complete archive of a VTAB-1k task ({error}); fetch it again") from None
    listings: dict[str, Listing] = {}
    for split, text in texts.items():
        names, labels = numbered_lines(text, f"{archive}:{above}{LISTS[split]}")
        listings[split] = ZipMembers(archive, [above + name for name in names], labels)
    return listings
