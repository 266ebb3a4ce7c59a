"""Learned pixels: where they are added, their flat order, how they start, and losses under many of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import ConfigError
from petlbench.nn import visual_prompts
from petlbench.nn.visual_prompts import Border, Patch, RandomPatch, focal_losses, losses_under, scaled
from tests.near import assert_near

S = 16
IMAGES = torch.randn(3, 3, S, S, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2, 1])


def scores(images: Tensor) -> Tensor:
    """Score images (N, 3, S, S) as (N, 4)."""
    return F.adaptive_avg_pool2d(images.square(), 2)[:, 0].flatten(1)


def frames(count: int) -> Tensor:
    return torch.randn(count, 3, S, S, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("size", "width", "count"), [(224, 30, 69_840), (32, 4, 1_344)])
def test_a_border_has_the_published_number_of_scalars(size: int, width: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in Border(size, width).parameters()) == count


@pytest.mark.parametrize(("pixels", "size", "expected"), [(30, 224, 30), (30, 32, 4), (30, 16, 2), (97, 32, 14)])
def test_published_lengths_scale_with_the_input(pixels: int, size: int, expected: int) -> None:
    assert scaled(pixels, size) == expected


@given(st.integers(4, 20), st.data())
def test_a_border_changes_every_pixel_of_the_frame_and_none_of_the_middle(size: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, (size - 1) // 2))
    changed = Border(size, width)(torch.zeros(2, 3, size, size)) != 0
    middle = slice(width, size - width)
    assert not changed[..., middle, middle].any()
    assert int((~changed).sum()) == 2 * 3 * (size - 2 * width) ** 2


def test_a_flat_border_goes_up_down_left_right() -> None:
    lengths = (3 * 2 * S, 3 * 2 * S, 3 * (S - 4) * 2, 3 * (S - 4) * 2)
    flat = torch.cat([torch.full((length,), float(place)) for place, length in enumerate(lengths, 1)])
    frame = Border(S, 2).frames(flat[None])[0, 0]
    assert [frame[0, 5], frame[-1, 5], frame[5, 0], frame[5, -1]] == [1, 2, 3, 4]
    assert [frame[0, 0], frame[-1, -1]] == [1, 2], "corners belong to the upper and the lower strip"


def test_a_border_is_its_parameters_in_the_order_of_its_flat_form() -> None:
    border = Border(S, 3)
    flat = nn.utils.parameters_to_vector(border.parameters())
    assert torch.equal(border(IMAGES), IMAGES + border.frames(flat[None]))


def test_nothing_is_clipped() -> None:
    border = Border(S, 3, spread=100.0)
    assert border(IMAGES).abs().max() > 100


@pytest.mark.parametrize("spread", [0.0, 1.0, 0.1])
def test_a_prompt_starts_with_the_spread_that_is_asked_for(spread: float) -> None:
    for prompt in (Border(64, 8, spread), Patch(64, 30, spread), RandomPatch(64, 30, 0, spread)):
        values = nn.utils.parameters_to_vector(prompt.parameters())
        assert values.std().item() == pytest.approx(spread, rel=0.1)


def test_a_fixed_patch_lies_in_the_upper_left_corner() -> None:
    patch = Patch(S, 5)
    difference = patch(IMAGES) - IMAGES
    assert_near(difference[:, :, :5, :5], patch.patch.expand(3, -1, -1, -1))
    assert difference[:, :, 5:].abs().sum() == difference[:, :, :, 5:].abs().sum() == 0


def patch_positions(patch: RandomPatch, count: int) -> list[tuple[int, int]]:
    """Return the position of the patch in each of ``count`` batches."""
    found = []
    for _ in range(count):
        hit = (patch(torch.zeros(2, 3, S, S))[:, 0] != 0).nonzero()
        found.append((int(hit[:, 1].min()), int(hit[:, 2].min())))
    return found


def test_a_random_patch_reaches_every_place_but_the_last_row_and_column() -> None:
    found = patch_positions(RandomPatch(S, 12, 0), 200)
    assert set(found) == {(row, column) for row in range(4) for column in range(4)}


def test_a_random_patch_moves_in_evaluation_and_every_evaluation_alike() -> None:
    patch = RandomPatch(S, 4, 0)
    first = patch_positions(patch.eval(), 5)
    training = patch_positions(patch.train(), 5)
    assert len(set(first)) > 1
    assert patch_positions(patch.eval(), 5) == first
    assert patch_positions(patch.train(), 5) != training, "an evaluation does not turn training back"


@pytest.mark.parametrize(("kind", "size", "width"), [(Border, 16, 8), (Border, 16, 0), (Patch, 16, 16)])
def test_a_prompt_that_does_not_fit_is_refused(kind: type[nn.Module], size: int, width: int) -> None:
    with pytest.raises(ConfigError, match=rf"method\.width must be 1 to .* on an input of 16, got {width}"):
        kind(size, width)


def test_losses_under_frames_are_those_of_each_frame_alone() -> None:
    expected = torch.stack([F.cross_entropy(scores(IMAGES + frame), LABELS) for frame in frames(4)])
    assert_near(losses_under(frames(4), IMAGES, LABELS, scores), expected)


@pytest.mark.parametrize(("images_at_once", "calls"), [(100, [12]), (6, [6, 6]), (7, [6, 6]), (1, [3, 3, 3, 3])])
def test_all_frames_are_asked_about_at_once_unless_memory_forbids(
    monkeypatch: pytest.MonkeyPatch, images_at_once: int, calls: list[int]
) -> None:
    monkeypatch.setattr(visual_prompts, "CALL_BYTES", images_at_once * IMAGES[0].nbytes)
    seen: list[int] = []
    losses = losses_under(frames(4), IMAGES, LABELS, lambda images: seen.append(len(images)) or scores(images))
    assert seen == calls
    assert_near(losses[3], F.cross_entropy(scores(IMAGES + frames(4)[3]), LABELS))


def test_the_focal_loss_is_weighted_by_how_wrong_an_answer_is() -> None:
    logits = torch.tensor([[2.0, 0.0], [-1.0, 0.5]])
    p = logits.softmax(dim=1)[[0, 1], [0, 0]]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    assert_near(focal_losses(logits[None], torch.tensor([0, 0]), 2.0), expected[None])


def test_the_focal_loss_without_focus_is_the_cross_entropy() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3))
    expected = torch.stack([F.cross_entropy(part, LABELS) for part in logits])
    assert_near(focal_losses(logits, LABELS, 0.0), expected)
