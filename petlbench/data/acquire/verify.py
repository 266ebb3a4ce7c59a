"""Check a dataset on the disk before a run does: counts, unreadable images, duplicates, formats, labels, class names."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from petlbench.data.acquire.presence import presence
from petlbench.data.images import decode_bytes, is_jpeg
from petlbench.data.listing import Files, Listing, ZipMembers
from petlbench.data.load import find_task
from petlbench.data.source import ImageSource, reading_order
from petlbench.data.streaming import in_order
from petlbench.data.task import MADE_HERE, SPLITS, DiskTask, TaskSpec
from petlbench.errors import DataError
from petlbench.registry import TASKS

Progress = Callable[[int, int], None]  # images checked, images in total
_AHEAD = 256
_NAMED = 3  # examples that a finding gives


@dataclass(frozen=True)
class Finding:
    """A problem, or something worth knowing, and what to do about it."""

    level: Literal["error", "warning", "note"]
    problem: str
    action: str


@dataclass(frozen=True)
class Counts:
    """Size of a split: its images, the classes that have any, and the fewest and most images of such a class."""

    images: int
    classes: int
    fewest: int
    most: int


@dataclass(frozen=True)
class Verification:
    """The findings about a task."""

    task: str
    layout: str
    split: str  # how its splits came about
    counts: dict[str, Counts]
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)


def verify(name: str, root: Path | None, progress: Progress = lambda done, total: None) -> Verification:
    """Check every image of a task. Problems of the data become findings; ConfigError for an unknown task."""
    target = TASKS.get(name.partition(":")[0])
    if isinstance(target, DiskTask):
        found = presence(name, root)
        if found.state in ("downloadable", "manual"):
            fetch = f"petlbench data prepare {name} data_root={root or 'DIR'}"
            action = fetch if found.state == "downloadable" else f"fetch it by hand: {target.source or 'docs/datasets.md'}"
            return Verification(name, "", "", {}, (Finding("error", f"not there; expected {found.where}", action),))
    try:
        with _unwarned():
            spec = find_task(name, root)
        sources = {split: spec.source(split) for split in SPLITS}
    except DataError as error:
        return Verification(name, "", "", {}, (Finding("error", str(error), "repair it and verify again"),))
    findings = [
        *(_sizes(spec, target) if isinstance(target, DiskTask) else ()),
        *(Finding("warning", text, "move or rename what should be read") for text in spec.left_out),
        *_classes(spec, sources),
        *_images(spec, sources, isinstance(target, DiskTask) and target.is_lossless, progress),
    ]
    if spec.split in MADE_HERE:
        action = "results say so as well; compare them with results on the same split only"
        findings.append(
            Finding("note", f"its splits were made here ({spec.split}), since no published list lies beside the images", action)
        )
    return Verification(name, spec.layout, spec.split, {split: _counts(source) for split, source in sources.items()}, tuple(findings))


@contextmanager
def _unwarned() -> Iterator[None]:
    """Suppress the warnings of a run: the findings contain them."""
    logger = logging.getLogger("petlbench.data")
    logger.addFilter(_is_error)
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _counts(source: ImageSource) -> Counts:
    per_class = np.unique(source.labels, return_counts=True)[1]
    return Counts(len(source.labels), len(per_class), int(per_class.min()), int(per_class.max()))


def _sizes(spec: TaskSpec, registered: DiskTask) -> Iterator[Finding]:
    found = dict(spec.sizes)
    if spec.val_in_train is None:
        found["trainval"] = found["train"] + found["val"]
    else:  # the layout has no split to validate on
        found["trainval"] = found["train"]
        del found["val"]
    for split, expected in registered.sizes.items():
        count = found.get(split, expected)
        if "trainval" in registered.sizes and split in ("train", "val") and found["trainval"] == registered.sizes["trainval"]:
            continue
        if count < expected:
            action = "copy or unpack it again; a run would warn and go on with what is there"
            yield Finding("error", f"{expected:,} {split} images expected, {count:,} found", action)
        elif count > expected:
            yield Finding(
                "warning", f"{expected:,} {split} images expected, {count:,} found", "see whether it is another version of the dataset"
            )
    if spec.scored is None and len(spec.class_names) != registered.classes:
        action = "give the list one name per class, in the order of the labels"
        yield Finding("error", f"{registered.classes} classes expected, {len(spec.class_names)} class names found", action)


def _classes(spec: TaskSpec, sources: dict[str, ImageSource]) -> Iterator[Finding]:
    """A class without training images is a warning, since small training sets are drawn; without test images it is an error."""
    for split in ("train", "test"):
        labels = spec.scored if split == "test" and spec.scored is not None else range(len(spec.class_names))
        missing = sorted(set(labels) - set(sources[split].labels.tolist()))
        if missing:
            problem = (
                f"{len(missing)} of {len(labels)} classes have no {split} image: {_named([spec.class_names[label] for label in missing])}"
            )
            yield Finding("error" if split == "test" else "warning", problem, "copy or unpack the missing images again")


@dataclass(frozen=True)
class _Image:
    split: str
    location: str
    digest: bytes  # of the content; empty: the image is made here
    is_jpeg: bool
    broken: str  # why it cannot be decoded; empty: it can


def _images(spec: TaskSpec, sources: dict[str, ImageSource], is_lossless: bool, progress: Progress) -> Iterator[Finding]:
    """Decode all images in several threads; look for broken ones, copies and JPEG files."""
    splits = [split for split in SPLITS if split != "val" or spec.val_in_train is None]  # else val is a part of train
    jobs = [(split, index) for split in splits for index in _reading_order(sources[split])]
    seen: dict[bytes, _Image] = {}
    broken: list[str] = []
    shared: list[str] = []
    copied: list[str] = []
    jpegs = 0
    for done, image in enumerate(in_order(lambda job: _check_image(job[0], sources[job[0]], job[1]), jobs, _AHEAD), start=1):
        progress(done, len(jobs))
        jpegs += image.is_jpeg
        if image.broken:
            broken.append(image.broken)
        first = seen.setdefault(image.digest, image) if image.digest else image
        if first.split != image.split:
            (shared if first.location == image.location else copied).append(
                f"{image.location} ({image.split}) and {first.location} ({first.split})"
            )
    if broken:
        yield Finding("error", f"{len(broken):,} images cannot be read: {_named(broken)}", "fetch these files again")
    if shared:
        yield Finding(
            "error", f"{len(shared):,} images are in two splits: {_named(shared)}", "correct the lists; accuracy would be too high"
        )
    if copied:
        action = "a known property of some datasets; where it is not, remove the copies"
        yield Finding("warning", f"{len(copied):,} images have the content of one in another split: {_named(copied)}", action)
    if is_lossless and jpegs:
        action = "compare only with results on such copies: on small images they move accuracy by points"
        yield Finding("warning", f"{jpegs:,} images are JPEG copies of images that were published without loss", action)


def _reading_order(source: ImageSource) -> list[int]:
    return reading_order(source, np.arange(len(source.labels))).tolist()


def _check_image(split: str, source: ImageSource, index: int) -> _Image:
    location, digest, jpeg = f"{split} image {index}", b"", False
    try:
        if isinstance(source, Listing):
            location = source.location(index)
            content = source.read(index)
            digest = hashlib.blake2b(content, digest_size=16).digest()
        if isinstance(source, (Files, ZipMembers)):
            jpeg = is_jpeg(content)
            decode_bytes(content, location)
        else:
            source.decode(index)
    except DataError as error:
        return _Image(split, location, digest, jpeg, str(error).partition("; ")[0])
    return _Image(split, location, digest, jpeg, "")


def _named(items: list[str]) -> str:
    return "; ".join(items[:_NAMED]) + ("; …" if len(items) > _NAMED else "")
