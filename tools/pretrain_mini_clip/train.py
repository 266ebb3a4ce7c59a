"""Contrastive pretraining of `mini_clip` on a CPU: render the pairs once, train on them for a few passes, write weights and card.

Symmetric contrastive loss (Radford et al. 2021, figure 3). Procedural captions repeat within a batch, so the targets share their
mass between identical captions, and every distinct caption of a batch is encoded once.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.nn import functional as F

from petlbench.backbones.families import mini_clip
from tools.pretrain_mini_clip import captions
from tools.pretrain_mini_clip.metrics import measure

RECIPE_VERSION = 2
CHUNK = 1000  # images per rendering job
Progress = Callable[[str], None]


@dataclass
class Recipe:
    """Everything that decides the weights, besides the renderers."""

    seed: int = 0
    images: int = 400_000  # rendered once
    epochs: float = 1.25  # passes over them; more would leave nothing to gain on mini/digits
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    largest_logit_scale: float = 100.0  # as in CLIP, section 2.5
    largest_shift: int = 1  # px, on-line augmentation with repeated borders


def _render_chunk(job: tuple[int, int, int]) -> tuple[int, np.ndarray, list[str]]:
    seed, start, stop = job
    pairs = [captions.pair(seed, index) for index in range(start, stop)]
    return start, np.stack([image for image, _ in pairs]), [caption for _, caption in pairs]


def render(seed: int, images: int, workers: int, progress: Progress | None = None) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """N pairs: images (N, 32, 32, 3) uint8, the sorted distinct captions, and the caption of each image (N,) as an index."""
    pixels = np.empty((images, captions.SIZE, captions.SIZE, 3), np.uint8)
    texts = [""] * images
    jobs = [(seed, start, min(start + CHUNK, images)) for start in range(0, images, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, (start, chunk, names) in enumerate(pool.imap_unordered(_render_chunk, jobs), 1):
            pixels[start : start + len(chunk)] = chunk
            texts[start : start + len(chunk)] = names
            if progress and done % 50 == 0:
                progress(f"rendered {done * CHUNK:,} of {images:,} images")
        pool.close()
        pool.join()
    distinct = sorted(set(texts))
    index = {text: number for number, text in enumerate(distinct)}
    return torch.from_numpy(pixels), distinct, torch.tensor([index[text] for text in texts])


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, inverse: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric loss for image features (B, E), features of the U distinct captions (U, E) and each image's caption (B,).

    Up to a constant, the loss over the B x B matrix with one column per image, whose targets are spread over the columns with the
    right caption: a caption that occurs n times has n equal columns, hence log n in one direction and the weight n / B in the other.
    """
    logits = scale * image @ text.T  # (B, U)
    count = torch.bincount(inverse, minlength=len(text)).to(logits.dtype)  # (U,)
    image_to_text = F.cross_entropy(logits + count.log(), inverse)
    log_share = logits.log_softmax(dim=0)  # over the images, per caption
    text_to_image = -log_share[torch.arange(len(image)), inverse].mean()
    return (image_to_text + text_to_image) / 2


