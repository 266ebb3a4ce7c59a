"""Tokens appended to those of an image: the tower's output, their gradients, and no way from them to a weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.access.endpoint import Card
from petlbench.access.handle import QueryModel
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.families.open_clip import convert_tower
from petlbench.config.settings import Budget, QueryConfig
from petlbench.data.batches import TrainingData
from petlbench.errors import AccessError, BudgetExceeded
from petlbench.learners import open_learner
from petlbench.method import QueryMethod
from petlbench.testing.mocks import mock_task, tiny_backbone
from tests.asking import CPU, granted, images
from tests.near import assert_near
from tests.object_graph import of_the_graph, reachable

WIDTH = 32
KINDS: dict[str, dict[str, Any]] = {
    "supervised": {},
    "clip": {"pre_norm": True},
    "registers": {"reg_tokens": 2, "init_values": 0.1},
    "one block": {"depth": 1},
}


def tower(**options: Any) -> VisionTransformer:
    """Make a random tower, with noise on initial values (ones, zeros) that would hide a mistake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": WIDTH, "depth": 3, "num_heads": 4, "num_classes": 0, "global_pool": "token"}
        vit = VisionTransformer(**{**sizes, **options}).eval()
        with torch.no_grad():
            for parameter in vit.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return vit


def backbone_of(vit: nn.Module) -> Backbone:
    half = (0.5, 0.5, 0.5)
    return Backbone(Card("tower", 16, half, half, source="random"), vit, feature_width=WIDTH)


def tokens(images: int = 2, count: int = 3, seed: int = 5) -> Tensor:
    return torch.randn(images, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def by_hand(vit: VisionTransformer, images: Tensor, tokens: Tensor) -> Tensor:
    """Compute the class token (B, D) with every step of timm written out and all tokens in every block."""
    x = torch.cat([vit._pos_embed(vit.patch_embed(images)), tokens], dim=1)
    x = vit.norm_pre(x)
    for block in vit.blocks:
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))  # type: ignore[operator]
        x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # type: ignore[operator]
    return vit.norm(x)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_gradients_are_those_of_tokens_that_stand_last_before_the_first_norm(kind: str) -> None:
    vit, direction = tower(**KINDS[kind]), torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    results = []
    with granted(Access.GRADIENTS, backbone_of(tower(**KINDS[kind]))) as model:
        for answer in (partial(by_hand, vit), model.features):
            inputs = images().requires_grad_(True), tokens().requires_grad_(True)
            found = answer(*inputs)
            results.append((found.detach(), *torch.autograd.grad((found * direction).sum(), inputs)))
    for expected, found in zip(*results, strict=True):
        assert_near(found, expected)


def test_a_clip_of_open_clip_normalises_tokens_with_those_of_the_image() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = CLIPVisionCfg(layers=2, width=WIDTH, head_width=16, patch_size=8, image_size=16)
        model = CLIP(8, vision, CLIPTextCfg(context_length=4, vocab_size=9, width=8, heads=1, layers=1)).eval()
        nn.init.normal_(model.visual.ln_pre.weight)
        nn.init.normal_(model.visual.ln_pre.bias)
    hook = model.visual.ln_pre.register_forward_pre_hook(lambda _, x: (torch.cat([x[0], tokens()], dim=1),))
    with torch.no_grad():
        expected = model.visual(images())
    hook.remove()
    assert isinstance(model.visual, open_clip.transformer.VisionTransformer)
    with torch.no_grad():
        vit, projection = convert_tower(model)
    with granted(Access.GRADIENTS, backbone_of(vit)) as asked, torch.no_grad():
        assert_near(projection(asked.features(images(), tokens())), expected)


@settings(max_examples=15)
@given(order=st.permutations(range(4)))
def test_the_order_of_tokens_does_not_matter(order: list[int]) -> None:
    with granted(Access.GRADIENTS) as model:
        given_ = tokens(count=4)
        assert_near(model.scores(images(), given_[:, order]), model.scores(images(), given_))


