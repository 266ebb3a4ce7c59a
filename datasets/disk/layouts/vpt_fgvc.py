"""Layout ``vpt_fgvc``: VPT's JSON files next to the images of CUB, NABirds, Flowers, Dogs and Cars.

``{train,val,test}.json`` map an image path to a class id. Ids may start anywhere and have gaps: the distinct ids of the training file, sorted, are
numbered from 0. VPT's code numbers the ids of each file by themselves, which shifts labels where a file lacks a class.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from petlbench.data.listing import Files
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._lists import first_folder, position_in, read_json

_IDS = TypeAdapter(dict[str, int])


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read a folder with at least train.json and test.json."""
    files = dataset.vpt_fgvc
    folder = first_folder(root, files.folders, "train.json") if files is not None else None
    if files is None or folder is None:
        return None
    ids = {split: read_json(folder / f"{split}.json", _IDS) for split in ("train", "val", "test") if (folder / f"{split}.json").is_file()}
    if "test" not in ids:
        raise DataError(f"{folder / 'train.json'} is there, but not test.json; both are needed")
    label_of = position_in(sorted(set(ids["train"].values())))
    splits = {}
    for split, of_split in ids.items():
        strangers = [name for name, identifier in of_split.items() if label_of(identifier) is None]
        if strangers:
            raise DataError(f"{folder / f'{split}.json'}: the class id of {strangers[0]}, {of_split[strangers[0]]}, is not in train.json")
        labels = [label for identifier in of_split.values() if (label := label_of(identifier)) is not None]
        splits[split] = Files(folder / files.images, list(of_split), labels)
    return LocatedDataset("vpt_fgvc", folder, splits)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    files = dataset.vpt_fgvc
    if files is None:
        return None
    images = "" if files.images == "." else f"{files.images}/"
    return f"{files.folders[0]}/{{train,val,test}}.json, images below {files.folders[0]}/{images}"
