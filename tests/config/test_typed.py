"""Parse texts by the type of their field; refuse anything else in one line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.config.typed import COMMAND_LINE, Layer, Text, build, describe
from petlbench.errors import ConfigError
from tests.words import resolve


@dataclass
class Inner:
    step: float = 1.0
    repeats: int = 5


@dataclass
class Section:
    name: str = "a"
    count: int = 0
    limit: int | None = None
    rate: float = 0.5
    save: bool = False
    mode: Literal["last", "best"] = "last"
    targets: tuple[str, ...] = ("q",)
    sizes: tuple[int, ...] = (1,)
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(step=10.0))


FIELDS = [field.name for field in dataclasses.fields(Section) if field.name != "inner"]


def read(**texts: Any) -> Section:
    return build(Section, [Layer(COMMAND_LINE, {key: Text(text) if isinstance(text, str) else text for key, text in texts.items()})], "x.")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("name", "2024_01_15", "2024_01_15"),
        ("name", "010", "010"),
        ("name", "null", "null"),
        ("name", "yes", "yes"),
        ("name", "[a", "[a"),
        ("count", "010", 10),
        ("count", "-3", -3),
        ("limit", "null", None),
        ("limit", "", None),
        ("limit", "7", 7),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 1e-3),
        ("save", "True", True),
        ("mode", "best", "best"),
        ("targets", "[q,k]", ("q", "k")),
        ("targets", "[010, 'v']", ("010", "v")),
        ("targets", "[]", ()),
        ("targets", "[a#b, null, ~, 1:30, yes, 1e3]", ("a#b", "null", "~", "1:30", "yes", "1e3")),
        ("targets", '["q",k,]', ("q", "k")),
        ("sizes", "[1, 020]", (1, 20)),
        ("name", "~", "~"),
        ("name", "'a'", "'a'"),
        ("name", "a #b", "a #b"),
        ("name", "${oc.env:HOME}", "${oc.env:HOME}"),
        ("count", "+1", 1),
    ],
)
def test_a_text_is_read_by_the_type_of_its_field(field: str, text: str, value: object) -> None:
    found = getattr(read(**{field: text}), field)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("count", "eight", "x.count must be an int, got 'eight'"),
        ("count", "???", "x.count must be an int, got '???'"),
        ("count", "0x10", "x.count must be an int, got '0x10'"),
        ("count", "1:30", "x.count must be an int, got '1:30'"),
        ("count", "1_000", "x.count must be an int, got '1_000'"),
        ("count", "1.5", "x.count must be an int, got 1.5"),
        ("count", "\uff11", "x.count must be an int, got '\uff11'"),
        ("count", "1e3", "x.count must be an int, got 1000.0"),
        ("count", "9" * 5000, f"x.count must be an int, got '{'9' * 199}…"),
        ("rate", "1_0", "x.rate must be a number, got '1_0'"),
        ("rate", "\uff11.5", "x.rate must be a number, got '\uff11.5'"),
        ("rate", "1e400", "x.rate must be a finite number, got '1e400'"),
        ("targets", "[a,[b]]", "x.targets must be a list such as [a,b], got '[a,[b]]'"),
        ("targets", "[a,,b]", "x.targets must be a list such as [a,b], got '[a,,b]'"),
        ("sizes", "[1,1_0]", "x.sizes must be a list such as [a,b], got [1, '1_0']"),
        ("count", "null", "x.count must be an int, got None"),
        ("limit", "all", "x.limit must be an int or null, got 'all'"),
        ("rate", "inf", "x.rate must be a finite number, got 'inf'"),
        ("save", "1", "x.save must be true or false, got 1"),
        ("save", "yes", "x.save must be true or false, got 'yes'"),
        ("mode", "first", "x.mode must be one of last, best, got 'first'"),
        ("targets", "q", "x.targets must be a list such as [a,b], got 'q'"),
        ("name", "a\udc80", r"x.name must be text in UTF-8, got 'a\udc80'"),
        ("inner", "3", "x.inner is a section; set what is in it, such as x.inner.step=…, got 3"),
    ],
)
def test_another_text_is_refused_with_the_key_and_what_was_expected(field: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(**{field: text})
    assert str(refused.value) == f"{message} (command line)"


@pytest.mark.parametrize("text", ["9" * 30, "9" * 5000, "[" * 5000, "{" * 5000, "[" * 100 + "]" * 100, "\x00", "\ud800", "&a [*a]"])
@pytest.mark.parametrize("field", FIELDS)
def test_absurd_texts_are_read_or_refused_in_one_line(field: str, text: str) -> None:
    assert_read_or_refused(field, text)


@pytest.mark.parametrize("field", FIELDS)
def test_a_text_that_would_grow_without_end_is_not_expanded(field: str) -> None:
    """Nine lists of nine times the one before, as YAML could say it: 387 million items."""
    lists = [f"&{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)]
    assert_read_or_refused(field, f"[&a [{','.join('x' * 9)}],{','.join(lists)}]")


@given(
    st.sampled_from(FIELDS), st.text() | st.text(st.characters(categories=["Cs", "Nd"])) | st.from_regex(r"[\[\]{}:,\"'&*!0-9a-z_ -]{0,12}")
)
def test_every_text_is_read_or_refused_in_one_line(field: str, text: str) -> None:
    assert_read_or_refused(field, text)


def assert_read_or_refused(field: str, text: str) -> None:
    try:
        section = read(**{field: text})
    except ConfigError as refused:
        assert "\n" not in str(refused) and f"x.{field}" in str(refused)
        str(refused).encode()
    else:
        assert field != "name" or section.name == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_field_keeps_every_text(text: str) -> None:
    assert read(name=text).name == text


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_an_int_field_reads_every_int(number: int) -> None:
    assert read(count=str(number)).count == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_field_reads_every_number(number: float) -> None:
    assert read(rate=repr(number)).rate == number


def test_a_nested_section_keeps_the_defaults_of_its_field() -> None:
    """``Section`` has another default for ``inner.step`` than ``Inner`` itself."""
    assert read(inner={"repeats": Text("3")}).inner == Inner(step=10.0, repeats=3)
    assert resolve(["method=vp_spsa", "task=vtab/svhn", "method.spsa.repeats=2"]).method_config.spsa.step == 10.0


def test_a_key_below_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for depth in (1, 20_000):
        with pytest.raises(ConfigError) as refused:
            resolve(["method=lora", "task=mini/digits", "method.rank" + ".a" * depth + "=1"])
        assert "method" in str(refused.value) and "\n" not in str(refused.value)


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'x.cuont'. Did you mean 'count'\? Known: name, count, .* \(command line\)"):
        read(cuont="1")


@pytest.mark.parametrize(
    ("hint", "words"), [(int | None, "an int or null"), (tuple[str, ...], "a list such as [a,b]"), (bool, "true or false")]
)
def test_types_have_names(hint: Any, words: str) -> None:
    assert describe(hint) == words


def test_an_empty_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="out must name a folder"):
        resolve(["method=lora", "task=mini/digits", "out="])
