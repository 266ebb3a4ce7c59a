"""Parse a protocol's augment setting: one spelling for every meaning, one clear error for every mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.config.augment import (
    Crop,
    Flip,
    Greyscale,
    Jitter,
    Operation,
    RandomResizedCrop,
    Solarize,
    VerticalFlip,
    canonical,
    parse,
)
from petlbench.errors import ConfigError
from tests.words import resolve

SHARE = st.floats(0, 1)
WINDOW = st.one_of(
    st.just(Crop()),
    st.builds(RandomResizedCrop, st.floats(0, 0.5), st.floats(0.5, 1), st.floats(0.1, 1), st.floats(1, 9), st.sampled_from(["bilinear"])),
)
OTHER = st.one_of(
    *(st.builds(kind, SHARE) for kind in (Flip, VerticalFlip, Greyscale)),
    st.builds(Jitter, *[SHARE] * 3, st.floats(0, 0.5), SHARE),
    st.builds(Solarize, st.integers(0, 256), SHARE),
)


@given(st.none() | WINDOW, st.lists(OTHER, max_size=4))
def test_what_is_written_reads_as_the_same_operations(window: Operation | None, others: list[Operation]) -> None:
    operations = (*([window] if window else []), *others)
    assert parse(canonical(operations)) == operations


def test_an_operation_takes_its_parameters_by_place_and_by_name() -> None:
    assert parse("random_resized_crop(0.5, high=0.9, interpolation=nearest) + flip") == (
        RandomResizedCrop(0.5, 0.9, interpolation="nearest"),
        Flip(0.5),
    )


def test_what_equals_a_default_is_not_written() -> None:
    assert canonical(parse("random_resized_crop(0.5, 1.0) + jitter(hue=0.1, p=1.0) + flip(0.5)")) == (
        "random_resized_crop(low=0.5) + jitter(hue=0.1) + flip"
    )


@given(st.integers(0, 255), st.integers(0, 1))
def test_a_number_has_one_spelling(threshold: int, p: int) -> None:
    assert canonical(parse(f"solarize({threshold}.0, {p}.00)")) == canonical(parse(f"solarize({threshold}, {p})"))


@pytest.mark.parametrize("augment", ["crop+flip", " crop  + flip(p=0.5)", "crop() + flip(0.5)"])
def test_texts_of_one_meaning_give_one_protocol(augment: str) -> None:
    words = ["method=lora", "task=mini/digits"]
    assert resolve([*words, f"protocol.augment={augment}"]).identity == resolve([*words, "protocol.augment=crop + flip"]).identity


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ("crop_flip", r"protocol\.augment has no operation 'crop_flip'\. Did you mean 'flip'\? Known: crop, .*; join them with \+"),
        ("os.system", r"protocol\.augment has no operation 'os\.system'"),
        ("flip + crop", r"protocol\.augment takes one of crop, random_resized_crop, as its first operation, got 'flip \+ crop'"),
        ("flip(", r"protocol\.augment must be none or operations such as .*, got 'flip\('"),
        ("flip(2)", r"protocol\.augment flip\(2\): p must lie in \[0, 1\], got 2"),
        ("flip(True)", r"protocol\.augment flip\(True\): p must be a number from 0 to 1,000, got True"),
        ("jitter(1e999)", r"brightness must be a number from 0 to 1,000, got inf"),
        pytest.param(f"jitter({10**400})", r"brightness must be a number from 0 to 1,000, got 1000", id="huge"),
        pytest.param("+".join(["flip"] * 20_000), r"protocol\.augment must be none or operations such as .*, got 'flip\+f", id="long"),
        ("flip(q=1)", r"protocol\.augment flip\(q=1\): flip takes p"),
        ("crop(3)", r"protocol\.augment crop\(3\): crop takes no parameters"),
        ("flip(exit())", r"protocol\.augment flip\(exit\(\)\): exit\(\) is neither a number nor a word"),
        ("jitter(hue=0.6)", r"hue must lie in \[0, 0\.5\], got 0\.6"),
        ("random_resized_crop(0.9, 0.5)", r"low must be <= high and high > 0, got 0\.9 and 0\.5"),
        ("random_resized_crop(narrow=0)", r"narrow must be > 0 and <= wide, got 0 and 1\.33"),
        (
            "random_resized_crop(interpolation=cubic)",
            r"interpolation must be one of bicubic, bilinear, nearest, bilinear_aliased, got cubic",
        ),
    ],
)
def test_a_mistake_is_one_clear_error(augment: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        resolve(["method=lora", "task=mini/digits", f"protocol.augment={augment}"])
