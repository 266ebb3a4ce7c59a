"""What a loaded model answers to one fixed picture, so that two machines or versions that load the same weights can be compared.

The weights' hash does not say how they are used: another activation or normalisation gives other numbers under the same hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.backbones.text import LateText
from petlbench.errors import CheckpointError, PetlbenchError
from petlbench.optim.precision import autocast

if TYPE_CHECKING:
    from petlbench.backbones.backbone import Backbone

CAPTIONS = ("a photo of a cat.", "a checkerboard.", "a colour gradient.")
VALUES = 8  # of the embedding


@torch.no_grad()
def answers(backbone: Backbone) -> tuple[float, ...]:
    """Return the zero-shot logits of a fixed picture for three captions, in fp32. Where there are no texts, or where they would have to be loaded first,
    the leading values of the picture's embedding, L2-normalised. CheckpointError when they are not finite."""
    device = next(backbone.vit.parameters()).device
    with autocast("fp32", device):
        embedding = backbone.embed_images(_picture(backbone).to(device))  # (1, E)
        classes = _classes(backbone)
        found = embedding[0, :VALUES] if classes is None else backbone.logit_scale * embedding[0] @ classes.to(device).T
    if not found.isfinite().all():
        raise CheckpointError(
            f"{backbone.name}: the weights of {backbone.card.source} give answers that are not finite; get the file again"
        )
    return tuple(float(f"{value:.6g}") for value in found.tolist())


def _classes(backbone: Backbone) -> Tensor | None:
    """Class embeddings (3, E) of the captions; None without a text tower at hand."""
    if backbone.text is None or isinstance(backbone.text, LateText):
        return None
    try:
        return F.normalize(backbone.text.embed(list(CAPTIONS)), dim=-1)
    except PetlbenchError:  # a tokenizer that is not on this machine
        return None


def _picture(backbone: Backbone) -> Tensor:
    """A red and a green gradient over a blue checkerboard, (1, 3, S, S), normalised."""
    size = backbone.card.input_size
    steps = torch.arange(size)
    ramp = (steps / size).expand(size, size)
    board = ((8 * steps // size)[:, None] + (8 * steps // size)) % 2
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.card.mean, backbone.card.std))
    return ((torch.stack([ramp, ramp.T, board.float()]) - mean) / std)[None]
