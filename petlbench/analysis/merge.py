"""Merge results folders, or refuse with reasons."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petlbench.analysis.validate import check_record, problems_among, problems_of
from petlbench.errors import RecordError
from petlbench.records.schema import Record, read_record
from petlbench.records.store import RecordStore

_LISTED = 5  # of the reasons for a refusal


@dataclass(frozen=True)
class Merged:
    """Counts of a merge."""

    records: int
    repeated: int  # duplicates: equal in several folders, or without the result that another folder has


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Merge results folders into a new one: records with their predictions and checkpoints. ``out`` appears complete or not at all.

    RecordError, with nothing written, if a record has a problem, if one run differs between folders (other than by having a result or none), or if
    one task on one backbone would have several protocols, data revisions or weights that no single folder holds together.
    """
    if out.exists():
        raise RecordError(f"{out} already exists; choose a new folder with out=DIR, and add the old one to the folders to merge")
    found = [(folder, path, _checked(path)) for folder in folders for path in _paths(folder)]
    chosen: dict[Path, tuple[Path, Path, Record]] = {}  # path in ``out`` -> (folder, path, record)
    refused = []
    for folder, path, record in found:
        target = RecordStore(out).path_of(record).with_name(path.name).relative_to(out)
        other = chosen.get(target)
        if other is None or (record.has_result and not other[2].has_result):
            chosen[target] = (folder, path, record)
        elif other[2].has_result != record.has_result:
            continue  # the one with a result is chosen
        elif other[2].key != record.key:
            refused.append(f"{path} and {other[1]} are one configuration on other weights or data; merge them into folders of their own")
        elif other[2] != record:
            refused.append(f"{path} and {other[1]} are one run with different content; delete one, or move it elsewhere")
    refused += _mixtures([(folder, record) for folder, _, record in found])
    among = problems_among(check_record(path) for _, path, _ in chosen.values())
    refused += [f"{path}: {problem}" for path, of_path in among.items() for problem in of_path]
    if refused:
        more = f"; and {len(refused) - _LISTED} more reasons" if len(refused) > _LISTED else ""
        raise RecordError("nothing merged: " + "; ".join(refused[:_LISTED]) + more)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-merge-", dir=out.parent) as scratch:
            results = Path(scratch) / "results"
            for target, (folder, path, record) in chosen.items():
                _copy(folder, path, record, results, results / target)
            results.rename(out)
    except OSError as error:
        raise RecordError(f"cannot write {out}: {error.strerror}; free space or choose another folder with out=DIR") from None
    return Merged(records=len(chosen), repeated=len(found) - len(chosen))


def _paths(folder: Path) -> list[Path]:
    if not (paths := RecordStore(folder).paths()):
        raise RecordError(f"no records below {folder / 'records'}; expected results folders, such as results")
    return paths


def _checked(path: Path) -> Record:
    """Read a record. RecordError if it has a problem."""
    if problems := problems_of(path):
        raise RecordError(f"{path}: {problems[0].removeprefix(f'{path}: ')}; repair or delete it (petlbench validate lists all problems)")
    return read_record(path)


def _mixtures(found: Sequence[tuple[Path, Record]]) -> list[str]:
    """Describe protocols, data revisions and weights that would share a column and that no single folder held together."""
    held: dict[tuple[str, str, str], dict[Path, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folder, record in found:
        if not record.has_result:
            continue
        values = {"protocol": record.protocol.id, "data revision": record.task_revision, "backbone weights": record.backbone.sha256[:12]}
        for what, value in values.items():
            held[record.task, record.backbone.name, what][folder].add(value)
    mixtures = []
    for (task, backbone, what), by_folder in held.items():
        together = set().union(*by_folder.values())
        if together not in by_folder.values():
            named = ", ".join(f"{' and '.join(sorted(values))} in {folder}" for folder, values in by_folder.items())
            mixtures.append(f"{task} on {backbone} would mix {what}: {named}; merge what belongs together")
    return mixtures


def _copy(folder: Path, path: Path, record: Record, results: Path, target: Path) -> None:
    """Copy a record and its files."""
    copies = zip(RecordStore(folder).files_of(record, path), RecordStore(results).files_of(record, target), strict=True)
    for source, copy in ((path, target), *copies):
        if source.is_file():  # a checkpoint may have been deleted
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
