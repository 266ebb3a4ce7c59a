"""The typed sections of a run's configuration. The comment beside or above a field is its help; each can be set as ``section.field=value``.

A new field is declared with ``added``: every other one changes the ids of all runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal
from urllib.parse import urlsplit

from petlbench.config.augment import Interpolation, canonical, parse
from petlbench.config.every import parse_every
from petlbench.config.identity import File, added

# The most of what a run starts or holds at a time, beyond any machine of today: a mistyped number must not take the machine down
MOST_THREADS = 1024
MOST_IMAGES = 1_000_000  # of a batch, or classes of an answer
MOST_EPOCHS = 1_000_000
# of the schedules that leave no choice
_SCHEDULE_STEPS = {"timm_cosine": "epoch", "dassl_cosine": "epoch", "vp_cosine": "step", "pgn_cosine": "epoch"}

_LARGEST_SIDE = 4096  # pixels; a square image of this side takes up 50 MB


def _check_at_least(least: int, section: Protocol | Train | QueryConfig | Limits | Execution, *names: str) -> None:
    kinds = {field.name: str(field.type) for field in fields(section)}
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be an int >= {least}{' or null' if 'None' in kinds[name] else ''}, got {value}")


def _check_at_most(most: int, section: Train | QueryConfig | Execution, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and value > most:
            raise ValueError(f"{name} must be an int <= {most:,} (more would exhaust any machine), got {value:,}")


@dataclass
class Protocol:
    """Sets how images are prepared and how a result is chosen. Two runs may share a table column only when their protocols are equal."""

    name: str = "native"  # name of the protocol, part of its id
    resize: int | None = None  # side in pixels that images are resized to, at most 4096; null: the backbone's input size
    resize_mode: Literal["squash", "short"] = "squash"  # squash: to a square; short: the shorter side, then a centre crop of the input size
    interpolation: Interpolation = "bicubic"  # filter of the resizing; bilinear_aliased is not antialiased, as in TensorFlow
    # mean and standard deviation that pixels are normalised with; backbone: those of its card
    normalise: Literal["backbone", "imagenet", "half", "none"] = "backbone"
    augment: str = "none"  # operations on training images, such as random_resized_crop(0.5) + flip; see docs/protocols.md
    shots: int | None = None  # training images per class, drawn as CoOp draws them; null: all
    split_seed: int | None = 1  # seed that draws the few-shot images; null: the run's seed, so that every seed sees other images
    train_on: Literal["train", "trainval"] = "train"  # training images: the train split, or train and val together
    # epoch whose result is reported: the last, the best on val, or the best on test, which is only for comparison with papers that did so
    selection: Literal["last", "best_val", "oracle_test"] = "last"
    select_every: int = 1  # best_val and oracle_test evaluate one epoch in this many, starting with the first
    select_tail: int = 1  # best_val and oracle_test evaluate each of this many last epochs, too
    # class with fewer images than shots: refuse the run, keep all its images, or repeat images (draw with replacement)
    shortage: Literal["refuse", "keep", "repeat"] = added("refuse")
    # images that give the result: the test split, or the val split while settings are tuned; a run scored on val does not open the test split
    score_on: Literal["test", "val"] = added("test")

    def __post_init__(self) -> None:
        _check_at_least(1, self, "resize", "shots", "select_every", "select_tail")
        if self.resize is not None and self.resize > _LARGEST_SIDE:
            raise ValueError(f"resize must be an int from 1 to {_LARGEST_SIDE} or null, got {self.resize}")
        self.augment = canonical(parse(self.augment))  # one text, hence one id, for one meaning
        if self.train_on == "trainval" and self.selection == "best_val":
            raise ValueError(
                "selection=best_val needs a validation split that is not trained on; set protocol.train_on=train, or protocol.selection=last"
            )
        if self.score_on == "val" and self.train_on == "trainval":
            raise ValueError("score_on=val needs a validation split that is not trained on; set protocol.train_on=train")
        if self.score_on == "val" and self.selection == "oracle_test":
            raise ValueError("selection=oracle_test looks at test images, which score_on=val leaves closed; set protocol.selection=last")


@dataclass
class Train:
    """The recipe of the gradient loop."""

    epochs: int = 100  # passes over the training images
    batch_size: int = 64  # training images per batch
    drop_last: bool = False  # leave out the last batch of an epoch when it is smaller than batch_size, unless it is the only one
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd adds weight decay to the gradient, adamw decouples it
    learning_rate: float = 1e-3  # highest rate of the schedule
    scale_learning_rate: bool = False  # multiply learning_rate by batch_size / 256, as VPT does
    weight_decay: float = 1e-4  # weight decay of matrices; vectors and scalars are not decayed unless the method says so
    momentum: float = 0.9  # momentum of optimizer=sgd
    # shape of the learning rate after the warm-up; timm_cosine is that of NOAH and SPT, the others with a prefix of BlackVIP, VP and PGN
    schedule: Literal["cosine", "constant", "timm_cosine", "dassl_cosine", "vp_cosine", "pgn_cosine"] = "cosine"
    schedule_step: Literal["epoch", "step"] = "epoch"  # change the learning rate once per epoch or before every step
    warmup_epochs: float = 10.0  # length of the linear warm-up, which starts at warmup_learning_rate
    warmup_learning_rate: float = 0.0  # rate at the start of the warm-up, absolute; 0 in VPT
    min_learning_rate: float = 0.0  # rate at the end of a cosine, absolute; pgn_cosine ends at 1 % of the highest rate or above
    label_smoothing: float = 0.0  # share of the target probability that is spread over all classes
    accumulate: int = 1  # batches whose gradients are added up for one optimiser step
    clip_norm: float | None = None  # largest norm of the gradient, which is scaled down to it; null: no limit
    drop_path: float = 0.0  # stochastic depth while training: rises from 0 in the first block to this rate in the last
    checkpoint_activations: bool = False  # recompute a block's activations in the backward pass instead of storing them
    compile: bool = False  # compile every block with torch.compile

    def __post_init__(self) -> None:
        _check_at_least(1, self, "epochs", "batch_size", "accumulate")
        _check_at_most(MOST_EPOCHS, self, "epochs")
        _check_at_most(MOST_IMAGES, self, "batch_size", "accumulate")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not math.isfinite(self.peak_learning_rate):
            raise ValueError(f"learning_rate {self.learning_rate:g} times batch_size / 256 is beyond what a number can hold; lower it")
        for name in ("weight_decay", "momentum", "label_smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("warmup_learning_rate", "min_learning_rate"):
            if not 0 <= getattr(self, name) <= self.peak_learning_rate:
                raise ValueError(f"{name} must lie between 0 and the highest rate, {self.peak_learning_rate:g}, got {getattr(self, name)}")
        if self.schedule_step != (required := _SCHEDULE_STEPS.get(self.schedule, self.schedule_step)):
            raise ValueError(f"schedule={self.schedule} changes once per {required}; set train.schedule_step={required}")
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be < 1, got {self.label_smoothing}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must lie in [0, 1), got {self.drop_path}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be > 0 or null, got {self.clip_norm}")
        longest = math.inf if self.schedule == "pgn_cosine" else self.epochs  # PGN's may be a warm-up and no more
        if not 0 <= self.warmup_epochs < longest:
            raise ValueError(f"warmup_epochs must lie in [0, epochs), got {self.warmup_epochs} of {self.epochs} epochs")

    @property
    def peak_learning_rate(self) -> float:
        """The highest rate of the schedule."""
        return self.learning_rate * (self.batch_size / 256 if self.scale_learning_rate else 1.0)


@dataclass
class Numerics:
    """Random numbers and number format. Set at the top level: ``seed=1 precision=bf16``."""

    seed: int = 0  # seed of all random numbers of the run
    # number format; auto: bf16 where the hardware multiplies it and the model is large enough to gain
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be an int in [0, 2**32), got {self.seed}")


@dataclass
class BackboneChoice:
    """The frozen model of a run."""

    name: str = "mini_clip"  # name of a backbone; petlbench ls backbones lists all
    checkpoint: File | None = None  # local weight file to use instead of the backbone's own

    @property
    def is_remote(self) -> bool:
        return self.name.partition(":")[0] == "remote"


@dataclass
class QueryConfig:
    """Sets how much a queried model reveals, and how it is queried."""

    output: Literal["logits", "probabilities", "top_k", "label"] = "logits"  # most that a query returns; a server may return less
    top_k: int = 5  # classes that a query returns under output=top_k
    batch: int = 256  # most images per call; a server may take fewer

    def __post_init__(self) -> None:
        _check_at_least(1, self, "top_k", "batch")
        _check_at_most(MOST_IMAGES, self, "top_k", "batch")


@dataclass
class Limits:
    """Limits on what a method may send to a black box; the query that would exceed one is not sent. null: no limit."""

    calls: int | None = None  # most calls of the model; null: no limit
    images: int | None = None  # most images that are sent; null: no limit
    contexts: int | None = None  # most prompt contexts that are sent; null: no limit
    texts: int | None = None  # most texts that are sent; null: no limit
    bytes: int | None = None  # most bytes that are sent: images and contexts in float32, and texts; null: no limit

    def __post_init__(self) -> None:
        _check_at_least(0, self, "calls", "images", "contexts", "texts", "bytes")


@dataclass
class Budget(Limits):
    """The limits of training, with what training leaves for the evaluations of its curve; and of the evaluations that follow from the protocol."""

    val: Limits = added(Limits())  # on validation images, for protocol.selection=best_val
    test: Limits = added(Limits())  # on test images: the final test, and protocol.selection=oracle_test


@dataclass
class Execution:
    """Sets where and how a run is carried out. Not part of its identity."""

    out: str = "results"  # folder for records, tables and plots
    device: str = "auto"  # cpu, cuda or cuda:N; auto: the first GPU, else the CPU
    threads: int | None = None  # CPU threads of torch; null: all cores
    save: bool = False  # save what was learned, as safetensors
    cache_mb: int = 4096  # memory in MB for activations that are computed once and reused; more go to a memory-mapped temporary file
    # disk space in MB for a split of decoded images; larger splits are decoded in every pass, of few-shot ones the chosen images are stored
    store_mb: int = 2048
    data_root: str | None = None  # folder of the datasets; null: the environment variable PETLBENCH_DATA
    url: str | None = None  # address of the server that backbone=remote queries
    # plot only, of methods that query: test accuracy each time the number of queries has doubled, all test images per point; null: not for a remote model
    curve: bool | None = None
    # least time (60s, 5min, 1h) or number of training steps (100steps) between two checkpoints of a run, with which a rerun goes on where it was
    # interrupted; null: never
    checkpoint_every: str | None = "60s"

    def __post_init__(self) -> None:
        if not self.out:
            raise ValueError("out must name a folder, got ''")
        if self.checkpoint_every is not None:
            parse_every(self.checkpoint_every)
        _check_at_least(1, self, "threads")
        _check_at_most(MOST_THREADS, self, "threads")
        _check_at_least(0, self, "cache_mb", "store_mb")
        if self.url is not None:
            _check_address(self.url)


def _check_address(url: str) -> None:
    """ValueError unless it is a server's address and nothing else: what else it could hold would end up in logs and records."""
    example = "expected one such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises)
    except ValueError:
        raise ValueError(f"url is no address; {example}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must be the address of a server, got {url!r}; {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"url must hold no password and no query; put a token into the environment variable PETLBENCH_TOKEN, {example}")
