"""Facts about datasets: sizes, class names, prompts, folder names, splits and downloads, read from YAML.

datasets.yaml, classnames.yaml and downloads.yaml lie beside this module. Installed packages may add to each from their folder ``facts`` (see
``petlbench.config.files``): datasets, or a suite for a dataset that is known already. Each file is parsed once per process, on first use.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter, ValidationError, model_validator

from petlbench.config.files import exists, load_suite, origin, packages
from petlbench.data.acquire.fetch import Fetch
from petlbench.errors import DataError
from petlbench.registry import NameTaken

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same rules, ten times as fast where it was compiled
SplitRule = Literal[
    "official", "three_way", "four_fifths", "seven_tenths", "thousand", "thousand_of_thirty_per_class"
]  # see layouts/_splits.py


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuiteData(_Strict):
    """Properties that the tasks of a suite share: ``data`` in the suite's YAML."""

    layouts: tuple[str, ...] | None = None  # that have, or suffice to make, the suite's splits; None: all
    split: SplitRule | None = None  # for datasets whose entry names no rule
    may_lack_classes: bool = False  # training sets are so small that a class without training images is usual


class SuiteEntry(_Strict):
    """A dataset as one suite uses it. A size is None when no source gives it or the split does not exist."""

    suite: str  # filled in on load
    train: PositiveInt | None = None
    val: PositiveInt | None = None
    trainval: PositiveInt | None = None  # both together, where only this is known
    test: PositiveInt
    sources: tuple[str, ...]  # of the sizes
    classes: PositiveInt | None = None  # where it differs from the dataset's
    names: str | None = None  # key of the class names; None: not known, methods that read names refuse the task
    template: str | None = None  # the prompt, with one {}
    lowercase: bool = False  # of the names in prompts
    folder: str | None = None  # in the layout vtab1k
    split: SplitRule | None = None  # how splits are made of the original; None: by the suite's rule, if it has one
    test_share: float | None = None  # of all images, for the rule thousand where the original has no test images
    uses_all_images: bool = False  # of the original, where others leave out classes or use official lists
    vpt_list: str | None = None  # key of the training and validation images in VPT's vtab_trainval_splits.json
    trained_on: str | None = None  # a test set only: training and validation images are those of this dataset in the same suite
    scored: str | None = None  # key of the labels among which the test images' are; None: all

    @model_validator(mode="after")
    def _check(self) -> SuiteEntry:
        if (self.names is None) != (self.template is None):
            raise ValueError("names and template belong together")
        if self.template is not None and self.template.count("{}") != 1:
            raise ValueError(f"a template has one {{}}, got '{self.template}'")
        return self


class CoopFiles(_Strict):
    """Paths of a dataset in the layout ``coop``; alternatives in the order in which they are tried."""

    folders: tuple[str, ...]  # below the data root
    images: tuple[str, ...]  # below the folder
    splits: tuple[str, ...] = ()  # split files, below the folder


class VptFiles(_Strict):
    """Paths of a dataset in the layout ``vpt_fgvc``."""

    folders: tuple[str, ...]
    images: str  # folder of the images, below


class ImagenetFiles(_Strict):
    """Paths of a dataset in the layout ``imagenet``."""

    folders: tuple[str, ...]
    numbered: bool = False  # class folders are named after the label, not the WordNet id


class Dataset(_Strict):
    """A dataset and its entries in suites."""

    name: str  # filled in on load
    about: str
    aliases: tuple[str, ...] = ()
    classes: PositiveInt
    layouts: tuple[str, ...]  # in the order in which they are tried
    lossless: bool = False  # the original images are not JPEG files
    coop: CoopFiles | None = None
    vpt_fgvc: VptFiles | None = None
    imagenet: ImagenetFiles | None = None
    urls: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()  # seen to exist, never used unasked
    terms: str | None = None
    suites: dict[str, SuiteEntry]

    def class_count(self, entry: SuiteEntry) -> int:
        """C in a suite."""
        return entry.classes or self.classes


class _Datasets(_Strict):
    sources: dict[str, str]  # short key -> repository and commit, or where else
    datasets: dict[str, Dataset]


class NameList(_Strict):
    """Class names in the order of the labels."""

    source: str
    names: tuple[str, ...]
    twice: tuple[str, ...] = ()  # names that two labels share, so that no label may be looked up by name
    nameless: tuple[int, ...] = ()  # labels whose name is empty on purpose

    @model_validator(mode="after")
    def _check(self) -> NameList:
        repeated = {name for name in self.names if self.names.count(name) > 1}
        if repeated != set(self.twice):
            raise ValueError(f"names that occur twice are {sorted(repeated)}, marked are {sorted(self.twice)}")
        if empty := [label for label, name in enumerate(self.names) if not name and label not in self.nameless]:
            raise ValueError(f"labels {empty} have no name")
        return self


