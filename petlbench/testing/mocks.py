"""A task and a backbone small enough for unit tests: no files, no download, milliseconds."""

from __future__ import annotations

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.access.endpoint import Card
from petlbench.backbones.backbone import Backbone
from petlbench.data.load import Task
from petlbench.data.split import Split
from petlbench.data.streaming import Tally
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form, Transform

SIZE, WIDTH, CLASSES = 16, 32, 3
HALF = (0.5, 0.5, 0.5)


class _HashedText:
    """A text tower that gives every caption its own fixed random direction, and its own fixed linear response to a prompt context."""

    def embed(self, captions: list[str]) -> Tensor:
        return torch.stack([_hashed(caption, 8) for caption in captions])

    def in_context(self, captions: list[str], words: str) -> _HashedContexts:
        return _HashedContexts(self.embed(captions), torch.stack([_hashed(word, 4) for word in words.split()]), captions)

    def to(self, device: torch.device) -> None:
        pass


class _HashedContexts:
    """The initial context gives the captions' own embeddings; what the mean word is moved by moves them, each class in another direction."""

    def __init__(self, embeddings: Tensor, initial: Tensor, captions: list[str]) -> None:
        self.initial = initial  # (n, 4)
        self._embeddings = embeddings  # (C, 8)
        self._responses = torch.stack([_hashed(caption, initial.shape[1], 8) for caption in captions])  # (C, 4, 8)

    @torch.no_grad()
    def embed(self, contexts: Tensor) -> Tensor:
        moved = (contexts - self.initial).mean(dim=1)  # (P, 4)
        return F.normalize(self._embeddings + torch.einsum("pw,cwe->pce", moved, self._responses), dim=-1)


def _hashed(text: str, *shape: int) -> Tensor:
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(text))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_backbone(seed: int = 0, with_text: bool = True) -> Backbone:
    """A randomly initialised vision-language backbone: 16x16 input, four patches, width 32, three blocks, 8 joint dimensions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=3, num_heads=4, num_classes=0)
        projection = nn.Linear(WIDTH, 8, bias=False)
    card = Card("tiny", SIZE, HALF, HALF, source="random")
    return Backbone(card, vit, projection, _HashedText() if with_text else None, logit_scale=10.0)


def mock_task(seed: int = 0, train: int = 36, test: int = 24) -> Task:
    """Three classes that differ in where a bright square lies: easy for anything that learns."""
    generator = np.random.default_rng(seed)
    splits = {name: _split(generator, count) for name, count in (("train", train), ("val", 12), ("test", test))}
    names = tuple(f"class {label}" for label in range(CLASSES))
    spec = TaskSpec("mock/squares", names, ("a photo of {}.",), f"mock-{seed}", lambda name: splits[name].source)
    transform = Transform(Form("squash", SIZE, cut=SIZE), HALF, HALF)
    return Task(spec, splits["train"], splits["val"], splits["test"], transform, Tally())


def _split(generator: np.random.Generator, count: int) -> Split:
    labels = np.arange(count, dtype=np.int64) % CLASSES
    images = generator.integers(0, 60, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 6, 4 * label : 4 * label + 6] += 150
    return Split(images, labels, f"mock-{count}")
