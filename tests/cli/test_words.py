"""The grammar that all commands share: values are ``key=value`` words, names have no key, switches are options."""

from __future__ import annotations

from pathlib import Path

import pytest

from petlbench.cli import _LISTED, _with_words
from petlbench.cli.bench import grid_settings
from petlbench.cli.words import names_and_words, parse_words, read_seeds, split_words
from petlbench.errors import ConfigError
from tests.conftest import Call
from tests.words import resolve


def test_words_are_keys_and_texts() -> None:
    assert split_words(["out=a=b", "seed=010", "method.rank="]) == {"out": "a=b", "seed": "010", "method.rank": ""}


def test_of_a_repeated_key_the_last_word_counts() -> None:
    assert split_words(["seed=1", "seed=2"]) == {"seed": "2"}


@pytest.mark.parametrize("word", ["lora", "=3", "3=4", "a b=1", "-x=1", ".a=1"])
def test_a_word_of_another_form_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form key=value"):
        split_words([word])


def test_dots_are_nested() -> None:
    assert parse_words(["method=lora", "method.rank=4", "train.epochs=3"]) == {
        "method": {"name": "lora", "rank": "4"},
        "train": {"epochs": "3"},
    }


def test_names_stand_alone() -> None:
    assert names_and_words(["lora [rank=4]", "out=DIR", "./a=b"]) == (["lora [rank=4]", "./a=b"], {"out": "DIR"})


@pytest.mark.parametrize(("text", "seeds"), [("0", (0,)), ("0,1,2", (0, 1, 2)), ("[3, 4]", (3, 4)), ("1,1,0", (1, 0))])
def test_seeds_are_numbers(text: str, seeds: tuple[int, ...]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "all", "1.5", "0,,1", "1_0", "0x1", "9" * 5000, "[[1]]", "{"])
def test_seeds_of_another_form_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds must be whole numbers such as 0,1,2") as refused:
        read_seeds(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_words_of_a_grid_are_arguments_of_a_plan() -> None:
    found = grid_settings(("method=lora,vpt", "task=mini", "seeds=0,1", "method.rank=4"))
    assert found == {"methods": "lora,vpt", "tasks": "mini", "seeds": (0, 1), "settings": {"method.rank": "4"}}
    assert grid_settings(("seed=3",))["seeds"] == (3,) and grid_settings(())["seeds"] is None


def test_a_grid_takes_seed_or_seeds() -> None:
    with pytest.raises(ConfigError, match="seed and seeds name the same thing"):
        grid_settings(("seed=0", "seeds=0,1"))
    with pytest.raises(ConfigError, match="seeds must be whole numbers"):
        grid_settings(("seeds=",))


def test_options_of_scripts_are_words() -> None:
    assert _with_words(["merge", "a", "--out", "b"]) == ["merge", "a", "out=b"]
    assert _with_words(["table", "vpt", "--seeds=0,1", "--partial"]) == ["table", "vpt", "seeds=0,1", "--partial"]


@pytest.mark.parametrize("kind", _LISTED)
def test_a_kind_alone_is_short_for_ls(kind: str, call: Call) -> None:
    code, out, _ = call(kind, "--json")
    assert code == 0 and call("ls", kind, "--json") == (0, out, "")


def test_out_may_be_an_option(call: Call, tmp_path: Path) -> None:
    _, _, as_word = call("leaderboard", "out=none")
    assert call("leaderboard", "--out", "none")[2] == as_word and "none/records" in as_word


@pytest.mark.parametrize(
    "words",
    [
        ("run", "progress=false"),
        ("run", "reraise=true"),
        ("plan", "available=true"),
        ("bench", "methods=lora"),
        ("plan", "settings=1"),
    ],
)
def test_a_word_is_a_setting_and_no_argument_of_python(words: tuple[str, str], call: Call) -> None:
    code, out, err = call(words[0], "method=zero_shot", "task=mini/digits", words[1])
    assert (code, out) == (2, "") and err.startswith(f"petlbench: unknown key '{words[1].partition('=')[0]}'")


def test_an_unknown_command_offers_the_nearest(call: Call) -> None:
    assert "no command 'method'. Did you mean 'methods'?" in call("method")[2]
    assert "no command 'leaderbord'. Did you mean 'leaderboard'?" in call("leaderbord")[2]


def test_help_names_every_command_without_torch(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0 and all(f"  {command} " in out for command in ("run", "bench", "ls", "data", "new-method"))


@pytest.mark.parametrize(
    ("text", "seed"), [("010", 10), ("+1", 1), ("7", 7), ("1_000", None), ("0x10", None), ("1e3", None), ("\uff11", None)]
)
def test_seed_and_seeds_follow_one_rule(text: str, seed: int | None) -> None:
    """Digits of base ten, with a sign; leading zeros do not count."""
    run = ["method=linear", "task=mini/digits", f"seed={text}"]
    if seed is None:
        with pytest.raises(ConfigError, match="seed must be an int"):
            resolve(run)
        with pytest.raises(ConfigError, match="seeds must be whole numbers"):
            read_seeds(text)
    else:
        assert resolve(run).seed == seed
        assert read_seeds(text) == read_seeds(f"[{text}]") == grid_settings((f"seed={text}",))["seeds"] == (seed,)


@pytest.mark.parametrize("text", ["[0,1", "0,1]", "0,,1", "[[0]]", "", "-", "0-3"])
def test_seeds_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds must be whole numbers such as 0,1,2"):
        read_seeds(text)