def test_no_token_is_the_plain_model_and_one_is_not() -> None:
    with granted(Access.GRADIENTS) as model:
        plain = model.scores(images())
        assert_near(model.scores(images(), tokens(count=0)), plain)
        assert not torch.allclose(model.scores(images(), tokens(count=1)), plain, atol=1e-3)


@pytest.mark.parametrize("verb", ["scores", "features"])
def test_every_image_keeps_its_own_tokens_in_calls_of_any_size(verb: str) -> None:
    results = []
    for batch in (2, 256):
        with granted(Access.GRADIENTS, answers=QueryConfig(batch=batch)) as model:
            beside = tokens(5).requires_grad_(True)
            answer = getattr(model, verb)(images(5), beside)
            (answer * torch.arange(answer.numel()).view_as(answer)).sum().backward()
            results.append((answer.detach(), beside.grad))
    for found, expected in zip(*results, strict=True):
        assert_near(found, expected)


def test_where_no_gradient_is_wanted_passes_are_as_small_as_for_plain_images() -> None:
    backbone, sizes = tiny_backbone(), list[int]()
    backbone.vit.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with granted(Access.GRADIENTS, backbone) as model, torch.no_grad():
        model.scores(images(100))
        model.scores(images(100), tokens(100))
    assert sizes == [96, 4] * 2


@pytest.mark.parametrize("wanted", ["images", "tokens"])
def test_only_what_asks_for_a_gradient_gets_one(wanted: str) -> None:
    inputs = {"images": images(), "tokens": tokens()}
    inputs[wanted].requires_grad_(True)
    with granted(Access.GRADIENTS) as model:
        model.scores(**inputs).sum().backward()
    assert {name for name, given_ in inputs.items() if given_.grad is not None} == {wanted}


def test_tokens_make_use_of_the_rung_even_where_no_gradient_is_wanted() -> None:
    meter = Meter()
    with granted(Access.GRADIENTS, meter=meter) as model, torch.no_grad():
        answer = model.scores(images().requires_grad_(True), tokens())
    assert not answer.requires_grad
    assert meter.seen is Access.GRADIENTS


def test_tokens_count_in_bytes_and_an_answer_beyond_the_budget_is_not_asked_for() -> None:
    meter = Meter(Budget(images=2))
    with granted(Access.GRADIENTS, meter=meter) as model:
        before = meter.counts["train"]["bytes"]
        model.features(images(), tokens())
        with pytest.raises(BudgetExceeded, match="after 2 of 2 images"):
            model.features(images(), tokens())
    assert meter.counts["train"]["bytes"] - before == 4 * (2 * 3 * 16 * 16 + 2 * 3 * WIDTH)


@pytest.mark.parametrize("verb", ["scores", "features"])
def test_neither_an_answer_nor_its_graph_leads_to_the_model_and_no_weight_gets_a_gradient(verb: str) -> None:
    backbone = tiny_backbone()
    backbone.vit.requires_grad_(True)
    weights = {p.data_ptr() for part in (backbone.vit, backbone.projection) if part is not None for p in part.parameters()}
    with granted(Access.GRADIENTS, backbone) as model:
        answer = getattr(model, verb)(images(), tokens().requires_grad_(True))
        found = [*reachable(model), *reachable(answer), *of_the_graph(answer)]
        answer.sum().backward()
    assert not [thing for thing in found if isinstance(thing, (nn.Module, nn.Parameter, Backbone, Meter))]
    assert not [thing for thing in found if isinstance(thing, Tensor) and thing.data_ptr() in weights]
    assert all(p.grad is None for p in backbone.vit.parameters())


