"""Text towers: trimmed and chunked forward passes equal the model's own, and context vectors replace words."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.backbones.text import ClipText, LateText
from petlbench.errors import ConfigError
from petlbench.testing import tiny_backbone
from tests.near import assert_near

WIDTH, JOINT = 16, 8
NAMES = ["cat", "very large aeroplane", "forest"]
CAPTIONS = [f"a photo of a {name}." for name in NAMES]
WORDS = "a photo of a"


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    return open_clip.SimpleTokenizer()


def clip() -> CLIP:
    """A tiny CLIP whose weights are large enough for differences to be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=8, image_size=16)
        model = CLIP(JOINT, vision, CLIPTextCfg(width=WIDTH, heads=2, layers=2)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith("visual."):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def custom(model: CLIP) -> CustomTextCLIP:
    """The same weights with the text tower in a module of its own."""
    vision = CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=8, image_size=16)
    other = CustomTextCLIP(JOINT, vision, CLIPTextCfg(width=WIDTH, heads=2, layers=2))
    other.load_state_dict(convert_to_custom_text_state_dict(model.state_dict()))
    return other.eval()


def text(model: Any, rows: int | None = None) -> ClipText:
    return ClipText(model, tokenizer(), rows)


def moved(initial: Tensor, count: int = 3) -> Tensor:
    """Contexts (P, n, W) that differ from the words and from one another."""
    return initial + torch.randn(count, *initial.shape, generator=torch.Generator().manual_seed(2))


class Seen:
    """Records the sizes of inputs to the MLP of the first block."""

    def __init__(self, tower: Any) -> None:
        self.shapes: list[tuple[int, ...]] = []
        tower.transformer.resblocks[0].mlp.register_forward_pre_hook(lambda _, inputs: self.shapes.append(tuple(inputs[0].shape)))


@pytest.mark.parametrize("kind", ["plain", "custom", "bare"])
def test_trimmed_embeddings_are_those_of_the_model(kind: str) -> None:
    model = clip()
    expected = model.encode_text(tokenizer()(CAPTIONS)).detach()
    tower = {"plain": lambda: model, "custom": lambda: custom(model), "bare": lambda: custom(model).text}[kind]()
    assert_near(text(tower).embed(CAPTIONS), expected)


def test_only_positions_up_to_the_longest_end_are_computed() -> None:
    model = clip()
    seen = Seen(model)
    text(model).embed(CAPTIONS)
    assert seen.shapes == [(3, int(tokenizer()(CAPTIONS).argmax(dim=1).max()) + 1, WIDTH)]


@pytest.mark.parametrize("options", [{"pool_type": "last"}, {"no_causal_mask": True}])
def test_what_may_not_be_trimmed_is_computed_whole(options: dict[str, Any]) -> None:
    tower = TextTransformer(width=WIDTH, heads=2, layers=1, output_dim=JOINT, **options).eval()
    seen = Seen(tower)
    found = text(tower).embed(CAPTIONS)
    assert_near(found, tower(tokenizer()(CAPTIONS)).detach())
    assert seen.shapes[0] == (3, 77, WIDTH)


def test_the_words_themselves_as_a_context_change_nothing() -> None:
    tower = text(clip())
    contexts = tower.in_context(CAPTIONS, WORDS)
    assert contexts.initial.shape == (4, WIDTH)
    expected = F.normalize(tower.embed(CAPTIONS), dim=-1)
    assert_near(contexts.embed(contexts.initial[None])[0], expected)


@pytest.mark.parametrize("options", [{}, {"pool_type": "last"}])
def test_contexts_are_those_of_a_replaced_word_embedding(options: dict[str, Any]) -> None:
    """Against the model's own forward pass, with the embedding table's rows of the words overwritten. "a" occurs twice and keeps one vector."""
    model = custom(clip()).text if not options else TextTransformer(width=WIDTH, heads=2, layers=1, output_dim=JOINT, **options).eval()
    contexts = text(model).in_context(CAPTIONS, WORDS)
    given = moved(contexts.initial, 1)
    given[0, 3] = given[0, 0]
    found = contexts.embed(given)[0]
    with torch.no_grad():
        model.token_embedding.weight[tokenizer()([WORDS])[0, 1:5]] = given[0]
        expected = F.normalize(model(tokenizer()(CAPTIONS)), dim=-1)
    assert_near(found, expected)