def _batch(pixels: torch.Tensor, rows: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Normalised images (B, 3, 32, 32), each shifted by up to `shift` px with its border repeated."""
    size = pixels.shape[1]
    offset = torch.randint(-shift, shift + 1, (2, len(rows), 1), generator=generator)
    down, right = (torch.arange(size) + offset).clamp(0, size - 1)  # (B, size) each
    images = pixels[rows[:, None, None], down[:, :, None], right[:, None, :]]
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def train(
    pixels: torch.Tensor,
    distinct: list[str],
    caption_of: torch.Tensor,
    recipe: Recipe,
    *,
    progress: Progress | None = None,
    checkpoint: Callable[[mini_clip.MiniClip, int, float], object] | None = None,
) -> tuple[mini_clip.MiniClip, list[float]]:
    """The trained model and the loss of every step; `checkpoint(model, step, loss)` is called every 500 steps."""
    torch.manual_seed(recipe.seed)
    tokenizer = mini_clip.CompactTokenizer.of_captions(distinct)
    tokens = tokenizer(distinct)
    model = mini_clip.build(tokenizer.kept)
    optimiser = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate, fused=True)
    steps = max(int(recipe.images * recipe.epochs / recipe.batch_size), 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, steps, min(recipe.warmup_steps, steps // 10)))
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.empty(0, dtype=torch.long)
    losses: list[float] = []
    for step in range(steps):
        if len(order) < recipe.batch_size:
            order = torch.cat([order, torch.randperm(len(pixels), generator=generator)])
        rows, order = order[: recipe.batch_size], order[recipe.batch_size :]
        used, inverse = torch.unique(caption_of[rows], return_inverse=True)
        image = model.encode_image(_batch(pixels, rows, recipe.largest_shift, generator))
        text = model.encode_text(tokens[used])
        loss = contrastive_loss(image, text, inverse, model.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(recipe.largest_logit_scale))
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0 and progress:
            progress(f"step {step + 1:,} of {steps:,}, loss {np.mean(losses[-100:]):.3f}, scale {model.logit_scale.exp().item():.1f}")
        if (step + 1) % 500 == 0 and checkpoint:
            checkpoint(model, step + 1, float(np.mean(losses[-100:])))
    return model.eval(), losses


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, the logit scale, tokens and position embeddings do not."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and "embed" not in name.replace("patch_embed", "") and "cls_token" not in name
            (matrices if decays else rest).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _warm_cosine(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def pretrain(out: Path, recipe: Recipe | None = None, workers: int = 2, progress: Progress | None = None) -> dict[str, Any]:
    """Render in `workers` processes, then train; weights `mini_clip.safetensors` and card `mini_clip.yaml` go to `out`.

    A checkpoint with its own card is written there every 500 steps. The final card is returned.
    """
    recipe = recipe or Recipe()
    wall, processor = time.perf_counter(), time.process_time()
    pixels, distinct, caption_of = render(recipe.seed, recipe.images, workers, progress)
    rendered = time.perf_counter() - wall

    def write(model: mini_clip.MiniClip, step: int, loss: float) -> dict[str, Any]:
        cost = {
            "render_seconds": round(rendered),
            "wall_seconds": round(time.perf_counter() - wall),
            "cpu_seconds": round(time.process_time() - processor + _children_seconds()),
            "workers": workers,
        }
        metrics = measure(model)
        if progress:
            progress(f"step {step:,}: {metrics}, {cost}")
        return write_card(model, out, recipe, {"images_seen": step * recipe.batch_size, "final_loss": round(loss, 4), **metrics}, cost)

    model, losses = train(pixels, distinct, caption_of, recipe, progress=progress, checkpoint=write)
    return write(model, len(losses), float(np.mean(losses[-100:])))


def write_card(model: mini_clip.MiniClip, out: Path, recipe: Recipe, metrics: dict[str, float], cost: dict[str, int]) -> dict[str, Any]:
    """Weights and the card that pins them."""
    weights = out / mini_clip.WEIGHTS.name
    mini_clip.save(model, weights)
    card: dict[str, Any] = {
        "name": "mini_clip",
        "family": "clip",
        "weights": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "input_size": mini_clip.INPUT_SIZE,
        "mean": list(mini_clip.MEAN),
        "std": list(mini_clip.STD),
        "activation": "gelu",
        "pool": "cls",
        "embed_dim": mini_clip.FEATURES,
        "joint_dim": mini_clip.JOINT,
        "context_length": mini_clip.CONTEXT_LENGTH,
        "vocabulary": len(model.token_ids),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "logit_scale": round(model.logit_scale.exp().item(), 3),
        "recipe": {"version": RECIPE_VERSION, **asdict(recipe)},
        "metrics": metrics,
        "cost": cost,
    }
    (out / "mini_clip.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return card


def _children_seconds() -> float:
    """Processor time of finished child processes; 0 where the platform does not say."""
    try:
        import resource
    except ImportError:
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
