"""BlackVIP: black-box visual prompting (Oh et al. 2023, arXiv 2303.14773; where paper and released code differ, the released code).

Letters in shapes: B images, C classes, S input size, F feature width of the encoder, D learned scalars, Q queries of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench import Access, File, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.data.batches import Batches
from petlbench.errors import CheckpointError, ConfigError
from petlbench.nn.visual_prompts import CALL_BYTES
from petlbench.optim.loop import Epoch
from petlbench.optim.spsa import SPSA, SPSAConfig

from .coordinator import Decoder, compose, geometry
from .encoder import load_encoder


@dataclass
class BlackVIPConfig:
    encoder: str = "timm:vit_base_patch16_224.mae"  # frozen encoder: a backbone's name (petlbench ls backbones lists all), or dino_resnet50
    encoder_checkpoint: File | None = None  # local weight file to use instead of the encoder's own
    encoder_norm: bool = False  # take the class token behind the final norm: false for MAE, true for supervised encoders (released code)
    src_dim: int | None = None  # entries of feature and trigger together; null: at least 1.5 times the feature, 1568 for 768 at 224 px
    p_eps: float = 1.0  # factor of the prompt before it is added; 0.2 to 1.0 in the paper's runs
    spsa: SPSAConfig = field(default_factory=SPSAConfig)

    def __post_init__(self) -> None:
        if not self.p_eps > 0:
            raise ValueError(f"p_eps must be > 0, got {self.p_eps}")
        if self.src_dim is not None and self.src_dim < 1:
            raise ValueError(f"src_dim must be an int >= 1 or null, got {self.src_dim}")


@register_method("blackvip", BlackVIPConfig, cite="arXiv:2303.14773")
class BlackVIP(QueryMethod):
    """clip(x + p_eps * decoder(encoder(x), trigger)), in normalised pixels; decoder and trigger are trained by SPSA with gradient correction on the
    cross entropy of the scores. The decoder's BatchNorm uses the batch in every query of training, its running statistics in evaluation."""

    access = Access.SCORES

    low: Tensor  # (3, 1, 1), black in normalised pixels
    high: Tensor  # (3, 1, 1), white

    def build(self, model: QueryModel) -> None:
        config: BlackVIPConfig = self.config
        self.encoder = load_encoder(config.encoder, config.encoder_checkpoint, config.encoder_norm)
        self.register_buffer("encoder_sha256", self.encoder.sha256.clone())  # stored, so that a checkpoint is only used with its encoder
        self.build_coordinator(model, self.encoder.feature_width, self.encoder.first_layer_groups)

    def build_coordinator(self, model: QueryModel, feature_width: int, first_layer_groups: int | None = None) -> None:
        """The decoder for features (B, F) of any origin, and the lowest and highest value of the model's pixels."""
        try:
            shape = geometry(model.input_size, feature_width, self.config.src_dim, first_layer_groups)
        except ValueError as error:
            raise ConfigError(f"method blackvip: {error}") from None
        self.decoder = Decoder(feature_width, shape)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
        self.register_buffer("low", (0 - mean) / std, persistent=False)
        self.register_buffer("high", (1 - mean) / std, persistent=False)

    def encoders(self) -> tuple[nn.Module, ...]:
        return (self.encoder.tower,)

    def check_state(self, state: dict[str, Tensor]) -> None:
        learned_on = state.get("encoder_sha256")
        if learned_on is not None and not torch.equal(learned_on.cpu(), self.encoder.sha256):
            then, now = (bytes(each.tolist()).hex()[:12] for each in (learned_on, self.encoder.sha256))
            raise CheckpointError(f"it was learned with method.encoder={self.config.encoder} weights {then}…, these are {now}…")

    @torch.no_grad()
    def fit(self, model: QueryModel, data: TrainingData) -> None:
        spsa: SPSAConfig = self.config.spsa
        optimizer = SPSA(nn.utils.parameters_to_vector(self.decoder.parameters()), spsa, seed=self.seed)
        examples = Encoded(data.train, self._encoded)
        for epoch in data.steps.epochs(data.recipe.epochs, examples, method=self, optimizer=optimizer):
            sums = epoch.tally(losses=[])
            for batch in epoch:
                sums.losses.append(self.step(model, optimizer, *batch))
                data.evaluate_curve()
            data.log_epoch(
                Epoch(epoch=epoch.number, loss=torch.stack(sums.losses).mean().item(), learning_rate=spsa.step_gain(optimizer.steps))
            )

    def step(self, model: QueryModel, optimizer: SPSA, images: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """One update from images (B, 3, S, S), their features (B, F) and labels (B,): the loss () that the optimiser gives. The decoder holds the
        solution afterwards; when a query was refused, it is as it was before."""
        running = [buffer.clone() for buffer in self.decoder.buffers()]
        try:
            return optimizer.step(partial(self._losses, model, images, features, labels))
        except BaseException:
            for buffer, before in zip(self.decoder.buffers(), running, strict=True):
                buffer.copy_(before)
            raise
        finally:
            nn.utils.vector_to_parameters(optimizer.vector, self.decoder.parameters())

    @torch.no_grad()
    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(self._prompted(images, self._encoded(images)))

    def _encoded(self, images: Tensor) -> Tensor:
        return self.encoder(images, self.number_format)

    def _prompted(self, images: Tensor, features: Tensor) -> Tensor:
        prompts = self.decoder.plain(features) if self.config.spsa.sequential_exact else self.decoder(features)
        return compose(images, prompts, self.config.p_eps, self.low, self.high)

    def _losses(self, model: QueryModel, images: Tensor, features: Tensor, labels: Tensor, candidates: Tensor) -> Tensor:
        """Mean cross entropy (Q,) under each of the candidates (Q, D), whose decoders run one after the other: the running statistics of BatchNorm
        follow the order of the queries. Their queries go to the model together."""
        together = max(1, CALL_BYTES // (images.numel() * images.element_size()))
        losses = []
        for some in candidates.split(together):
            prompted = []
            for candidate in some:
                nn.utils.vector_to_parameters(candidate, self.decoder.parameters())
                prompted.append(self._prompted(images, features))
            scores = model.scores(torch.cat(prompted))  # (queries * B, C)
            each = F.cross_entropy(scores, labels.repeat(len(some)), reduction="none")
            losses.append(each.view(len(some), -1).mean(dim=1))
        return torch.cat(losses)


class Encoded:
    """Training images (B, 3, S, S) with their features (B, F) and labels. Where every pass shows the same views, each image is encoded once."""

    def __init__(self, train: Batches, encode: Callable[[Tensor], Tensor]) -> None:
        self._train, self._encode = train, encode
        self.device, self.generator = train.device, train.generator
        self._features = torch.cat([encode(images) for images, _ in train.in_order()]) if train.is_deterministic else None  # (N, F)

    def begin(self, at: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of a new pass from this one on."""
        if self._features is None:
            yield from ((images, self._encode(images), labels) for images, labels in self._train.begin(at))
            return
        for indices in islice(self._train.order(), at, None):
            chosen = indices.to(self.device)
            yield self._train.images(indices), self._features[chosen], self._train.labels[chosen]
