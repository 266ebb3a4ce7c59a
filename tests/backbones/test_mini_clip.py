"""The embedded CLIP: shipped weights, tokenizer, towers, renderers, and a miniature of its training."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import petlbench
from petlbench.backbones import mini_clip
from petlbench.backbones.pretraining import captions, metrics, train
from petlbench.backbones.pretraining.glyphs import SKELETONS, handwritten, placed
from petlbench.backbones.pretraining.textures import TEXTURES, texture


@pytest.fixture(scope="module")
def model():
    return mini_clip.load()


@pytest.fixture(scope="module")
def card():
    package = Path(petlbench.__file__).parent
    places = (package.parent / "configs", package / "configs")  # a checkout, an installed wheel
    return yaml.safe_load(next(p for p in places if p.exists()).joinpath("backbones", "mini_clip.yaml").read_text())


def test_card_pins_the_shipped_weights(card, model):
    assert card["sha256"] == hashlib.sha256(mini_clip.WEIGHTS.read_bytes()).hexdigest()
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert card["vocabulary"] == len(model.token_ids)
    assert mini_clip.WEIGHTS.stat().st_size < 5e6


def test_card_metrics_are_those_of_the_shipped_weights(card, model):
    measured = metrics.measure(model)
    assert measured["zero_shot_digits"] >= 0.60
    assert measured["linear_probe_digits"] >= 0.87
    for name, value in measured.items():
        assert value == pytest.approx(card["metrics"][name], abs=0.01), name


def test_known_words_keep_their_byte_pair_tokens():
    tokenizer = mini_clip._shipped_tokenizer()
    full = tokenizer.full.encode("a photo of the number 7.")
    assert [tokenizer.kept[i] for i in tokenizer.encode("a photo of the number 7.")] == full


@pytest.mark.parametrize("text", ["ptarmigan", "naïve façade", "日本", "50%", "", "a_b-c", "🦜", "x" * 200])
def test_unknown_words_are_spelled_and_end_of_text_is_the_argmax(text):
    tokens = mini_clip.tokenize([text])
    assert tokens.shape == (1, 32)
    end = len(mini_clip._shipped_tokenizer().kept) - 1
    position = int(tokens[0].argmax())
    assert tokens[0, position] == end
    assert (tokens[0, position + 1 :] == 0).all()


def test_spelling_gives_back_the_word():
    tokenizer = mini_clip._shipped_tokenizer()
    ids = [tokenizer.kept[i] for i in tokenizer.encode("ptarmigan")]
    assert tokenizer.full.decode(ids).strip() == "ptarmigan"


def test_features_are_unit_vectors_and_trimming_is_exact(model):
    tokens = mini_clip.tokenize(["the digit 3", "a photo of the number 7 on a very long background."])
    with torch.no_grad():
        image, text = model.encode_image(torch.zeros(3, 3, 32, 32)), model.encode_text(tokens)
        whole = torch.nn.functional.normalize(model.text(tokens), dim=-1)
    assert image.shape == (3, 64) and text.shape == (2, 64)
    assert torch.allclose(image.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(text, whole, atol=1e-5)


def test_head_bias_is_zero_and_frozen(model):
    assert not model.visual.head.bias.requires_grad
    assert not model.visual.head.bias.any()


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
