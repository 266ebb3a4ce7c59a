"""The network that mixes prompts: sizes, mixing, resolution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from petlbench.errors import ConfigError
from petlbench.methods.pgn.generator import SPREAD, FixedPrompts, Generator, Library, ResNet10, mix, resized, resnet18_of
from tests.near import assert_near

IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def generator(mixing: str = "softmax", rank: int | None = None, resolution: int = 32) -> Generator:
    torch.manual_seed(0)
    return Generator(ResNet10(4 * 6, channels=4, groups=3, max_pool=False), Library(6, 8, rank), 4, mixing, resolution)  # type: ignore[arg-type]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("size", "width", "total"), [(256, 768, 1_032_304), (128, 768, 669_808), (128, 384, 620_656)])
def test_generator_and_library_have_the_sizes_of_the_released_files(size: int, width: int, total: int) -> None:
    whole = Generator(ResNet10(16 * size), Library(size, width), 16, "softmax", 224)
    assert count(whole) == total
    assert len(whole.state_dict()) == 63


def test_the_trunk_has_the_published_resolutions_at_224_pixels() -> None:
    sides: list[int] = []
    network = ResNet10(8)
    for part in (network.input_net, *network.blocks):
        part.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    network(torch.zeros(2, 3, 224, 224))
    assert sides == [56, 56, 28, 14, 7]


def test_blocks_behind_the_first_of_a_group_keep_the_resolution() -> None:
    blocks = ResNet10(8, channels=4, groups=2, blocks_per_group=2).blocks
    assert [block.downsample is not None for block in blocks] == [False, False, True, False]


def test_coefficients_of_softmax_sum_to_one() -> None:
    coefficients, prompts = generator()(IMAGES)
    assert (coefficients.shape, prompts.shape) == ((5, 4, 6), (5, 4, 8))
    assert_near(coefficients.sum(dim=-1), torch.ones(5, 4))


def test_coefficients_of_sigmoid_need_not_sum_to_one() -> None:
    coefficients, _ = generator("sigmoid")(IMAGES)
    assert coefficients.min() > 0 and coefficients.max() < 1
    assert (coefficients.sum(dim=-1) - 1).abs().min() > 0.1


def test_prompts_differ_between_images_and_fixed_prompts_do_not() -> None:
    assert generator().eval()(IMAGES)[1].std(dim=0).min() > 0
    assert FixedPrompts(4, 8)(IMAGES).std(dim=0).max() == 0


def test_running_statistics_are_gathered_in_training_only() -> None:
    network = generator()
    before = network.network.input_net[1].running_mean.clone()  # type: ignore[index, union-attr]
    network.eval()(IMAGES)
    assert torch.equal(network.network.input_net[1].running_mean, before)  # type: ignore[index, union-attr]
    network.train()(IMAGES)
    assert not torch.equal(network.network.input_net[1].running_mean, before)  # type: ignore[index, union-attr]


def test_a_single_image_to_train_on_says_what_to_do_where_there_is_one_position_left() -> None:
    whole = Generator(ResNet10(24), Library(6, 8), 4, "softmax", 32)
    with pytest.raises(ConfigError, match=r"a batch of one image has no statistics .*; set train\.drop_last=true"):
        whole(IMAGES[:1])
    whole.eval()(IMAGES[:1])


def test_a_factorised_library_is_one_of_its_rank() -> None:
    library = Library(32, 24, rank=3)
    assert count(library) == 3 * (32 + 24)
    assert library().shape == (32, 24) and torch.linalg.matrix_rank(library()) == 3


@pytest.mark.parametrize("rank", [None, 8])
def test_a_library_starts_with_the_released_spread(rank: int | None) -> None:
    torch.manual_seed(0)
    assert Library(256, 768, rank)().std().item() == pytest.approx(SPREAD, rel=0.1)


def test_patches_are_mixed_as_tokens_are() -> None:
    coefficients = torch.rand(2, 4, 6)
    patches = torch.randn(6, 3, 2, 2)
    mixed = mix(coefficients, patches)
    assert mixed.shape == (2, 4, 3, 2, 2)
    assert_near(mixed.flatten(2), mix(coefficients, patches.flatten(1)))


@given(st.integers(4, 40), st.integers(4, 40), st.integers(2, 40))
def test_the_shorter_side_gets_the_resolution_and_the_aspect_is_kept(height: int, width: int, side: int) -> None:
    small = resized(torch.zeros(1, 3, height, width), side)
    assert min(small.shape[-2:]) == side
    assert max(small.shape[-2:]) == int(side * max(height, width) / min(height, width))


def test_images_of_the_resolution_are_not_touched() -> None:
    assert resized(IMAGES, 32) is IMAGES


def test_the_other_network_gives_as_many_outputs() -> None:
    assert resnet18_of(24)(IMAGES).shape == (5, 24)


def test_images_reach_the_network_in_one_memory_layout() -> None:
    """Torch 2.13's convolutions of four channels corrupt the heap in channels-last."""
    whole, layouts = generator(), list[bool]()
    whole.network.register_forward_pre_hook(lambda _, inputs: layouts.append(inputs[0].is_contiguous()))
    whole(IMAGES.contiguous(memory_format=torch.channels_last))
    assert layouts == [True]