def test_every_context_is_embedded_as_if_it_were_alone() -> None:
    contexts = text(clip()).in_context(CAPTIONS, WORDS)
    given = moved(contexts.initial)
    alone = torch.cat([contexts.embed(one[None]) for one in given])
    found = contexts.embed(given)
    assert_near(found, alone)
    assert (found[0] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize("rows", [1, 2, 4, 100])
def test_the_size_of_a_chunk_does_not_matter(rows: int) -> None:
    model = clip()
    given = moved(text(model).in_context(CAPTIONS, WORDS).initial)
    found = text(model, rows).in_context(CAPTIONS, WORDS).embed(given)
    assert_near(found, text(model).in_context(CAPTIONS, WORDS).embed(given))
    assert_near(text(model, rows).embed(CAPTIONS), text(model).embed(CAPTIONS))


@pytest.mark.parametrize(("rows", "expected"), [(2, [2, 1] * 3), (4, [3] * 3), (6, [6, 3])])
def test_no_forward_pass_has_more_rows_than_a_chunk(rows: int, expected: list[int]) -> None:
    model = clip()
    seen = Seen(model)
    contexts = text(model, rows).in_context(CAPTIONS, WORDS)
    contexts.embed(moved(contexts.initial))
    assert [shape[0] for shape in seen.shapes if shape[1] != 5] == expected


def test_positions_before_the_class_name_are_computed_once_per_context() -> None:
    model = clip()
    seen = Seen(model)
    contexts = text(model).in_context(CAPTIONS, WORDS)
    contexts.embed(moved(contexts.initial, 7))
    length = int(tokenizer()(CAPTIONS).argmax(dim=1).max()) + 1
    assert seen.shapes == [(7, 5, WIDTH), (7 * 3, length - 5, WIDTH)]


def test_answers_carry_no_graph_and_are_unit_vectors() -> None:
    contexts = text(clip()).in_context(CAPTIONS, WORDS)
    found = contexts.embed(moved(contexts.initial).requires_grad_())
    assert not found.requires_grad and not contexts.initial.requires_grad
    assert_near(found.norm(dim=-1), torch.ones(3, 3))


def test_a_hook_for_towers_that_are_not_trimmed_is_removed() -> None:
    tower = TextTransformer(width=WIDTH, heads=2, layers=1, output_dim=JOINT, pool_type="last").eval()
    contexts = text(tower).in_context(CAPTIONS, WORDS)
    contexts.embed(moved(contexts.initial))
    assert not tower.token_embedding._forward_hooks


def test_captions_that_do_not_share_the_words_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the prompt 'the cat' does not begin with the tokens of 'a photo of a', which all classes must share"
    ):
        text(clip()).in_context([*CAPTIONS, "the cat"], WORDS)


def test_no_words_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a prompt context needs words, got ''; write some before \{\} in the template"):
        text(clip()).in_context(CAPTIONS, "")


def test_a_tokenizer_without_a_start_token_is_refused() -> None:
    tower = TextTransformer(width=WIDTH, heads=2, layers=1, output_dim=JOINT, pool_type="last").eval()
    with pytest.raises(ConfigError, match=r"the text tower's tokenizer puts no start token before the words"):
        ClipText(tower, lambda captions: tokenizer()(captions)[:, 1:]).in_context(CAPTIONS, WORDS)


def test_a_tower_without_word_embeddings_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = nn.Linear(1, 1)

    with pytest.raises(ConfigError, match=r"the text tower \(Linear\) takes no word embeddings; choose a backbone with open_clip's own"):
        text(Model()).in_context(CAPTIONS, WORDS)


def test_the_mock_tower_answers_to_contexts() -> None:
    tower = tiny_backbone().text
    assert tower is not None
    contexts = tower.in_context(CAPTIONS, WORDS)
    given = moved(contexts.initial)
    assert_near(contexts.embed(contexts.initial[None])[0], F.normalize(tower.embed(CAPTIONS), dim=-1))
    assert contexts.embed(given).shape == (3, 3, 8)
    assert (contexts.embed(given)[0] - contexts.embed(given)[1]).abs().max() > 1e-2


def test_a_late_tower_is_built_once_when_it_is_asked_and_draws_from_no_ones_random_numbers() -> None:
    devices: list[torch.device] = []
    built: list[ClipText] = []

    class Noted(ClipText):
        def to(self, device: torch.device) -> None:
            devices.append(device)

    def build() -> ClipText:
        torch.rand(1)
        built.append(Noted(clip(), tokenizer()))
        return built[-1]

    late = LateText(build)
    late.to(torch.device("cpu"))
    assert not built
    state = torch.random.get_rng_state()
    first = late.embed(CAPTIONS)
    assert_near(late.in_context(CAPTIONS, WORDS).initial, built[0].in_context(CAPTIONS, WORDS).initial)
    assert_near(first, built[0].embed(CAPTIONS))
    late.to(torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), state) and len(built) == 1 and devices == [torch.device("cpu")] * 2