def test_the_graph_of_an_answer_ends_at_the_inputs() -> None:
    with granted(Access.GRADIENTS) as model:
        asked, beside = images().requires_grad_(True), tokens().requires_grad_(True)
        answer = model.features(asked, beside)
    waiting, leaves = [answer.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is not None:
            leaves += [node.variable] if hasattr(node, "variable") else []
            waiting += [following for following, _ in node.next_functions]
    assert {leaf.data_ptr() for leaf in leaves} == {asked.data_ptr(), beside.data_ptr()}


def test_a_forward_pass_that_fails_leaves_no_token_in_the_tower() -> None:
    backbone = tiny_backbone()
    with granted(Access.GRADIENTS, backbone) as model:
        plain = model.scores(images())
        last = backbone.vit.blocks[-1]  # type: ignore[index, union-attr]
        broken = last.mlp.register_forward_pre_hook(lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            model.scores(images(), tokens())
        broken.remove()
        assert torch.equal(model.scores(images()), plain)


def test_a_caller_in_another_number_format_gets_float32_and_its_gradient() -> None:
    backbone, beside = tiny_backbone(), tokens().requires_grad_(True)
    with granted(Access.GRADIENTS, backbone, number_format="bf16") as model:
        answer = model.features(images(), beside)
        answer.sum().backward()
    assert answer.dtype is torch.float32 and beside.grad is not None and bool(beside.grad.isfinite().all())
    with granted(Access.GRADIENTS, backbone) as model:
        assert_near(answer, model.features(images(), beside), 0.05, "bf16 keeps three digits of what every layer computes")


def test_a_model_without_text_gives_features_and_says_that_it_scores_nothing() -> None:
    with granted(Access.GRADIENTS, tiny_backbone(with_text=False)) as model:
        assert not model.has_text
        assert model.features(images(), tokens()).shape == (2, WIDTH)
        with pytest.raises(AccessError, match="tiny has no text tower"):
            model.scores(images(), tokens())


@pytest.mark.parametrize("rung", [Access.SCORES, Access.CONTEXT, Access.FEATURES])
def test_tokens_are_for_gradients_only(rung: Access) -> None:
    with granted(rung) as model:
        ask = model.features if rung is Access.FEATURES else model.scores
        with pytest.raises(AccessError, match=f"tokens need access GRADIENTS, the method declares {rung.name}"):
            ask(images(), tokens())


@pytest.mark.parametrize("shape", [(2, WIDTH), (2, 3, WIDTH - 1), (1, 3, WIDTH)])
def test_tokens_of_another_shape_are_refused_before_they_are_paid(shape: tuple[int, ...]) -> None:
    meter = Meter()
    with granted(Access.GRADIENTS, meter=meter) as model:
        assert model.token_width == WIDTH
        with pytest.raises(ValueError, match=r"tokens must have shape \(2, K, 32\), got"):
            model.scores(images(), torch.zeros(shape))
    assert meter.counts["train"]["calls"] == 0


@pytest.mark.parametrize("vit", [tower(global_pool="avg"), nn.Sequential(nn.Flatten(), nn.Linear(768, WIDTH))], ids=["mean", "other"])
def test_a_tower_that_has_no_place_for_tokens_takes_none(vit: nn.Module) -> None:
    with granted(Access.GRADIENTS, backbone_of(vit)) as model:
        assert model.token_width is None
        assert model.features(images()).shape == (2, WIDTH)
        with pytest.raises(AccessError, match="tower takes no extra tokens"):
            model.features(images(), tokens())


@pytest.mark.parametrize("makes_do", [True, False])
def test_a_method_that_makes_do_with_features_is_let_in_where_nothing_is_scored(makes_do: bool) -> None:
    class Reading(QueryMethod):
        name, access, requires_class_scores = "reading", Access.GRADIENTS, not makes_do

        def fit(self, model: QueryModel, data: TrainingData) -> None: ...

        def predict(self, model: QueryModel, images: Tensor) -> Tensor:
            return model.features(images)

    opened = open_learner(Reading(None), tiny_backbone(with_text=False), mock_task().spec, CPU, "fp32", Meter())
    if makes_do:
        with opened as learner:
            assert learner.images_forwarded() == 0
    else:
        with pytest.raises(AccessError, match="method reading needs class scores, but tiny has no text tower"), opened:
            pass
