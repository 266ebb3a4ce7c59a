"""Apply weight decay to the right trainable parameters of every method."""

from __future__ import annotations

import pytest

from tests.methods.networks import configured, small, trainable, white_box

TOKENS = ("cls_token", "pos_embed")


@pytest.mark.parametrize("name", white_box())
def test_matrices_decay_and_vectors_tokens_and_positions_do_not(name: str) -> None:
    method, _ = configured(name)
    for parameter_name, parameter in trainable(small(name)).items():
        is_matrix = parameter.ndim > 1 and not parameter_name.endswith(TOKENS)
        assert method.decays(parameter_name, parameter) == is_matrix, parameter_name


@pytest.mark.parametrize("name", white_box())
def test_of_the_head_the_weights_decay_and_the_bias_does_not(name: str) -> None:
    method, _ = configured(name)
    head = {f"head.{part}": parameter for part, parameter in method.build_head(8, 3).named_parameters()}
    assert {part: method.decays(part, parameter) for part, parameter in head.items()} == {"head.weight": True, "head.bias": False}
