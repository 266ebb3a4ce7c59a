"""Measure the pretrained model on real handwriting, which its training never shows.

The length of the training was set with an eye on these numbers, so that mini/digits keeps room for methods to improve on
(docs/mini_clip.md): they describe the shipped weights and are no estimate for unseen data.
"""

from __future__ import annotations

import numpy as np
import torch

from petlbench.backbones.families import mini_clip


def real_digits() -> tuple[torch.Tensor, np.ndarray]:
    """scikit-learn's 1,797 scans as normalised images (1797, 3, 32, 32), enlarged bilinearly from 8x8, and their labels."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    small = torch.tensor(scans, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = torch.nn.functional.interpolate(small, size=(mini_clip.INPUT_SIZE,) * 2, mode="bilinear", align_corners=False)
    return (images.expand(-1, 3, -1, -1) - 0.5) / 0.5, labels


@torch.no_grad()
def measure(model: mini_clip.MiniClip) -> dict[str, float]:
    """Zero-shot accuracy on all scans; accuracy of a logistic regression (C = 1) on 400 scans, tested on images 1297 to 1796."""
    from sklearn.linear_model import LogisticRegression

    images, labels = real_digits()
    prompts = [f"a photo of the number {digit}." for digit in range(10)]
    training = model.training
    model.eval()
    text = model.encode_text(mini_clip.CompactTokenizer(model.token_ids.tolist())(prompts))
    features = model.visual.forward_features(images)[:, 0]  # (B, D): the class token after the last norm
    predicted = (model.visual.head(features) @ text.T).argmax(dim=1).numpy()  # the length of the image vector does not matter
    model.train(training)
    probe = LogisticRegression(C=1.0, max_iter=2000).fit(features[:400], labels[:400])
    return {
        "zero_shot_digits": round(float((predicted == labels).mean()), 4),
        "linear_probe_digits": round(float(probe.score(features[1297:], labels[1297:])), 4),
    }
