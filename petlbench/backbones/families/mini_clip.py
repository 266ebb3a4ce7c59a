"""`mini_clip`: a CLIP of 1.7 M parameters for 32x32 images, trained on procedural image-caption pairs, shipped with the package.

Shapes: B images, T texts, L = 32 token positions, D = 128 features, E = 64 joint dimensions. The image tower is timm's
`VisionTransformer`, the text tower open_clip's `TextTransformer` over open_clip's tokenizer; how it was trained is in
`tools.pretrain_mini_clip`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from petlbench.access.endpoint import Card
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone, register_backbone
from petlbench.backbones.text import ClipText, LateText, encode, trim
from petlbench.backbones.traits import Traits
from petlbench.backbones.weights_file import SHIPPED, read_state, shipped_weights
from petlbench.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

WEIGHTS = SHIPPED / "mini_clip.safetensors"
INPUT_SIZE = 32
MEAN = STD = (0.5, 0.5, 0.5)  # of RGB in [0, 1]
FEATURES, JOINT, CONTEXT_LENGTH = 128, 64, 32
BYTE_TOKENS = 512  # the tokenizer's first ids: every byte inside a word, then every byte at the end of a word


class CompactTokenizer:
    """open_clip's byte-pair tokenizer restricted to some of its 49,408 tokens, so that the embedding table stays small.

    A word with a token that was not kept is spelled out in bytes, which are all kept. Compact ids are positions in the sorted
    list of kept ids: pad stays 0 and end-of-text stays the highest id, which is where the text tower pools (argmax).
    """

    def __init__(self, kept: Iterable[int], context_length: int = CONTEXT_LENGTH) -> None:
        self.full = _full_tokenizer()
        required = {*range(BYTE_TOKENS), self.full.sot_token_id, self.full.eot_token_id}
        self.kept = sorted(required | set(kept))
        self.compact = {full_id: position for position, full_id in enumerate(self.kept)}
        self.context_length = context_length

    @classmethod
    def of_captions(cls, captions: Iterable[str]) -> CompactTokenizer:
        """Keep the tokens that occur in these captions."""
        full = _full_tokenizer()
        return cls({token for caption in captions for token in full.encode(caption)})

    def encode(self, text: str) -> list[int]:
        """Compact ids of a text, without start, end and padding."""
        ids: list[int] = []
        for word in self.full.pat.findall(self.full.clean_fn(text)):
            symbols = "".join(self.full.byte_encoder[byte] for byte in word.encode("utf-8"))
            tokens = [self.full.encoder[token] for token in self.full.bpe(symbols).split(" ")]
            if any(token not in self.compact for token in tokens):
                tokens = [self.full.encoder[symbol] for symbol in (*symbols[:-1], symbols[-1] + "</w>")]
            ids += [self.compact[token] for token in tokens]
        return ids

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(T, L) int64: start, tokens, end, zeros; long texts are cut and keep their end."""
        start, end = self.compact[self.full.sot_token_id], self.compact[self.full.eot_token_id]
        result = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(result, texts, strict=True):
            ids = [start, *self.encode(text)[: self.context_length - 2], end]
            row[: len(ids)] = torch.tensor(ids)
        return result


class MiniClip(nn.Module):
    """Two towers into one space: scores are `logit_scale.exp()` times the cosine of image and text features."""

    token_ids: torch.Tensor

    def __init__(self, token_ids: list[int]) -> None:
        from open_clip.transformer import TextTransformer  # here, because it takes a second

        super().__init__()
        self.visual = _image_tower()
        nn.init.normal_(self.visual.head.weight, std=FEATURES**-0.5)
        self.visual.head.bias.requires_grad_(False)  # zero for good: timm's head plays CLIP's bias-free projection
        self.text = TextTransformer(
            context_length=CONTEXT_LENGTH, vocab_size=len(token_ids), width=FEATURES, heads=4, layers=2, output_dim=JOINT
        )
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # as in CLIP (Radford et al. 2021, section 2.5)
        self.register_buffer("token_ids", torch.tensor(token_ids, dtype=torch.int32))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) normalised images to (B, E) unit vectors."""
        return F.normalize(self.visual(images), dim=-1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T, L) compact ids to (T, E) unit vectors. Positions behind the longest text are left out, which is exact under the causal mask."""
        return F.normalize(encode(self.text, trim(self.text, tokens)), dim=-1)


def tokenize(texts: list[str]) -> torch.Tensor:
    """(T, 32) compact ids for the shipped weights."""
    return _shipped_tokenizer()(texts)


def build(token_ids: list[int] | None = None) -> MiniClip:
    """A randomly initialised model, by default with the vocabulary of the shipped weights."""
    return MiniClip(_shipped_tokenizer().kept if token_ids is None else token_ids)


def load(path: Path | str | None = None) -> MiniClip:
    """The trained model in float32 and in evaluation mode. CheckpointError when the file is not one of this model."""
    state, source = _read(path)
    try:
        model = MiniClip(state["token_ids"].tolist())
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise _does_not_fit(source, error) from None
    return model.eval()


def save(model: MiniClip, path: Path) -> None:
    """Write the weights in half precision."""
    state: dict[str, Any] = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def _image_tower() -> VisionTransformer:
    return VisionTransformer(
        img_size=INPUT_SIZE, patch_size=8, embed_dim=FEATURES, depth=6, num_heads=4, num_classes=JOINT, global_pool="token"
    )


def _read(path: Path | str | None) -> tuple[dict[str, torch.Tensor], Path]:
    """The tensors of a file in float32, by default of the shipped one, and which file it is."""
    source = WEIGHTS if path is None else Path(path)
    return {name: value.float() if value.is_floating_point() else value for name, value in read_state(source).items()}, source


def _does_not_fit(source: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{source}: not weights of mini_clip ({' '.join(str(error).split())})")


@lru_cache(maxsize=1)
def _full_tokenizer() -> SimpleTokenizer:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@lru_cache(maxsize=1)
def _shipped_tokenizer() -> CompactTokenizer:
    with safe_open(WEIGHTS, framework="pt") as file:
        return CompactTokenizer(file.get_tensor("token_ids").tolist())


def traits_without_loading(variant: str, checkpoint: str | None) -> Traits:
    return Traits("mini_clip", Access.WEIGHTS, has_text=True, takes_tokens=True)


@register_backbone("mini_clip", traits_without_loading)
def mini_clip(variant: str, checkpoint: str | None) -> Backbone:
    """The embedded default: a small CLIP; backbone.checkpoint takes other weights of the same recipe."""
    if variant:
        raise ConfigError(f"backbone 'mini_clip' takes nothing after a colon, got '{variant}'")
    state, source = _read(checkpoint or shipped_weights("mini_clip"))
    visual = _image_tower()
    try:
        visual.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")})
        scale = state["logit_scale"].exp().item()
    except (KeyError, RuntimeError) as error:
        raise _does_not_fit(source, error) from None
    projection = visual.head
    visual.reset_classifier(0)
    card = Card("mini_clip", INPUT_SIZE, MEAN, STD, source="tools/pretrain_mini_clip")
    return Backbone(card, visual, projection, LateText(lambda: ClipText(load(checkpoint).text, tokenize)), scale)
