"""The typed sections of a run's configuration. The comment beside a field is its help; every value here can be set as ``section.field=value``.

A new field is declared with ``added``: every other one changes the ids of all runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal
from urllib.parse import urlsplit

from petlbench.config.augment import Interpolation, canonical, parse
from petlbench.config.identity import added

_SCHEDULE_STEPS = {
    "timm_cosine": "epoch",
    "dassl_cosine": "epoch",
    "vp_cosine": "step",
    "pgn_cosine": "epoch",
}  # of the schedules that leave no choice


@dataclass
class Protocol:
    """How images reach a method and how its result is read. Two runs may share a table column only when their protocols are equal."""

    name: str = "native"  # part of the protocol's id
    resize: int | None = None  # side in pixels; null: the backbone's input size
    resize_mode: Literal["squash", "short"] = "squash"  # to a square, or the shorter side with a centre crop of the input size
    interpolation: Interpolation = "bicubic"  # bilinear_aliased: not antialiased, as TensorFlow resizes
    normalise: Literal["backbone", "imagenet", "half", "none"] = "backbone"  # the backbone card's own constants unless a paper differs
    augment: str = "none"  # of training images: operations such as crop + flip or random_resized_crop(0.5) + flip, see docs/protocols.md
    shots: int | None = None  # training images per class, drawn as CoOp draws them; null: all
    split_seed: int | None = 1  # of the few-shot draw; null: the run's seed, so that every seed sees other images
    train_on: Literal["train", "trainval"] = "train"
    selection: Literal["last", "best_val", "oracle_test"] = (
        "last"  # which epoch is reported; oracle_test only to compare with papers that did
    )
    select_every: int = 1  # best_val and oracle_test look at every so many epochs, the first included, …
    select_tail: int = 1  # … and at the last so many
    shortage: Literal["refuse", "keep", "repeat"] = added(
        "refuse"  # a class with fewer images than shots: an error, all of them, draws with replacement
    )

    def __post_init__(self) -> None:
        _check_at_least(1, self, "resize", "shots", "select_every", "select_tail")
        self.augment = canonical(parse(self.augment))  # one text, hence one id, for one meaning
        if self.train_on == "trainval" and self.selection == "best_val":
            raise ValueError("selection=best_val needs a validation split that is not trained on; set protocol.train_on=train")


@dataclass
class Train:
    """The recipe of the gradient loop."""

    epochs: int = 100
    batch_size: int = 64
    drop_last: bool = False  # leave out a last batch that is smaller, unless there is no other
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    scale_learning_rate: bool = False  # learning_rate is meant per 256 images: multiply it by batch_size / 256 (VPT)
    weight_decay: float = 1e-4  # not applied to vectors and scalars
    momentum: float = 0.9  # of sgd
    schedule: Literal["cosine", "constant", "timm_cosine", "dassl_cosine", "vp_cosine", "pgn_cosine"] = (
        "cosine"  # the last four as NOAH and SPT, BlackVIP, VP and PGN step it
    )
    schedule_step: Literal["epoch", "step"] = "epoch"
    warmup_epochs: float = 10.0  # linear; the first epoch of an epoch-wise schedule runs at warmup_learning_rate, …
    warmup_learning_rate: float = 0.0  # … an absolute rate; 0 in VPT
    min_learning_rate: float = 0.0  # absolute; where a cosine ends, pgn_cosine not below a hundredth of the highest rate
    label_smoothing: float = 0.0
    accumulate: int = 1  # batches per optimiser step
    clip_norm: float | None = None  # gradient norm limit
    drop_path: float = 0.0  # stochastic depth of the backbone's blocks while training: from 0 in the first to this rate in the last
    checkpoint_activations: bool = False  # recompute a block's activations in the backward pass instead of keeping them
    compile: bool = False  # torch.compile every block

    def __post_init__(self) -> None:
        _check_at_least(1, self, "epochs", "batch_size", "accumulate")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        for name in ("weight_decay", "momentum", "label_smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("warmup_learning_rate", "min_learning_rate"):
            if not 0 <= getattr(self, name) <= self.peak_learning_rate:
                raise ValueError(f"{name} must lie between 0 and the highest rate, {self.peak_learning_rate:g}, got {getattr(self, name)}")
        if self.schedule_step != (required := _SCHEDULE_STEPS.get(self.schedule, self.schedule_step)):
            raise ValueError(f"schedule={self.schedule} goes by the {required}; set train.schedule_step={required}")
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
    """What random numbers and products start from. Set at the top level: ``seed=1 precision=bf16``."""

    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware multiplies it and the model is large enough to gain

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be an int in [0, 2**32), got {self.seed}")


@dataclass
class BackboneChoice:
    """Which frozen model a run stands on."""

    name: str = "mini_clip"  # petlbench backbones lists all
    checkpoint: str | None = None  # a local weight file to use instead of the card's

    @property
    def is_remote(self) -> bool:
        return self.name.partition(":")[0] == "remote"


@dataclass
class QueryConfig:
    """What a model that is asked gives away, and how it is asked."""

    output: Literal["logits", "probabilities", "top_k", "label"] = "logits"  # at most; a backbone's card or a server may give less
    top_k: int = 5  # classes named under top_k
    batch: int = 256  # images per call at most; a server may take fewer

    def __post_init__(self) -> None:
        _check_at_least(1, self, "top_k", "batch")


@dataclass
class Budget:
    """Limits on what a method may send to a black box while it trains; the query that would exceed one is not sent. null: no limit.

    The looks of its curve are made with what training leaves. What protocol.selection looks at while a method trains, and the final test, is counted
    by phase and not limited: how much that is follows from the protocol.
    """

    calls: int | None = None
    images: int | None = None
    contexts: int | None = None
    texts: int | None = None
    bytes: int | None = None  # of images and contexts in float32 and of texts

    def __post_init__(self) -> None:
        _check_at_least(0, self, "calls", "images", "contexts", "texts", "bytes")


@dataclass
class Execution:
    """Where and how a run is carried out. Not part of its identity."""

    out: str = "results"  # folder for records, tables, plots
    device: str = "auto"  # auto: the first GPU, else the CPU
    threads: int | None = None  # of torch on a CPU; null: all cores
    save: bool = False  # keep what was learned, as safetensors
    cache_mb: int = 4096  # memory for activations that are computed once and reused; more go to a memory-mapped temporary file
    store_mb: int = (
        2048  # splits that would take more disk space are decoded anew in every pass, of few-shot ones the chosen images are stored
    )
    data_root: str | None = None  # where datasets lie; null: the environment variable PETLBENCH_DATA
    url: str | None = None  # of the server that backbone=remote asks
    curve: bool | None = (
        None  # of methods that ask, to be drawn only: accuracy as what is sent doubles; a point sends all test images, null: not to a remote model
    )

    def __post_init__(self) -> None:
        _check_at_least(1, self, "threads")
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


def _check_at_least(least: int, section: Protocol | Train | QueryConfig | Budget | Execution, *names: str) -> None:
    kinds = {field.name: str(field.type) for field in fields(section)}
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be an int >= {least}{' or null' if 'None' in kinds[name] else ''}, got {value}")
