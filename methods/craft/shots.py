"""The training images as the model was sent them: uploaded once, and where they are augmented sent anew for the mini-batches of an epoch.

Letters in shapes: N training images, B images of a mini-batch, C classes, P contexts, n context words, W width of their embeddings.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor

from petlbench import QueryModel, TrainingData
from petlbench.access.handle import StoredImages


class Shots:
    """Answers about the training images. Where every pass shows the same views, each image is sent once in the whole run."""

    def __init__(self, model: QueryModel, data: TrainingData) -> None:
        self._model = model
        self._train = data.train
        self._last: tuple[Tensor, Tensor] | None = None  # a context (n, W), and the logits (N, C) of the uploaded images with it

    def upload(self) -> None:
        """Send the images whose answers are asked for by name; otherwise done when they are first needed."""
        self._stored  # noqa: B018 (is computed)

    def state_dict(self) -> dict[str, Any]:
        """Return what later answers depend on, beside the uploaded images."""
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["last"] is not None:
            context, logits = (tensor.to(self._train.device) for tensor in state["last"])
            self._last = context, logits

    @property
    def count(self) -> int:
        """N."""
        return self._stored[0].count

    @property
    def class_count(self) -> int:
        """C."""
        return len(self._model.class_names)

    @property
    def labels(self) -> Tensor:
        """(N,), in the order of ``scores``."""
        return self._stored[1]

    def scores(self, contexts: Tensor) -> Tensor:
        """Logits (P, N, C) of one and the same pass over the images, with each of the contexts (P, n, W)."""
        return self._model.context_scores(self._stored[0], contexts)

    def epoch(self, context: Tensor, normalised: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (B, C) and labels (B,) of the mini-batches of a new pass, with the context (n, W)."""
        if not self._train.is_deterministic:
            for images, labels in self._train:
                yield self._model.context_scores(images, context[None], normalised)[0], labels
            return
        logits, labels = self._logits(context, normalised), self.labels
        order = torch.cat(list(self._train.order())).to(labels.device)
        for rows in order.split(self._train.batch_size):
            yield logits[rows], labels[rows]

    def _logits(self, context: Tensor, normalised: bool) -> Tensor:
        """(N, C) of the uploaded images with the context (n, W), asked for when it has changed; ``normalised`` is the same in all of a run."""
        if self._last is None or not torch.equal(self._last[0], context):
            self._last = context.clone(), self._model.context_scores(self._stored[0], context[None], normalised)[0]
        return self._last[1]

    @cached_property
    def _stored(self) -> tuple[StoredImages, Tensor]:
        """The images of a pass, and their labels; augmented images are of one pass that stays the same (released code)."""
        shown = self._train.in_order() if self._train.is_deterministic else self._train
        sent = [(self._model.upload(images), labels) for images, labels in shown]  # batch by batch: one at a time is held in float32
        return reduce(operator.add, (stored for stored, _ in sent)), torch.cat([labels for _, labels in sent])
