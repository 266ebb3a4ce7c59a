"""Make the embedded CLIP: its renderers, its loss, a miniature of its training, and the results on its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from petlbench.backbones.families import mini_clip
from tools.pretrain_mini_clip import captions, metrics, train
from tools.pretrain_mini_clip.glyphs import SKELETONS, handwritten, placed
from tools.pretrain_mini_clip.textures import TEXTURES, texture

CARD = Path(__file__).parents[2] / "configs" / "backbones" / "mini_clip.yaml"


def test_card_metrics_are_those_of_the_shipped_weights():
    card, measured = yaml.safe_load(CARD.read_text()), metrics.measure(mini_clip.load())
    assert measured["zero_shot_digits"] >= 0.60
    assert measured["linear_probe_digits"] >= 0.87
    for name, value in measured.items():
        assert value == pytest.approx(card["metrics"][name], abs=0.01), name


def test_pairs_depend_on_seed_and_index_only():
    first = [captions.pair(3, index) for index in (5, 6)]
    image, caption = captions.pair(3, 6)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert np.array_equal(image, first[1][0]) and caption == first[1][1]
    assert not np.array_equal(captions.pair(4, 6)[0], image)


@pytest.mark.parametrize("digit", sorted(SKELETONS))
def test_handwritten_digits_leave_ink_and_paper(digit):
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = handwritten(rng, digit)
        height = min(32.0, 32 * mask.height / mask.width)
        ink = placed([(mask, height, 0, 0)], bottleneck=8).mean()
        assert 0.02 < ink < 0.8


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_textures_stay_between_their_two_colours(name):
    pattern, _ = texture(np.random.default_rng(1), name)
    assert pattern.shape == (32, 32)
    assert pattern.min() >= 0 and pattern.max() <= 1 and pattern.std() > 0.02


def test_loss_equals_the_square_matrix_with_shared_targets():
    torch.manual_seed(0)
    image, text = torch.randn(6, 8), torch.randn(3, 8)
    inverse, scale = torch.tensor([0, 1, 1, 2, 1, 0]), torch.tensor(2.0)
    logits = scale * image @ text[inverse].T
    same = (inverse[:, None] == inverse[None]).float()
    target = same / same.sum(1, keepdim=True)
    rows = -(target * logits.log_softmax(1)).sum(1).mean() - same.sum(1).log().mean()  # the square form is larger by E[log n]
    columns = -(target * logits.log_softmax(0)).sum(0).mean()
    expected = (rows + columns) / 2
    assert train.contrastive_loss(image, text, inverse, scale) == pytest.approx(float(expected), abs=1e-5)


def test_a_few_steps_lower_the_loss():
    pairs = [captions.pair(0, index) for index in range(128)]
    distinct = sorted({caption for _, caption in pairs})
    caption_of = torch.tensor([distinct.index(caption) for _, caption in pairs])
    recipe = train.Recipe(images=128, epochs=10, batch_size=32)
    _, losses = train.train(torch.from_numpy(np.stack([image for image, _ in pairs])), distinct, caption_of, recipe)
    assert len(losses) == 40
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.2