class _ClassNames(_Strict):
    names: dict[str, NameList]
    wordnet_ids: tuple[str, ...]  # of ImageNet's labels
    subsets: dict[str, tuple[int, ...]]  # labels of ImageNet, ascending


_M = TypeVar("_M")


def datasets() -> dict[str, Dataset]:
    """Return all datasets by name."""
    return _datasets().datasets


def sources() -> dict[str, str]:
    """Return the meaning of the short keys of sources."""
    return _datasets().sources


def class_names(key: str) -> NameList:
    """Return the class names of that key."""
    return _class_names().names[key]


def wordnet_ids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1000 labels: sorted, so that a label is the position of its folder."""
    return _class_names().wordnet_ids


def downloads(dataset: str) -> tuple[Fetch, ...]:
    """Return what ``petlbench data prepare`` fetches for a dataset; nothing where people have to fetch it."""
    return _downloads().get(dataset, ())


def subset(key: str) -> tuple[int, ...]:
    """Return the labels of ImageNet that a test set of fewer classes has."""
    return _class_names().subsets[key]


@cache
def suite_data(suite: str) -> SuiteData:
    """Return the properties that the tasks of a suite share; the defaults for a suite without YAML. DataError when it is not valid."""
    if not exists("suites", suite):
        return SuiteData()
    try:
        return SuiteData.model_validate(load_suite(suite).data)
    except ValidationError as error:
        raise _invalid(f"{origin('suites', suite)}: data", error) from None


@cache
def _datasets() -> _Datasets:
    def validate(values: dict[str, Any]) -> _Datasets:
        for name, dataset in values["datasets"].items():
            dataset["name"] = name
            for suite, entry in dataset["suites"].items():
                entry["suite"] = suite
        return _Datasets.model_validate(values)

    return _merged("datasets", validate)


@cache
def _class_names() -> _ClassNames:
    return _merged("classnames", _ClassNames.model_validate)


@cache
def _downloads() -> dict[str, tuple[Fetch, ...]]:
    return _merged("downloads", TypeAdapter(dict[str, tuple[Fetch, ...]]).validate_python)


def _merged(name: str, validate: Callable[[dict[str, Any]], _M]) -> _M:
    """Return a file of facts with what installed packages add to it. Skip an invalid file of a package with a warning; DataError for ours."""
    (where, text), *others = _texts(name)
    values = dict(yaml.load(text, Loader=_Loader))  # a safe loader, either way
    try:
        result = validate(copy.deepcopy(values) if others else values)
    except ValidationError as error:
        raise _invalid(where, error) from None
    origins = {where: values}
    for where, text in others:
        try:
            added = yaml.load(text, Loader=_Loader)
            together = copy.deepcopy(values)
            _merge(together, added, where, origins)
            result = validate(copy.deepcopy(together))
        except ValidationError as error:
            warnings.warn(str(_invalid(where, error)), stacklevel=2)
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            warnings.warn(f"{where}: not a file of facts ({' '.join(str(error).split())})", stacklevel=2)
        else:
            values, origins[where] = together, added
    return result


def _texts(name: str) -> Iterator[tuple[str, str]]:
    """Yield path (for messages) and text of our file and of those of installed packages."""
    yield f"datasets/disk/facts/{name}.yaml", (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    for package in packages():
        if name in package.names("facts"):
            yield f"{package.prefix}facts/{name}.yaml", (package.root / "facts" / f"{name}.yaml").read_text(encoding="utf-8")


def _merge(values: dict[str, Any], added: dict[str, Any], where: str, origins: dict[str, Any], path: tuple[str, ...] = ()) -> None:
    """Add nested values in place. NameTaken for one that is there already."""
    for key, value in added.items():
        if key not in values:
            values[key] = value
        elif isinstance(values[key], dict) and isinstance(value, dict):
            _merge(values[key], value, where, origins, (*path, key))
        else:
            first = next(other for other, theirs in origins.items() if _has(theirs, (*path, key)))
            raise NameTaken(f"{'.'.join((*path, key))} is defined by {first} and by {where}; rename one of them or uninstall its package")


def _has(values: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _invalid(where: str, error: ValidationError) -> DataError:
    first = error.errors()[0]
    return DataError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
