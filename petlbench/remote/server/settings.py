"""The settings of ``petlbench serve``. The comment beside a field is its help."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from petlbench.config.settings import MOST_THREADS
from petlbench.errors import ConfigError
from petlbench.remote.wire import TOKEN_VARIABLE, token_from


@dataclass
class ServeConfig:
    """Sets which model is served, where, and how much at a time."""

    backbone: str = "mini_clip"  # petlbench ls backbones lists all
    checkpoint: str | None = None  # a local weight file to use instead of the card's
    host: str = "127.0.0.1"  # 0.0.0.0: every network that this machine is on; then set a token
    hosts: tuple[str, ...] = ()  # further names under which it is asked, such as that of a proxy; localhost and host= are known
    origins: tuple[str, ...] = ()  # of web pages that may ask, such as [https://example.org]; no others may
    port: int = 8000  # 0: one that is free
    token_file: str | None = None  # holds the token that clients must send; null: the environment variable PETLBENCH_TOKEN, if it is set
    output: Literal["logits", "probabilities", "top_k", "label"] = "logits"  # what answers give away at most
    top_k: int = 5  # classes named under output=top_k at most
    batch_images: int = 256  # waiting requests are merged into one forward pass of so many images; 1: each has its own
    batch_delay_ms: float = 5.0  # how long a request may wait for others to be merged with
    max_images: int = 256  # per request
    max_patches: int = 64  # beside an image
    max_contexts: int = 1024  # per request
    max_prompts: int = 16_384  # contexts times classes per request: what goes through the text tower
    max_texts: int = 100_000  # captions per request
    max_body_mb: int = 256  # per request; may lower max_images
    max_waiting: int = 64  # requests at a time; the next one is told to come back later
    max_connections: int = 256  # open at a time; beyond it the one that has kept the server waiting longest is closed
    keep_texts: int = 32  # sets of class texts that are remembered
    keep_images: int = 100_000  # uploaded images whose embeddings are remembered
    device: str = "auto"  # auto: the first GPU, else the CPU
    threads: int | None = None  # of torch on a CPU; null: all cores
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must be an int in [0, 65536), got {self.port}")
        if not 0 <= self.batch_delay_ms < math.inf:
            raise ValueError(f"batch_delay_ms must be >= 0, got {self.batch_delay_ms}")
        for name in self.hosts:
            if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+", name):
                raise ValueError(f"hosts must be names or addresses without a port, such as [models.example], got {name!r}")
        for origin in self.origins:
            if not re.fullmatch(r"https?://[\w.-]+(:\d+)?", origin):
                raise ValueError(f"origins must be of the form [https://app.example], got {origin!r}")
        limits = (
            "top_k",
            "batch_images",
            "max_images",
            "max_patches",
            "max_contexts",
            "max_prompts",
            "max_texts",
            "max_body_mb",
            "max_waiting",
            "max_connections",
            "keep_texts",
            "keep_images",
        )
        for name in limits:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be an int >= 1, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be an int >= 1 or null, got {self.threads}")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise ValueError(f"threads must be an int <= {MOST_THREADS:,} (more would exhaust any machine), got {self.threads:,}")

    @property
    def body_bytes(self) -> int:
        return self.max_body_mb * 2**20

    @property
    def image_bytes(self) -> int:
        """Three quarters of a body, for images with their patches; the rest is for contexts."""
        return self.body_bytes * 3 // 4

    def images_per_request(self, input_size: int) -> int:
        """Return the images per request that fit into three quarters of a body. ConfigError when none fits."""
        fitting = self.image_bytes // (4 * 3 * input_size**2)
        if fitting < 1:
            raise ConfigError(f"max_body_mb={self.max_body_mb} holds no image of {input_size} pixels; raise it")
        return min(self.max_images, fitting)

    def token(self) -> str | None:
        """Return the token that clients must send. ConfigError when its file cannot be read or is empty."""
        if self.token_file is None:
            return token_from(os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE)
        try:
            text = Path(self.token_file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"token_file={self.token_file} cannot be read: {error}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"token_file={self.token_file} cannot be read: it is not UTF-8") from None
        token = token_from(text, f"token_file={self.token_file}")
        if token is None:
            raise ConfigError(f"token_file={self.token_file} is empty; write the token into it")
        return token
