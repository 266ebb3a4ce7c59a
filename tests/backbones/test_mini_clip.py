"""The embedded CLIP: shipped weights, tokenizer, towers."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import petlbench
from petlbench.backbones import weights_file
from petlbench.backbones.backbone import load_backbone
from petlbench.backbones.families import mini_clip
from petlbench.errors import CheckpointError
from tests.near import assert_near


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
    assert_near(image.norm(dim=-1), torch.ones(3))
    assert_near(text, whole)


def test_head_bias_is_zero_and_frozen(model):
    assert not model.visual.head.bias.requires_grad
    assert not model.visual.head.bias.any()


def test_a_run_that_asks_for_no_text_imports_neither_open_clip_nor_transformers_nor_peft(tmp_path):
    short = {"protocol.shots": 1, "train.epochs": 1, "train.warmup_epochs": 0, "threads": 1}
    settings = {"task": "mini/digits", "out": str(tmp_path), **short}
    code = f"""
import sys
from petlbench.config.resolve import resolve
from petlbench.registry import METHODS
from petlbench.runs.execute import execute
METHODS.names()
for method in ("linear", "lora"):
    record, _ = execute(resolve({{"method": method, **{settings}}}), reraise=True)
    print(method, record.status, sorted({{"open_clip", "transformers", "peft"}} & set(sys.modules)))
"""
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reply.stdout.splitlines()[-2:] == ["linear ok []", "lora ok []"]


def test_the_text_tower_is_that_of_the_model(model):
    backbone = load_backbone("mini_clip").to(torch.device("cpu"))
    captions = ["the digit 3", "a photo of the number 7"]
    with torch.no_grad():
        expected = model.encode_text(mini_clip.tokenize(captions))
    assert_near(torch.nn.functional.normalize(backbone.text.embed(captions), dim=-1), expected)


def test_a_file_of_another_model_is_refused(tmp_path):
    save_file({"head.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: not weights of mini_clip \("):
        load_backbone("mini_clip", str(tmp_path / "other.safetensors"))


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped weights, of which one byte of the last tensor is another."""
    content = bytearray(mini_clip.WEIGHTS.read_bytes())
    content[-1] ^= 1
    (tmp_path / mini_clip.WEIGHTS.name).write_bytes(content)
    monkeypatch.setattr(weights_file, "SHIPPED", tmp_path)
    return tmp_path / mini_clip.WEIGHTS.name


def test_shipped_weights_that_are_not_those_of_the_card_are_refused(damaged: Path) -> None:
    expected = rf"{damaged}: SHA-256 is \w{{12}}…, expected \w{{12}}… \(configs/backbones/mini_clip\.yaml\)"
    with pytest.raises(CheckpointError, match=expected):
        load_backbone("mini_clip")


def test_the_card_says_nothing_of_other_weights(damaged: Path) -> None:
    assert load_backbone("mini_clip", str(damaged)).name == "mini_clip"


def test_shipped_weights_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_file, "SHIPPED", tmp_path)
    with pytest.raises(CheckpointError, match=r"mini_clip\.safetensors: no such file; install petlbench again"):
        load_backbone("mini_clip")
