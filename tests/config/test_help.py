"""Every setting has help: the comment beside or above its field."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from petlbench.cli.run import settings_help
from petlbench.config.help import field_comments, section_help
from petlbench.config.settings import BackboneChoice, Budget, Execution, Numerics, Protocol, QueryConfig, Train
from petlbench.method import METHODS
from tests.conftest import Call
from tests.words import resolve

SECTIONS = (BackboneChoice, Budget, Execution, Numerics, Protocol, QueryConfig, Train)


@dataclass
class Inner:
    beside: int = 1  # help beside the field
    # help above the field,
    # on two lines
    above: str = "a"


@dataclass
class Outer(Inner):
    inner: Inner = dataclasses.field(default_factory=Inner)
    none: int = 0


def test_help_is_the_comment_beside_a_field_or_above_it() -> None:
    assert field_comments(Outer) == {"beside": "help beside the field", "above": "help above the field, on two lines"}


def test_the_help_of_a_section_lists_nested_fields_by_their_keys() -> None:
    keys = [row.key for row in section_help(Outer(), "method.")]
    assert keys == ["method.beside", "method.above", "method.inner.beside", "method.inner.above", "method.none"]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_help(section: Any) -> None:
    assert [row.key for row in section_help(section()) if not _is_readable(row.comment)] == []


@pytest.mark.parametrize("method", METHODS.names())
def test_every_setting_of_a_method_has_help(method: str) -> None:
    assert [row.key for row in section_help(METHODS.get(method).Config()) if not _is_readable(row.comment)] == []


def _is_readable(comment: str) -> bool:
    """True for a comment that says something, and does not continue that of another field."""
    return len(comment.split()) > 2 and "…" not in comment


def test_run_help_lists_the_settings_of_a_method_with_its_own_values(call: Call) -> None:
    code, out, _ = call("run", "--help", "method=lora", "method.rank=3", "task=vtab/svhn")
    assert code == 0 and "Settings of lora:" in out and "method=lora task=vtab/svhn" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "method.rank=3 r; parameters per matrix: r * (in + out)" in lines
    assert "train.batch_size=64 training images per batch" in lines
    assert any(line.startswith("protocol.train_on=train") and "(one of train, trainval)" in " ".join(lines) for line in lines)


def test_run_help_without_a_method_is_that_of_the_command(call: Call) -> None:
    code, out, _ = call("run", "--help")
    assert code == 0 and out.startswith("Usage:") and "petlbench run --help method=lora" in " ".join(out.split())


def test_a_mistake_in_the_words_beside_help_is_one_line(call: Call) -> None:
    code, out, err = call("run", "--help", "method=lroa")
    assert (code, out) == (2, "") and err.startswith("petlbench: no method 'lroa'. Did you mean 'lora'?") and err.count("\n") == 1


def test_a_method_without_settings_has_no_section_of_its_own() -> None:
    assert "Settings of" not in settings_help(resolve(["method=linear", "task=mini/digits"]))
