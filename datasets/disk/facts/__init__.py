"""What is known of each dataset, read from facts/*.yaml: sizes, class names, prompts, folder names, where it comes from.

Nothing here is read before it is asked for, and each file is parsed once per process.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter, ValidationError, model_validator

from petlbench.data.acquire.fetch import Fetch
from petlbench.errors import DataError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same rules, ten times as fast where it was compiled


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """Where the layout ``coop`` has a dataset; alternatives in the order in which they are tried."""

    folders: tuple[str, ...]  # below the data root
    images: tuple[str, ...]  # below the folder
    splits: tuple[str, ...] = ()  # split files, below the folder


class VptFiles(_Strict):
    """Where the layout ``vpt_fgvc`` has a dataset."""

    folders: tuple[str, ...]
    images: str  # folder of the images, below


class ImagenetFiles(_Strict):
    """Where the layout ``imagenet`` has a dataset."""

    folders: tuple[str, ...]
    numbered: bool = False  # class folders are named after the label, not the WordNet id


class Dataset(_Strict):
    """A dataset and its entries in suites."""

    name: str  # filled in on load
    about: str
    aliases: tuple[str, ...] = ()
    classes: PositiveInt
    layouts: tuple[str, ...]  # in the order in which they are tried
    lossless: bool = False  # the original images are no JPEGs
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


_M = TypeVar("_M", _Datasets, _ClassNames)


def datasets() -> dict[str, Dataset]:
    """All datasets by name."""
    return _datasets().datasets


def sources() -> dict[str, str]:
    """What the short keys of sources mean."""
    return _datasets().sources


def class_names(key: str) -> NameList:
    """The class names of that key."""
    return _class_names().names[key]


def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 labels: sorted, so that a label is the position of its folder."""
    return _class_names().wordnet_ids


def downloads(dataset: str) -> tuple[Fetch, ...]:
    """What ``petlbench data prepare`` fetches for a dataset; nothing where people have to fetch it."""
    return _downloads().get(dataset, ())


def subset(key: str) -> tuple[int, ...]:
    """The labels of ImageNet that a test set of fewer classes has."""
    return _class_names().subsets[key]


@lru_cache(maxsize=1)
def _datasets() -> _Datasets:
    values = _parsed("datasets")
    for name, dataset in values["datasets"].items():
        dataset["name"] = name
        for suite, entry in dataset["suites"].items():
            entry["suite"] = suite
    return _validated(_Datasets, values, "datasets")


@lru_cache(maxsize=1)
def _class_names() -> _ClassNames:
    return _validated(_ClassNames, _parsed("classnames"), "classnames")


@lru_cache(maxsize=1)
def _downloads() -> dict[str, tuple[Fetch, ...]]:
    try:
        return TypeAdapter(dict[str, tuple[Fetch, ...]]).validate_python(_parsed("downloads"))
    except ValidationError as error:
        raise _broken("downloads", error) from None


def _parsed(name: str) -> dict[str, Any]:
    text = (files("petlbench.datasets.facts") / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=_Loader))  # a safe loader, either way


def _validated(model: type[_M], values: dict[str, Any], name: str) -> _M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _broken(name, error) from None


def _broken(name: str, error: ValidationError) -> DataError:
    first = error.errors()[0]
    return DataError(f"datasets/facts/{name}.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}")
